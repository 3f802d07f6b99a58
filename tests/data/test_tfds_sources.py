"""Prepared data sets of TFDS, read without TensorFlow and without a network."""

import io
import os
import shutil
import socket
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from folders import SPLITS, picture

from finetune_jax.data import sources
from finetune_jax.data.examples import Examples, Source
from finetune_jax.errors import UserError


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def tfds():
    return pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def prepared(tfds, tmp_path_factory):
    """A data dir with tiny_photos/{standard,unlabelled,odd,records}: no TensorFlow, no network."""
    layouts: Mapping[str, Mapping[str, list[int]]] = {
        "standard": {"train": [0, 1, 2] * 10, "test": [2, 1, 0]},
        "unlabelled": {"train": [0, 1, 2] * 10, "validation": [0, 1, 2], "test": [-1, -1], "extra": [0]},
        "odd": {"train": [0, 1] * 5},
        "records": {"train": [0, 1] * 5},
    }

    class TinyPhotos(tfds.core.GeneratorBasedBuilder):
        __module__ = "tiny_photos"  # TFDS asks the package of a builder for its files; this one has none
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in layouts]  # noqa: RUF012

        def _info(self):
            label = tfds.features.ClassLabel(names=["ant", "bee", "cow"])
            features = {"image": tfds.features.Image(), "label": label, "file": tfds.features.Text()}
            if self.builder_config.name == "odd":
                features.pop("label")
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            splits = layouts[self.builder_config.name].items()
            return {split: self._generate_examples(split, labels) for split, labels in splits}

        def _generate_examples(self, split, labels):
            for number, label in enumerate(labels):
                data = picture(number) if split == "train" else picture(100 + number)
                example = {"image": io.BytesIO(data), "label": label, "file": f"{number}"}
                if self.builder_config.name == "odd":
                    example.pop("label")
                yield number, example

    data_dir = tmp_path_factory.mktemp("tfds")
    for config in layouts:
        TinyPhotos(data_dir=data_dir, config=config, file_format="array_record").download_and_prepare()
    return data_dir


def green_values(examples: Examples) -> list[int]:
    return [int(examples.read(i)[0, 0, 1]) for i in range(len(examples))]


@pytest.mark.usefixtures("offline")
def test_a_prepared_tfds_data_set_is_read_without_tensorflow(prepared):
    source = sources.load("tfds:tiny_photos:standard", data_dir=prepared, validation_fraction=0.2)
    assert source.class_names == ("ant", "bee", "cow")
    assert [len(source.splits[split]) for split in SPLITS] == [24, 6, 3]
    assert np.bincount(source.splits["validation"].labels).tolist() == [2, 2, 2]
    # Picture n of the training split has green n and label n mod 3, in whatever order TFDS keeps them.
    train = source.splits["train"]
    assert [value % 3 for value in green_values(train)] == train.labels.tolist()
    assert sorted(green_values(train) + green_values(source.splits["validation"])) == list(range(30))
    test = source.splits["test"]
    assert dict(zip(green_values(test), test.labels.tolist(), strict=True)) == {100: 2, 101: 1, 102: 0}
    assert test.names[1] == "tiny_photos/standard test[1]"
    assert "tensorflow" not in sys.modules


@pytest.mark.usefixtures("offline")
def test_an_unlabelled_test_split_gives_way_to_the_validation_split(prepared):
    source = sources.load("tfds:tiny_photos/unlabelled", data_dir=prepared)
    assert [len(source.splits[split]) for split in SPLITS] == [27, 3, 3]
    assert sorted(green_values(source.splits["test"])) == [100, 101, 102]
    assert {split: sorted(green_values(part)) for split, part in source.unlabelled.items()} == {
        "test": [100, 101]
    }
    assert source.notes[:3] == (
        "test: it has no labels",
        "test: the validation split of tiny_photos/unlabelled, as there is no labelled test split",
        "extra: not used",
    )


def test_tfds_labels_and_fingerprints_of_unchanged_files_are_remembered(prepared, tmp_path, monkeypatch):
    from finetune_jax.data import tfds as module

    def load() -> Source:
        return sources.load("tfds:tiny_photos:standard", data_dir=prepared, cache_dir=tmp_path)

    first = load()
    parsed: list[tuple[object, ...]] = []
    parse = module._parse
    monkeypatch.setattr(module, "_parse", lambda *given: parsed.append(given) or parse(*given))
    second = load()
    assert second.fingerprint == first.fingerprint
    assert second.splits["test"].labels.tolist() == first.splits["test"].labels.tolist()
    assert parsed == []
    os.utime(next((prepared / "tiny_photos" / "standard").rglob("*train*")))
    assert load().fingerprint == first.fingerprint
    assert len(parsed) == 30


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            "tfds:cars196",
            r"cars196 is not prepared in .*finetune-jax\[tensorflow\].*tfds build cars196 --file_format",
        ),
        ("tfds:visual_domain_decathlon:aircraft", "tfds build visual_domain_decathlon/aircraft --file"),
        ("tfds:visual_domain_decathlon:nope", "BuilderConfig nope not found"),
        ("tfds:no_such_set", "TFDS has no data set of this name"),
        (
            "tfds:tiny_photos:odd",
            r"needs the features image and label \(a class, several, or numbers\), but has file, image",
        ),
        ("tfds:huggingface:a/b", "write tfds:NAME or tfds:NAME:CONFIG"),
    ],
)
def test_tfds_errors_say_what_to_do_and_use_no_network(prepared, dataset, message):
    with pytest.raises(UserError, match=message):
        sources.load(dataset, data_dir=prepared)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("kind", ["tfrecord", "parquet"])
def test_tfds_data_prepared_in_another_format_is_refused(prepared, tmp_path, kind):
    shutil.copytree(prepared / "tiny_photos" / "records", tmp_path / "tiny_photos" / "records")
    info = next(tmp_path.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", kind))
    with pytest.raises(
        UserError, match=rf"holds {kind} files.*prepare it again: .*--file_format=array_record"
    ):
        sources.load("tfds:tiny_photos:records", data_dir=tmp_path)


@pytest.mark.usefixtures("offline")
def test_tfds_data_with_a_missing_or_damaged_shard_is_refused(prepared, tmp_path):
    shutil.copytree(prepared / "tiny_photos" / "records", tmp_path / "tiny_photos" / "records")
    shard = next(tmp_path.rglob("*.array_record*"))
    data = bytearray(shard.read_bytes())
    data[100:600] = bytes(500)
    shard.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        sources.load("tfds:tiny_photos:records", data_dir=tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match="prepare"):
        sources.load("tfds:tiny_photos:records", data_dir=tmp_path)


@pytest.mark.usefixtures("offline")
def test_mocked_tfds_data_of_the_published_data_sets_can_be_used(tfds):
    with tfds.testing.mock_data(num_examples=20):
        source = sources.load("tfds:visual_domain_decathlon:aircraft")
        cars = sources.load("tfds:cars196", protocol="retrieval", validation_fraction=0.0)
    assert len(source.class_names) == 100
    assert len(source.splits["test"]) == 20
    image = source.splits["train"].read(0)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert cars.splits["train"].labels.max() < 98 <= cars.splits["test"].labels.min()


def test_no_module_that_a_data_set_names_is_imported(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared / "tiny_photos" / "standard", tmp_path / "data" / "tiny_photos" / "standard")
    (tmp_path / "intruder.py").write_text("open('executed', 'w').close()\n")
    features = next((tmp_path / "data").rglob("features.json"))
    content = features.read_text()
    assert "tensorflow_datasets.core.features.text_feature.Text" in content
    features.write_text(
        content.replace("tensorflow_datasets.core.features.text_feature.Text", "intruder.Feature")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"names intruder\.Feature, which is no feature of TFDS"):
        sources.load("tfds:tiny_photos:standard", data_dir=tmp_path / "data")
    assert not (tmp_path / "executed").exists()
    assert "intruder" not in sys.modules


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"name": 3}', b"[" * 100_000])
def test_a_damaged_description_of_a_data_set_is_one_sentence(prepared, tmp_path, name, content):
    shutil.copytree(prepared / "tiny_photos" / "standard", tmp_path / "tiny_photos" / "standard")
    next(tmp_path.rglob(name)).write_bytes(content)
    with pytest.raises(UserError, match=r"^--dataset=tfds:tiny_photos/standard"):
        sources.load("tfds:tiny_photos:standard", data_dir=tmp_path)
