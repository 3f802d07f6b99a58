"""Checkpoints: damage is noticed whatever bit it hits, and a kill during a deletion stops nobody."""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from finetune_jax.errors import UserError
from finetune_jax.files import checkpoints, digests
from finetune_jax.files.checkpoints import Checkpoints

SEED = 20260727


def tree(number: int) -> dict:
    rng = np.random.default_rng(number)
    return {
        "params": {name: {"kernel": rng.normal(size=(30, 20)).astype(np.float32)} for name in ("a", "b")},
        "batch_stats": {"a": {"mean": rng.normal(size=7).astype(np.float32)}},
    }


def save(
    directory: Path, *numbers: int, scores: tuple[float | None, ...] = (), keep_all: bool = False
) -> None:
    saver = Checkpoints(directory, writable=True, keep_all=keep_all)
    for number, score in zip(numbers, scores or [None] * len(numbers), strict=True):
        saver.save(number, {"variables": tree(number)}, {"number": number, "mean": [0.485, 1.0]}, score=score)
    saver.close()


def read(directory: Path, number: int) -> tuple[dict, dict]:
    return (
        checkpoints.restore_variables(directory, number, tree(0)),
        checkpoints.read_meta(directory, number),
    )


def as_bytes(read_back: tuple[dict, dict]) -> tuple[list[bytes], dict]:
    return [leaf.tobytes() for leaf in jax.tree.leaves(read_back[0])], read_back[1]


def test_no_flipped_bit_is_read_as_other_weights_or_facts(tmp_path: Path) -> None:
    save(tmp_path / "whole", 7, scores=(0.5,))
    whole = as_bytes(read(tmp_path / "whole", 7))
    # The larger part of the flips goes where the arrays and facts are; most files are tiny markers.
    files = sorted(path for path in (tmp_path / "whole" / "7").rglob("*") if path.is_file())
    sizes = np.array([file.stat().st_size for file in files], float)
    rng = np.random.default_rng(SEED)
    refused = 0
    for _ in range(120):
        file = files[rng.choice(len(files), p=sizes / sizes.sum())]
        content = bytearray(file.read_bytes())
        position = int(rng.integers(8 * len(content)))
        content[position // 8] ^= 1 << position % 8
        original, _ = file.read_bytes(), file.write_bytes(content)
        try:
            assert as_bytes(read(tmp_path / "whole", 7)) == whole, f"bit {position} of {file}"
        except UserError as error:
            refused += len(str(error)) < 1000
        file.write_bytes(original)
    assert refused > 60


@pytest.mark.parametrize("entry", ["digest", "digests", "number"])
def test_every_entry_of_the_metadata_is_covered(tmp_path: Path, entry: str) -> None:
    save(tmp_path, 7)
    file = tmp_path / "7" / "meta" / "metadata"
    file.write_text(file.read_text().replace(f'"{entry}"', f'"{entry[:-1]}u"'))
    with pytest.raises(UserError, match="its metadata is not what was saved"):
        checkpoints.read_meta(tmp_path, 7)


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    save(tmp_path, 7)
    meta = checkpoints._whole_meta(tmp_path, 7)
    damaged = tree(7)
    damaged["params"]["b"]["kernel"][3, 4] += 1e-6
    with pytest.raises(ValueError, match="params/b/kernel is not what was saved"):
        digests.check_tree(damaged, meta["digests"]["variables"])


def test_a_checkpoint_of_a_version_without_digests_is_read(tmp_path: Path) -> None:
    save(tmp_path, 7)
    file = tmp_path / "7" / "meta" / "metadata"
    file.write_text('{"number": 7, "score": null}')
    assert as_bytes((read(tmp_path, 7)[0], {}))[0] == as_bytes((tree(7), {}))[0]


def test_dtype_shape_and_every_byte_make_the_digest() -> None:
    arrays = [
        np.zeros(4, np.float32),
        np.zeros(4, np.int32),
        np.zeros((2, 2), np.float32),
        np.array([0.0, -0.0, 0.0, 0.0], np.float32),
        np.zeros((0, 4), np.float32),
        np.float32(0.0),
    ]
    assert len({digests.of_array(array) for array in arrays}) == len(arrays)
    strided = np.arange(12.0).reshape(3, 4)
    assert digests.of_array(strided.T) == digests.of_array(np.ascontiguousarray(strided.T))


@pytest.mark.parametrize("left", ["variables", "meta", "_CHECKPOINT_METADATA", ""])
def test_a_step_of_which_a_kill_left_a_part_is_no_step(tmp_path: Path, left: str) -> None:
    save(tmp_path, 3, 5, scores=(0.9, 0.1))
    for entry in (tmp_path / "3").iterdir():
        if entry.name != left:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert checkpoints.whole_steps(tmp_path) == [5]
    assert checkpoints.best_step(tmp_path) == 5
    save(tmp_path, 8, scores=(0.2,))
    assert sorted(os.listdir(tmp_path)) == ["8"]


def test_a_kill_during_a_deletion_leaves_no_half_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(path: Path, **_: object) -> None:
        (path / "_CHECKPOINT_METADATA").unlink()
        raise Killed

    save(tmp_path, 1, 2, keep_all=True)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            checkpoints._delete(tmp_path / "1")
    assert checkpoints.whole_steps(tmp_path) == [2]
    save(tmp_path, 3)
    assert sorted(os.listdir(tmp_path)) == ["3"]


@pytest.mark.parametrize("name", ["²", "٣", "07", "-1", "x", "12345678901234567890x"])
def test_a_folder_with_another_name_is_no_step(tmp_path: Path, name: str) -> None:
    save(tmp_path, 7)
    shutil.copytree(tmp_path / "7", tmp_path / name)
    assert checkpoints.whole_steps(tmp_path) == [7]


def test_the_advice_names_the_checkpoint_there_is(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, keep_all=True)
    (tmp_path / "2" / "meta" / "metadata").write_text("{")
    with pytest.raises(UserError, match=r"delete its folder to go on from the one before, of step 1$"):
        checkpoints.read_meta(tmp_path, 2)
    shutil.rmtree(tmp_path / "1")
    with pytest.raises(UserError, match="there is no other one: bring it back from a copy"):
        checkpoints.read_meta(tmp_path, 2)


def test_a_deleted_run_directory_is_named_as_the_cause(tmp_path: Path) -> None:
    saver = Checkpoints(tmp_path / "run" / "checkpoints", writable=True)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match="run is no longer there: it was deleted or moved") as caught:
        saver.save(1, {"variables": tree(1)}, {}, score=None)
    assert "room" not in str(caught.value)
    saver.close()
