"""Several classes and numbers as labels of records: tar shards, ArrayRecord files, the library ``datasets``, TFDS."""

import io
import json
from typing import Any

import numpy as np
import pytest
from folders import colour, picture, write_tar

from finetune_jax.data import record_labels, sources
from finetune_jax.data.record_labels import Wanted
from finetune_jax.errors import UserError

COUNT = 30
TAGS = [
    [tag for tag, every in (("even", 2), ("third", 3), ("fifth", 5)) if n % every == 0] for n in range(COUNT)
]
SIZES = [n / 4 for n in range(COUNT)]
NAMES = ("even", "fifth", "third")
ROWS = np.array([[name in tags for name in NAMES] for tags in TAGS], np.float32)


def assert_labels(source: sources.Source, expected: np.ndarray) -> None:
    """Every image has its own row; the made pictures tell which they are."""
    numbers = {colour(n): n for n in range(COUNT)}
    found = []
    for examples in source.splits.values():
        for index in range(len(examples)):
            number = numbers[tuple(examples.read(index)[0, 0].tolist())]
            np.testing.assert_array_equal(examples.targets[index], expected[number])
            found.append(number)
    assert sorted(found) == list(range(COUNT))


def test_lists_and_numbers_of_tar_shards(tmp_path):
    files: dict[str, bytes] = {}
    for n in range(COUNT):
        fields = {"tags": TAGS[n], "size": SIZES[n], "x": n, "y": 2 * n}
        files |= {f"{n:03d}.png": picture(n), f"{n:03d}.json": json.dumps(fields).encode()}
        files[f"{n:03d}.txt"] = ("|".join(TAGS[n]) or "none").encode()
    write_tar(tmp_path / "photos.tar", files)
    dataset = f"webdataset:{tmp_path}"
    told = sources.load(dataset, columns=["label=tags"])
    assert (told.task, told.class_names) == ("multilabel", NAMES)
    assert_labels(told, ROWS)
    by_text = sources.load(dataset, columns=["label=txt"], task="multilabel")
    assert by_text.class_names == ("even", "fifth", "none", "third")
    size = sources.load(dataset, columns=["label=size"])
    assert (size.task, size.class_names) == ("regression", ("size",))
    assert_labels(size, np.float32(SIZES)[:, None])
    point = sources.load(dataset, columns=["label=x", "label=y"])
    assert (point.task, point.class_names) == ("regression", ("x", "y"))
    assert_labels(point, np.array([[n, 2 * n] for n in range(COUNT)], np.float32))
    with pytest.raises(UserError, match="--columns=label=weight is in no file of its name"):
        sources.load(dataset, columns=["label=weight"])
    with pytest.raises(UserError, match="image 0 of train has 3 labels, and --task=classification takes one"):
        sources.load(dataset, columns=["label=tags"], task="classification")
    with pytest.raises(UserError, match=r"other roles are for tables"):
        sources.load(dataset, columns=["split=txt"])


def test_lists_and_numbers_of_array_records(tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    from tensorflow_datasets.proto import tf_example_pb2

    writer = module.ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    for n in range(COUNT):
        example = tf_example_pb2.Example()
        features = example.features.feature
        features["jpg"].bytes_list.value.append(picture(n))
        features["tags"].bytes_list.value.extend(tag.encode() for tag in TAGS[n])
        features["size"].float_list.value.append(SIZES[n])
        writer.write(example.SerializeToString())
    writer.close()
    dataset = f"arrayrecord:{tmp_path}"
    told = sources.load(dataset, columns=["image=jpg", "label=tags"])
    assert (told.task, told.class_names) == ("multilabel", NAMES)
    assert_labels(told, ROWS)
    size = sources.load(dataset, columns=["label=size"])
    assert size.task == "regression"
    assert_labels(size, np.float32(SIZES)[:, None])


def test_lists_and_numbers_of_the_library_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    lists = datasets.Sequence(datasets.ClassLabel(names=list(NAMES)))
    features = datasets.Features(
        {"photo": datasets.Image(), "tags": lists, "size": datasets.Value("float32")}
    )
    rows = {
        "photo": [{"bytes": picture(n), "path": None} for n in range(COUNT)],
        "tags": [[NAMES.index(tag) for tag in tags] for tags in TAGS],
        "size": SIZES,
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    told = sources.load(f"hf:{tmp_path / 'saved'}")
    assert (told.task, told.class_names) == ("multilabel", NAMES)
    assert_labels(told, ROWS)
    size = sources.load(f"hf:{tmp_path / 'saved'}", columns=["label=size"])
    assert size.task == "regression"
    assert_labels(size, np.float32(SIZES)[:, None])
    with pytest.raises(UserError, match="has no column weight, only photo, tags, size"):
        sources.load(f"hf:{tmp_path / 'saved'}", columns=["label=weight"])


def test_lists_and_numbers_of_tfds(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Tagged(tfds.core.GeneratorBasedBuilder):
        __module__ = "tagged"  # TFDS asks the package of a builder for its files; this one has none
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            kind = tfds.features.ClassLabel(names=list(NAMES))
            features = {
                "image": tfds.features.Image(),
                "size": tfds.features.Scalar(np.float32),
                "labels": tfds.features.Sequence(kind),
                "objects": tfds.features.Sequence({"kind": kind, "place": tfds.features.Scalar(np.int64)}),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for n in range(COUNT):
                objects = [{"kind": tag, "place": place} for tag in TAGS[n] for place in range(2)]
                yield (
                    n,
                    {
                        "image": io.BytesIO(picture(n)),
                        "size": np.float32(SIZES[n]),
                        "labels": TAGS[n],
                        "objects": objects,
                    },
                )

    Tagged(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    for columns in ([], ["label=objects/kind"]):
        told = sources.load("tfds:tagged", data_dir=tmp_path, columns=columns, cache_dir=tmp_path / "cache")
        assert (told.task, told.class_names) == ("multilabel", NAMES)
        assert_labels(told, ROWS)
    size = sources.load("tfds:tagged", data_dir=tmp_path, columns=["label=size"])
    assert size.task == "regression"
    assert_labels(size, np.float32(SIZES)[:, None])
    with pytest.raises(UserError, match=r"has image, labels, objects, size and no weight; name others with"):
        sources.load("tfds:tagged", data_dir=tmp_path, columns=["label=weight"])


@pytest.mark.parametrize(
    ("labels", "task", "expected"),
    [
        ([(0, 1), (1, 1)], "auto", ("multilabel", [[0, 1], [1, 1]])),
        ([(3, 1), (2,)], "auto", ("multilabel", [[1, 0, 1], [0, 1, 0]])),
        (["a|b", "b"], "multilabel", ("multilabel", [[1, 1], [0, 1]])),
        (["1.5", "2"], "regression", ("regression", [[1.5], [2]])),
        ([(0.5,), "2"], "auto", ("regression", [[0.5], [2]])),
        (["0.5", "2"], "auto", None),
    ],
)
def test_what_labels_are_is_told_by_them_or_the_task(labels, task, expected):
    understood = record_labels.understand({"train": labels}, Wanted(task=task), dataset="d")
    if expected is None:
        assert understood is None
        return
    assert understood.task == expected[0]
    np.testing.assert_array_equal(understood.targets["train"], expected[1])


@pytest.mark.parametrize(
    ("labels", "task", "message"),
    [
        ([(0.5,), "red"], "auto", "some labels are numbers and one is red"),
        (
            ["1", "red"],
            "regression",
            "image 1 of train has the label red, and --task=regression needs a number",
        ),
        (
            [(1.0, 2.0), (3.0,)],
            "regression",
            r"image 1 of train has the label \(3\.0,\), and .* needs 2 numbers",
        ),
        ([(0.5, 2.0)], "multilabel", r"is a number; --task=multilabel takes names"),
        ([(), ()], "multilabel", "no training image has a label"),
    ],
)
def test_labels_that_do_not_go_with_the_task_are_named(labels, task, message):
    with pytest.raises(UserError, match=message):
        record_labels.understand({"train": labels}, Wanted(task=task), dataset="d")
