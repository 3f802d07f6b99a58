"""A small assembler for pickles and the two containers of torch, independent of the reader."""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

from finetune_jax.files.weight_files import read_write

GOLDEN = Path(__file__).parents[1] / "golden" / "torch_files"


def assert_same_state(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Same names in the same order, dtypes, shapes and bits (so that -0.0 and NaN count)."""
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert isinstance(actual[name], np.ndarray), name
        assert actual[name].dtype == array.dtype, name
        assert actual[name].shape == array.shape, name
        assert actual[name].tobytes() == array.tobytes(), name


CONTAINERS = ["zip", "legacy"]


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def name(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def items(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + items(*arguments) + b"R"


def mapping(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def storage(key: str, numel: int, kind: str = "torch.FloatStorage", *view: bytes) -> bytes:
    return items(text("storage"), name(kind), text(key), text("cpu"), integer(numel), *view) + b"Q"


def tensor(stored: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    return call(
        name("torch._utils._rebuild_tensor_v2"),
        stored,
        integer(offset),
        items(*map(integer, size)),
        items(*map(integer, stride)),
        b"\x89",
        call(name("collections.OrderedDict")),
    )


def vector(values: int, key: str = "0") -> bytes:
    return tensor(storage(key, values), 0, (values,), (1,))


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def write_zip(path: Path, tree: bytes, storages: dict[str, bytes], *extra: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tree)
        for member, content in extra:
            archive.writestr(member, content)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")
    return path


MAGIC = program(integer(0x1950A86A20F9469CFC6C))
SYSTEM = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}, 2)


def write_legacy(
    path: Path,
    tree: bytes,
    storages: dict[str, bytes],
    *,
    item_size: int = 4,
    magic: bytes = MAGIC,
    system: bytes = SYSTEM,
    keys: bytes | None = None,
) -> Path:
    parts = [magic, program(integer(1001)), system, tree, keys or pickle.dumps(list(storages), 2)]
    for content in storages.values():
        parts += [struct.pack("<q", len(content) // item_size), content]
    path.write_bytes(b"".join(parts))
    return path


def write_torch(container: str, path: Path, tree: bytes, storages: dict[str, bytes]) -> Path:
    return (write_zip if container == "zip" else write_legacy)(path, tree, storages)


FLOATS = np.arange(12, dtype="<f4").tobytes()


def read_tree(tmp_path: Path, body: bytes) -> dict[str, np.ndarray]:
    return read_write.read(write_zip(tmp_path / "checkpoint.pth", program(body), {"0": FLOATS}))


def several(count: int, prefix: str = "w") -> bytes:
    return mapping(**{f"{prefix}{index}": vector(12) for index in range(count)})
