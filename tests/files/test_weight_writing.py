"""Weights that are written: read back bit for bit, whole or not at all."""

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch_containers import assert_same_state

from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write

WRITABLE_DTYPES = ["?", "u1", "i1", "<u2", ">i2", "<u4", "i4", "<u8", ">i8", "f2", "<f4", ">f4", "f8", "c8"]
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12).filter(
    lambda name: name != "__metadata__" and not name.startswith(("module.", "_orig_mod."))
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    state=st.dictionaries(
        NAMES,
        st.sampled_from(WRITABLE_DTYPES).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
        ),
        min_size=1,
        max_size=4,
    ),
    transpose=st.booleans(),
    suffix=st.sampled_from([".npz", ".safetensors"]),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, np.ndarray], transpose: bool, suffix: str
) -> None:
    if transpose:
        state = {name: array.T[..., ::-1] if array.ndim else array for name, array in state.items()}
    path = tmp_path_factory.getbasetemp() / f"state{suffix}"
    read_write.write(path, state)
    actual = read_write.read(path)
    expected = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in state.items()}
    assert_same_state({name: actual[name] for name in expected}, expected)
    assert len(actual) == len(expected)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_awkward_names_survive(tmp_path: Path, suffix: str) -> None:
    names = [
        "file",
        "allow_pickle",
        "a",
        "a.npy",
        "params/block_01/kernel",
        "back\\slash",
        "../up",
        "größe",
        "",
    ]
    state = {name: np.full(1, index) for index, name in enumerate(names)}
    read_write.write(tmp_path / f"state{suffix}", state)
    actual = read_write.read(tmp_path / f"state{suffix}")
    assert {name: int(array[0]) for name, array in actual.items()} == dict(zip(names, range(9), strict=True))


def test_numpy_and_safetensors_read_what_is_written(tmp_path: Path) -> None:
    state = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array(True)}
    for suffix, load in ((".npz", np.load), (".safetensors", safetensors.numpy.load_file)):
        read_write.write(tmp_path / f"state{suffix}", state)
        loaded = load(tmp_path / f"state{suffix}")
        assert sorted(loaded) == ["a", "b"]
        for name, array in state.items():
            np.testing.assert_array_equal(loaded[name], array, strict=True)


def test_npz_files_of_numpy_are_read(tmp_path: Path) -> None:
    state = {"weight": np.arange(6, dtype=">f4").reshape(2, 3), "bias": np.asfortranarray(np.eye(2))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "state.npz", **state)
        expected = {"weight": state["weight"].astype(np.float32), "bias": np.eye(2)}
        assert_same_state(read_write.read(tmp_path / "state.npz"), expected)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_bfloat16_is_written_as_float32(tmp_path: Path, suffix: str) -> None:
    read_write.write(tmp_path / f"state{suffix}", {"a": np.array([1.5, -2.0], ml_dtypes.bfloat16)})
    expected = {"a": np.array([1.5, -2.0], np.float32)}
    assert_same_state(read_write.read(tmp_path / f"state{suffix}"), expected)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_the_same_state_gives_the_same_bytes(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{index}{suffix}" for index in range(2)]
    for path, now in zip(paths, (1e9, 1.5e9), strict=True):
        monkeypatch.setattr("time.time", lambda now=now: now)
        read_write.write(path, {"a": np.ones(3)})
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"state{suffix}"
    read_write.write(path, {"a": np.ones(3)})

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(UserError, match="No space left"):
            read_write.write(path, {"a": np.zeros(3)})
    assert read_write.read(path)["a"].tolist() == [1.0, 1.0, 1.0]
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_reader_of_the_old_file_is_not_disturbed_by_a_write(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"state{suffix}"
    read_write.write(path, {"a": np.ones(3)})
    old = path.read_bytes()
    with path.open("rb") as reader:
        read_write.write(path, {"a": np.zeros(3)})
        assert reader.read() == old
    assert read_write.read(path)["a"].tolist() == [0.0, 0.0, 0.0]


def test_unwritable_places_and_formats_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"state\.pth: weights are written to"):
        read_write.write(tmp_path / "state.pth", {"a": np.ones(3)})
    with pytest.raises(UserError, match="cannot be written"):
        read_write.write(tmp_path / "absent" / "state.npz", {"a": np.ones(3)})


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({}, "empty state"),
        ({"a": np.array([{}], object)}, "'a' has dtype object"),
        ({"a": np.array(["x"])}, "'a' has dtype <U1"),
        ({"a": np.ones(1, np.complex128)}, "complex128"),
        ({"a": np.ones(1, np.longdouble)}, "longdouble|float128"),
        ({"__metadata__": np.ones(1)}, "__metadata__"),
        ({"a\0b": np.ones(1)}, "cannot be the name"),
        ({"\ud800": np.ones(1)}, "cannot be the name"),
        ({3: np.ones(1)}, "3 cannot be the name"),
    ],
)
def test_states_that_no_file_can_hold_are_value_errors(tmp_path: Path, state: dict, reason: str) -> None:
    for suffix in (".npz", ".safetensors"):
        with pytest.raises(ValueError, match=reason):
            read_write.write(tmp_path / f"state{suffix}", state)
    assert not os.listdir(tmp_path)
