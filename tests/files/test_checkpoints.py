"""Checkpoints: which stay, what comes back bit by bit, and what a full disk or a damaged file leads to."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from child_processes import SECONDS

from finetune_jax.algorithms import optimizers
from finetune_jax.errors import UserError
from finetune_jax.files import checkpoints
from finetune_jax.files.checkpoints import Checkpoints
from finetune_jax.training import saving
from finetune_jax.training.state import TrainState, create_state

# Values that a careless way through text, compression or "equal to the fill value" would change.
DELICATE = np.array([-0.0, 0.0, 1e-42, -1e-45, np.inf, -np.inf, 1 / 3, 16777217.0], np.float32)


def make_state(number: int) -> TrainState:
    """A state after ``number`` steps: two parts, one of them frozen, random optimiser slots, on the host."""
    rng = np.random.default_rng(number)

    def part() -> dict[str, np.ndarray]:
        # Big enough (6 KB) for a data file of its own.
        return {"kernel": rng.normal(size=(40, 40)).astype(np.float32), "bias": rng.permutation(DELICATE)}

    variables = {
        "params": {"block_01": part(), "head": part()},
        "batch_stats": {"block_01": {"mean": rng.permutation(DELICATE)}, "head": {}},
    }
    optimizer = optimizers.per_block_sgd({"head": None}, {"head": 0.1})
    state = jax.device_get(create_state(variables, ("head",), optimizer, key=jax.random.key(number)))

    def scramble(leaf: np.ndarray) -> np.ndarray:
        if leaf.dtype.kind == "f":
            return rng.normal(size=leaf.shape).astype(leaf.dtype)
        return rng.integers(0, 2**31, leaf.shape).astype(leaf.dtype)

    return state.replace(
        step=np.asarray(number, np.int32),
        opt_state=jax.tree.map(scramble, state.opt_state),
        totals=jax.tree.map(scramble, state.totals),
    )


def assert_identical(actual: TrainState, expected: TrainState) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, want), got in zip(paths, jax.tree.leaves(actual), strict=True):
        name = jax.tree_util.keystr(path)
        assert (got.dtype, got.shape) == (want.dtype, want.shape), name
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes(), name


def save_all(directory: Path, scores: list[float | None]) -> list[int]:
    """Save steps 1, 2, … with these scores; the steps that are then there."""
    saver = Checkpoints(directory, writable=True)
    for number, score in enumerate(scores, 1):
        saving.save_state(saver, make_state(number), {"number": number}, score=score)
    saver.close()
    return sorted(int(entry.name) for entry in directory.iterdir())


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond ``size`` bytes, much as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- which checkpoints stay -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "kept", "best"),
    [
        ([0.1, 0.9, 0.3, None], [2, 4], 2),
        ([0.1, 0.9], [2], 2),
        ([0.5, 0.5, 0.2], [2, 3], 2),
        ([0.5, 0.5], [2], 2),
        ([0.9, None, None], [1, 3], 1),
        ([-2.0, -3.0, -4.0], [1, 3], 1),
        ([None, None], [2], None),
        ([], [], None),
    ],
)
def test_the_latest_and_the_best_stay_and_of_equals_the_later(
    tmp_path: Path, scores: list[float | None], kept: list[int], best: int | None
) -> None:
    directory = tmp_path / "checkpoints"
    assert save_all(directory, scores) == kept
    assert checkpoints.latest_step(directory) == (kept[-1] if kept else None)
    assert checkpoints.best_step(directory) == best


def test_the_best_stays_also_when_another_process_goes_on(tmp_path: Path) -> None:
    assert save_all(tmp_path, [0.1, 0.9, 0.3]) == [2, 3]
    saver = Checkpoints(tmp_path, writable=True)
    saving.save_state(saver, make_state(4), {}, score=0.2)
    saving.save_state(saver, make_state(5), {}, score=None)
    saver.close()
    assert sorted(os.listdir(tmp_path)) == ["2", "5"]
    assert_identical(saving.restore_state(tmp_path, 2, make_state(0)), make_state(2))


def test_a_kill_before_the_old_ones_go_changes_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    save_all(directory, [0.5])
    shutil.copytree(directory / "1", tmp_path / "old")
    save_all(directory, [None, 0.5])
    shutil.copytree(tmp_path / "old", directory / "1")
    assert checkpoints.best_step(directory) == checkpoints.latest_step(directory) == 2
    saver = Checkpoints(directory, writable=True)
    saving.save_state(saver, make_state(3), {}, score=0.1)
    saver.close()
    assert sorted(os.listdir(directory)) == ["2", "3"]


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoints.latest_step(tmp_path / "absent") is None
    assert checkpoints.best_step(tmp_path / "absent") is None


def test_a_step_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    saver = Checkpoints(tmp_path, writable=True)
    saving.save_state(saver, make_state(3), {"take": 1}, score=0.5)
    saving.save_state(saver, make_state(3), {"take": 2}, score=0.9)
    saver.close()
    assert checkpoints.read_meta(tmp_path, 3) == {"take": 1, "score": 0.5}


def test_an_older_step_is_a_programming_error_and_not_silently_dropped(tmp_path: Path) -> None:
    saver = Checkpoints(tmp_path, writable=True)
    saving.save_state(saver, make_state(3), {}, score=None)
    with pytest.raises(ValueError, match="step 2 comes after a checkpoint of step 3"):
        saving.save_state(saver, make_state(2), {}, score=None)
    saver.close()


def test_a_checkpoint_cut_short_is_ignored_and_cleaned_up(tmp_path: Path) -> None:
    save_all(tmp_path, [0.5])
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    assert checkpoints.latest_step(tmp_path) == 1
    assert checkpoints.best_step(tmp_path) == 1
    saver = Checkpoints(tmp_path, writable=True)
    saving.save_state(saver, make_state(3), {}, score=0.9)
    saver.close()
    assert os.listdir(tmp_path) == ["3"]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    saver = Checkpoints(directory, writable=False)
    saving.save_state(saver, make_state(1), {}, score=0.5)
    saver.close()
    assert not directory.exists()


# --- what comes back ------------------------------------------------------------------------------------


def test_the_whole_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    state = make_state(7)
    meta = {"nested": {"list": [1, 2.5, "ü", None, True]}, "best_epoch": -1}
    saver = Checkpoints(tmp_path, writable=True)
    saving.save_state(saver, state, meta, score=None)
    saver.close()
    assert_identical(saving.restore_state(tmp_path, 7, make_state(0)), state)
    assert checkpoints.read_meta(tmp_path, 7) == meta | {"score": None}
    variables = checkpoints.restore_variables(tmp_path, 7, make_state(0).variables)
    np.testing.assert_array_equal(variables["params"]["block_01"]["bias"], state.frozen["block_01"]["bias"])


def test_donating_the_state_during_the_save_does_not_change_what_is_saved(tmp_path: Path) -> None:
    # 16 MB, so that the save is still under way when the next steps overwrite the buffers.
    big = {"w": jnp.arange(4_000_000, dtype=jnp.float32)}
    base = make_state(0)
    advance = jax.jit(
        lambda state: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), state), donate_argnums=(0,)
    )
    state = jax.tree.map(jnp.asarray, base.replace(params=big, totals={}))
    saver = Checkpoints(tmp_path, writable=True)
    for _ in range(3):
        state = advance(state)
        saving.save_state(saver, state, {}, score=float(state.step))
    last = int(state.step)
    for _ in range(5):
        state = advance(state)
    saver.close()
    assert os.listdir(tmp_path) == [str(last)]
    like = base.replace(params={"w": np.zeros(4_000_000, np.float32)}, totals={})
    restored = saving.restore_state(tmp_path, last, like)
    np.testing.assert_array_equal(
        restored.params["w"], np.arange(4_000_000, dtype=np.float32) + np.float32(last)
    )


# --- damaged and foreign checkpoints --------------------------------------------------------------------


def test_damage_to_any_file_is_one_sentence_or_harmless(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    saver = Checkpoints(whole, writable=True)
    saving.save_state(saver, make_state(7), {"x": 1}, score=0.5)
    saver.close()
    files = sorted(path.relative_to(whole) for path in (whole / "7").rglob("*") if path.is_file())
    refused = {}
    for number, file in enumerate(files):
        for damage in ("deleted", "cut"):
            directory = tmp_path / f"{number}{damage}"
            shutil.copytree(whole, directory)
            if damage == "deleted":
                (directory / file).unlink()
            else:
                os.truncate(directory / file, (directory / file).stat().st_size // 2)
            try:
                state = saving.restore_state(directory, 7, make_state(0))
                meta = checkpoints.read_meta(directory, 7)
            except UserError as error:
                refused[file.parts[1], damage] = str(error).replace(str(directory), "…")
            else:
                assert_identical(state, make_state(7))
                assert meta == {"x": 1, "score": 0.5}
    for item in ("variables", "training", "meta"):
        for damage in ("deleted", "cut"):
            message = refused[item, damage]
            assert message.startswith("checkpoint …/7 cannot be read (")
            assert message.endswith(
                "there is no other one: bring it back from a copy, or choose another --workdir"
            )
            assert len(message.splitlines()) == 1
            assert "tensorstore_spec" not in message


def test_damage_prints_no_traceback(tmp_path: Path) -> None:
    # Many arrays: what is left of their reading after the first error has a way of showing up on stderr.
    parts = {f"p{number}": np.zeros(3, np.float32) for number in range(200)}
    saver = Checkpoints(tmp_path, writable=True)
    saving.save_state(saver, make_state(1).replace(params=parts, frozen={}, batch_stats={}), {}, score=None)
    saver.close()
    for file in (tmp_path / "1" / "variables" / "d").iterdir():
        os.truncate(file, 10)
    # In a process of its own: pytest has its own ideas of what a thread may print.
    program = (
        "import sys, pathlib, numpy as np\n"
        "from finetune_jax import errors\nfrom finetune_jax.files import checkpoints\n"
        "like = {'params': {f'p{i}': np.zeros(3, np.float32) for i in range(200)}, 'batch_stats': {}}\n"
        "try:\n"
        "    checkpoints.restore_variables(pathlib.Path(sys.argv[1]), 1, like)\n"
        "except errors.UserError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    assert run.stdout.startswith(f"checkpoint {tmp_path / '1'} cannot be read (OUT_OF_RANGE")
    assert len(run.stdout.splitlines()) == 1
    assert run.stderr == ""


def test_the_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    save_all(tmp_path, [0.5])
    like = make_state(0)
    head = like.params["head"]
    others = {
        r"params.head.kernel has shape \(40, 40\) instead of \(40, 41\)": like.replace(
            params={"head": {**head, "kernel": np.zeros((40, 41), np.float32)}}
        ),
        r"params.block_02": like.replace(frozen={**like.frozen, "block_02": like.frozen["block_01"]}),
        r"params.block_01": like.replace(frozen={}),
    }
    for reason, other in others.items():
        with pytest.raises(UserError, match=rf"/1 cannot be read \(.*{reason}\)"):
            saving.restore_state(tmp_path, 1, other)


# --- failing to write -----------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"could not be opened \(Not a directory\); none was written before"):
        Checkpoints(tmp_path / "file" / "checkpoints", writable=True)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EROFS, "make the directory writable"),
        (errno.EMFILE, "this process has too many files open"),
        (errno.EIO, "mend this"),
    ],
)
def test_a_full_disk_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    saver = Checkpoints(tmp_path, writable=True)
    saving.save_state(saver, make_state(1), {}, score=0.5)

    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", full)
    message = rf"could not be written \({os.strerror(code)}\); the one of step 1 is intact; {advice}"
    with pytest.raises(UserError, match=message):
        saving.save_state(saver, make_state(2), {}, score=0.9)
    saver.close()
    assert os.listdir(tmp_path) == ["1"]
    assert_identical(saving.restore_state(tmp_path, 1, make_state(0)), make_state(1))


def test_a_file_system_that_cannot_reserve_space_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert save_all(tmp_path, [0.5]) == [1]


@pytest.mark.parametrize("noticed_by", ["close", "save"])
def test_a_failure_in_the_background_is_told_once_and_harms_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    noticed_by: str,
) -> None:
    save_all(tmp_path, [0.5])
    saver = Checkpoints(tmp_path, writable=True)
    monkeypatch.setattr(checkpoints, "_reserve", lambda *_: None)  # the disk fills up after the look
    message = r"could not be written \(.*; the one of step 1 is intact; make room"
    with largest_file(2000):
        saving.save_state(saver, make_state(2), {}, score=0.9)
        with pytest.raises(UserError, match=message):
            saving.save_state(saver, make_state(3), {}, score=0.9) if noticed_by == "save" else saver.close()
    saver.close()
    assert caplog.records == []
    assert checkpoints.latest_step(tmp_path) == checkpoints.best_step(tmp_path) == 1
    assert_identical(saving.restore_state(tmp_path, 1, make_state(0)), make_state(1))
    again = Checkpoints(tmp_path, writable=True)
    saving.save_state(again, make_state(2), {}, score=0.9)
    again.close()
    assert os.listdir(tmp_path) == ["2"]
    assert_identical(saving.restore_state(tmp_path, 2, make_state(0)), make_state(2))
