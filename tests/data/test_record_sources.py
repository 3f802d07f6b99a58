"""Tar shards, ArrayRecord files and data sets of the library ``datasets``: the images that were put in come out."""

import json

import pytest
from folders import SPLITS, assert_partition, colour, picture, write_tar

from finetune_jax.data import sources
from finetune_jax.errors import UserError

KINDS = ("cat", "dog")
COUNT = 24


def sample(number: int, label: str = "cls") -> dict[str, bytes]:
    kind = KINDS[number % 2]
    content = json.dumps({"label": kind}) if label == "json" else kind + "\n"
    return {f"{number:04d}.png": picture(number), f"{number:04d}.{label}": content.encode()}


def assert_read(source: sources.Source) -> None:
    """Every image is there once, of its class and its colour; its place among the made pictures tells its number."""
    assert source.class_names == KINDS
    assert_partition(source, COUNT)
    colours = {colour(number): number for number in range(COUNT)}
    found = []
    for split in SPLITS:
        examples = source.splits[split]
        for index in range(len(examples)):
            image = examples.read(index)
            number = colours[tuple(image[0, 0].tolist())]
            assert examples.labels[index] == number % 2
            assert examples.encoded(index) == picture(number)
            found.append(number)
    assert sorted(found) == list(range(COUNT))


def test_tar_shards_are_read_in_place_and_in_any_order(tmp_path):
    for shard in range(3):
        numbers = range(shard, COUNT, 3)
        files = {
            name: content
            for n in numbers
            for name, content in sample(n, ("cls", "txt", "json")[shard]).items()
        }
        write_tar(tmp_path / f"photos-{shard:06d}.tar", files)
    source = sources.load(f"webdataset:{tmp_path}", cache_dir=tmp_path / "cache")
    assert_read(source)
    again = sources.load(f"webdataset:{tmp_path}/photos-*.tar", cache_dir=tmp_path / "cache")
    assert again.fingerprint == source.fingerprint


def test_the_name_of_a_shard_or_of_its_folder_says_its_split(tmp_path):
    write_tar(tmp_path / "a-train-00.tar", {**sample(0), **sample(1), **sample(2), **sample(3)})
    write_tar(tmp_path / "a-val-00.tar", {**sample(4), **sample(5)})
    write_tar(tmp_path / "test" / "00.tar", {**sample(6), **sample(7)})
    splits = sources.load(f"webdataset:{tmp_path}").splits
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }


def test_shards_that_cannot_be_used_are_told_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"there is no \.tar file"):
        sources.load(f"webdataset:{tmp_path}")
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"no plain \.tar file"):
        sources.load(f"webdataset:{tmp_path}/x.tar.gz")
    (tmp_path / "x.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(UserError, match=r"the shard x\.tar is damaged"):
        sources.load(f"webdataset:{tmp_path}")
    write_tar(tmp_path / "x.tar", {**sample(0), "0001.png": picture(1)})
    with pytest.raises(UserError, match=r"1 of 2 images in x\.tar have no label, e\.g\. 0001"):
        sources.load(f"webdataset:{tmp_path}")


def test_array_records_of_examples_are_read(tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    from tensorflow_datasets.proto import tf_example_pb2

    def write(name: str, numbers: range, image: str = "image/encoded") -> None:
        writer = module.ArrayRecordWriter(str(tmp_path / name), "group_size:1")
        for number in numbers:
            example = tf_example_pb2.Example()
            example.features.feature[image].bytes_list.value.append(picture(number))
            example.features.feature["label_name"].bytes_list.value.append(KINDS[number % 2].encode())
            writer.write(example.SerializeToString())
        writer.close()

    write("a-00000-of-00002.array_record", range(10))
    write("a-00001-of-00002.array_record", range(10, COUNT))
    assert_read(sources.load(f"arrayrecord:{tmp_path}", cache_dir=tmp_path / "cache"))
    write("b.array_record", range(2), image="pixels")
    with pytest.raises(
        UserError, match=r"record 0 of train is no tf\.train\.Example .* features label_name, pixels"
    ):
        sources.load(f"arrayrecord:{tmp_path / 'b.array_record'}")


def test_saved_data_sets_of_the_library_are_read_with_their_classes(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=list(KINDS)),
            "note": datasets.Value("string"),
        }
    )
    rows = {
        "picture": [{"bytes": picture(number), "path": None} for number in range(COUNT)],
        "kind": [number % 2 for number in range(COUNT)],
        "note": ["x"] * COUNT,
    }
    whole = datasets.Dataset.from_dict(rows, features=features)
    whole.save_to_disk(str(tmp_path / "whole"))
    assert_read(sources.load(f"hf:{tmp_path / 'whole'}", cache_dir=tmp_path / "cache"))
    parts = datasets.DatasetDict({"train": whole.select(range(20)), "test": whole.select(range(20, COUNT))})
    parts.save_to_disk(str(tmp_path / "parts"))
    loaded = sources.load(f"hf:{tmp_path / 'parts'}")
    assert len(loaded.splits["test"]) == 4
    whole.remove_columns("kind").save_to_disk(str(tmp_path / "without"))
    with pytest.raises(UserError, match="needs a column of images and one of classes, but has picture, note"):
        sources.load(f"hf:{tmp_path / 'without'}")


def test_without_the_library_its_extra_is_named(tmp_path):
    try:
        import datasets  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r'pip install "finetune-jax\[datasets\]"'):
            sources.load("hf:beans")
    else:
        with pytest.raises(UserError, match="cannot be opened"):
            sources.load(f"hf:{tmp_path}")
