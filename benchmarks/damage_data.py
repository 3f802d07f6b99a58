"""Kinds of data sets of which ``benchmarks.damage`` feeds damaged copies: tables, tar shards, records."""

import atexit
import functools
import hashlib
import importlib.util
import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.damage_target import Target

_COUNT = 12


def _picture(number: int) -> bytes:
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@functools.cache
def _photos() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="damage-photos-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for number in range(_COUNT):
        (folder / f"{number}.png").write_bytes(_picture(number))
    return folder


def _rows() -> list[tuple[str, str, str, str]]:
    """Image, label, split and weight of each row of a table."""
    splits = ("train", "train", "train", "validation", "test", "test")
    return [(f"{n}.png", ("cat", "dog")[n // 6], splits[n % 6], f"{1 + n / 10:g}") for n in range(_COUNT)]


def _write_csv(path: Path) -> None:
    path.write_text("\n".join(",".join(row) for row in [("image", "label", "split", "weight"), *_rows()]))


def _write_parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = dict(
        zip(("image", "label", "split", "weight"), map(list, zip(*_rows(), strict=True)), strict=True)
    )
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for number in range(_COUNT):
            label = ("cat", "dog")[number // 6].encode()
            for name, content in ((f"{number:02d}.png", _picture(number)), (f"{number:02d}.cls", label)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _write_array_record(path: Path) -> None:
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for number in range(_COUNT):
        example = tf_example_pb2.Example()
        example.features.feature["image/encoded"].bytes_list.value.append(_picture(number))
        example.features.feature["label"].int64_list.value.append(number // 6)
        writer.write(example.SerializeToString())
    writer.close()


def _write_data_set(path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {
        "image": [{"bytes": _picture(number), "path": None} for number in range(_COUNT)],
        "label": [number // 6 for number in range(_COUNT)],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(path))


def _read(kind: str, path: Path) -> Any:
    from finetune_jax.data import sources

    root = str(_photos()) if kind == "csv" else ""
    source = sources.load(f"{kind}:{path}", image_root=root, test_fraction=0.3, validation_fraction=0.3)
    splits = {
        name: (examples.labels.tolist(), [_digest(examples.read(index)) for index in range(len(examples))])
        for name, examples in source.splits.items()
    }
    return source.class_names, splits


def _digest(image: Any) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


TARGETS = [
    Target("table.csv", _write_csv, functools.partial(_read, "csv")),
    Target("table.parquet", _write_parquet, functools.partial(_read, "csv")),
    Target("photos.tar", _write_tar, functools.partial(_read, "webdataset")),
    Target("photos.array_record", _write_array_record, functools.partial(_read, "arrayrecord")),
]
if importlib.util.find_spec("datasets"):
    TARGETS.append(Target("data_set", _write_data_set, functools.partial(_read, "hf")))
