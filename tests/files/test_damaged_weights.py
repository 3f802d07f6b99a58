"""Files that hold something else, are cut short or damaged: refused in one sentence."""

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from torch_containers import (
    FLOATS,
    GOLDEN,
    MAGIC,
    SYSTEM,
    integer,
    mapping,
    program,
    several,
    storage,
    tensor,
    vector,
    write_legacy,
    write_zip,
)

from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write


def _compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program(mapping(weight=vector(2**20))))
        archive.writestr("archive/data/0", bytes(2**22))


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())


def _huge_header(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weight.npy", npy)


def _zip_of(path: Path, member: str, content: bytes, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(member, content)


@pytest.mark.parametrize(
    ("filename", "make", "reason"),
    [
        ("absent.pth", lambda p: None, "does not exist"),
        ("folder.pth", lambda p: p.mkdir(), "is a directory"),
        ("notes.txt", lambda p: p.write_text("hello"), "no known suffix"),
        ("nosuffix", lambda p: p.write_bytes(FLOATS), "no known suffix"),
        *[
            (f"empty{suffix}", lambda p: p.write_bytes(b""), "is empty")
            for suffix in (".pth", ".npz", ".safetensors")
        ],
        *[
            (f"page{suffix}", lambda p: p.write_text("\n <!DOCTYPE html><html>Not found"), "is a web page")
            for suffix in (".pth", ".npz", ".safetensors")
        ],
        ("pointer.bin", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
        ("noise.pth", lambda p: p.write_bytes(b"\x01\x02\x03" * 99), "not a file of torch.save"),
        ("noise2.pth", lambda p: p.write_bytes(b"\x80" * 99), "damaged"),
        ("noise.npz", lambda p: p.write_bytes(b"\x01\x02\x03" * 99), "no intact .npz"),
        ("noise.safetensors", lambda p: p.write_bytes(b"\x01\x02\x03" * 99), "no intact safetensors"),
        ("old.pth", _tar, "tar archive"),
        ("plain.pth", lambda p: p.write_bytes(pickle.dumps({"weight": 1})), "not one of torch.save"),
        ("arrays.pth", lambda p: _zip_of(p, "a.npy", FLOATS), "not one of torch.save"),
        ("torch.npz", lambda p: write_zip(p, program(several(1)), {"0": FLOATS}), "not one of NumPy arrays"),
        ("packed.pth", _compressed, "compressed"),
        (
            "order.pth",
            lambda p: write_zip(p, program(several(1)), {}, ("archive/byteorder", b"?")),
            "damaged",
        ),
        ("number.pth", lambda p: write_zip(p, program(integer(1)), {}), "no dict of tensors"),
        ("bare.pth", lambda p: write_zip(p, program(vector(12)), {"0": FLOATS}), "no dict of tensors"),
        ("nothing.pth", lambda p: write_zip(p, program(b"}"), {}), "no dict of tensors"),
        ("nothing.npz", lambda p: zipfile.ZipFile(p, "w").close(), "holds no arrays"),
        ("nothing.safetensors", lambda p: p.write_bytes(safetensors.numpy.save({})), "holds no arrays"),
        ("version.pth", lambda p: p.write_bytes(MAGIC + program(integer(7)) + SYSTEM), "unknown version"),
        (
            "long.npz",
            lambda p: np.savez(p, a=np.zeros(1, [(f"f{i}", "f4") for i in range(2000)])),
            "Header info",
        ),
        ("objects.npz", lambda p: np.savez(p, a=np.array([{}], object)), "no intact .npz"),
        ("words.npz", lambda p: np.savez(p, a=np.array(["x"])), "holds 'a' as <U1"),
        ("brain.npz", lambda p: np.savez(p, a=np.ones(2, ml_dtypes.bfloat16)), "holds 'a' as"),
        ("header.npz", _huge_header, "(no intact .npz|more memory)"),
        ("bomb.npz", lambda p: _zip_of(p, "a.npy", bytes(2**27), zipfile.ZIP_DEFLATED), "absurdly"),
        ("lzma.npz", lambda p: _zip_of(p, "a.npy", b"x", zipfile.ZIP_LZMA), "numpy.savez"),
        (
            "eight.safetensors",
            lambda p: p.write_bytes(safetensors.numpy.save({"a": np.ones(4, ml_dtypes.float8_e4m3fn)})),
            "holds 'a' as F8_E4M3",
        ),
    ],
)
def test_other_files_are_refused_in_one_sentence(
    tmp_path: Path, filename: str, make: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / filename
    make(path)
    with pytest.raises(UserError, match=reason) as caught:
        read_write.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} ")
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("filename", "reason"),
    [("whole_module.pth", "torch.nn.modules.linear.Linear"), ("torchscript.pt", "TorchScript")],
)
def test_pickled_modules_and_programs_of_torch_are_refused(filename: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_write.read(GOLDEN / filename)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same few arrays in every format, by suffix; `_legacy.pth` is the old container."""
    folder = tmp_path_factory.mktemp("intact")
    arrays = {"a": np.arange(5, dtype=np.float32), "b": np.ones((2, 3), np.int64)}
    for suffix in (".npz", ".safetensors"):
        read_write.write(folder / f"model{suffix}", arrays)
    model = mapping(a=vector(5), b=tensor(storage("1", 6), 0, (2, 3), (3, 1)))
    momentum = vector(3, "2")  # read by nobody, but its loss means that the file is cut short
    tree = program(mapping(model=model, optimizer=mapping(state=momentum, param_groups=b"]")))
    storages = {"0": FLOATS[:20], "1": FLOATS[:24], "2": FLOATS[:12]}
    write_zip(folder / "model.pth", tree, storages)
    write_legacy(folder / "model_legacy.pth", tree, storages)
    suffixes = (".npz", ".safetensors", ".pth", "_legacy.pth")
    return {suffix: (folder / f"model{suffix}").read_bytes() for suffix in suffixes}


FORMATS = [".npz", ".safetensors", ".pth", "_legacy.pth"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_truncation_is_noticed(tmp_path: Path, intact: dict[str, bytes], suffix: str) -> None:
    path = tmp_path / f"short{suffix}"
    path.write_bytes(intact[suffix])
    read_write.read(path)
    for length in range(len(intact[suffix])):
        path.write_bytes(intact[suffix][:length])
        with pytest.raises(UserError):
            read_write.read(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_damage_never_raises_anything_but_user_errors(
    tmp_path: Path, intact: dict[str, bytes], suffix: str
) -> None:
    path = tmp_path / f"damaged{suffix}"
    random = np.random.default_rng(0)
    refusals = 0
    for trial in range(400):
        damaged = np.frombuffer(intact[suffix], np.uint8).copy()
        places = random.integers(len(damaged), size=1 + trial % 3)
        damaged[places] = random.integers(256, size=len(places))
        path.write_bytes(damaged.tobytes())
        try:
            read_write.read(path)
        except UserError:
            refusals += 1
    assert refusals > 30
