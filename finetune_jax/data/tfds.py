"""Data sets prepared by TensorFlow Datasets, read without TensorFlow and without network."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from finetune_jax.data import index, record_labels, records, tfds_features
from finetune_jax.data.decode import UnreadableImage, decode_image
from finetune_jax.data.examples import (
    Examples,
    Source,
    as_digests,
    digest_of,
    fingerprint_of,
    fingerprint_of_digests,
)
from finetune_jax.data.parallel import ordered_map
from finetune_jax.data.record_labels import Wanted
from finetune_jax.data.tfds_features import Fields
from finetune_jax.errors import UserError, readable

_SPEC = re.compile(r"(?P<name>\w+)(?:[:/](?P<config>\w[\w.+-]*))?")
_VALIDATION = ("validation", "val", "valid", "dev")
_TEST = ("test", "testing")
_FILE_NAME = ("name", "file_name", "filename", "image/filename")  # of text features of published data sets


def read(
    spec: str,
    *,
    asked: Wanted = Wanted(),  # noqa: B008 (never changed)
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Source:
    """Opens a prepared data set; reads labels and fingerprints the images, decodes nothing.

    Where the test split is missing or has no labels (``imagenet2012``, the Visual Decathlon), the
    validation split takes its place, as in the literature.

    Args:
      spec: ``NAME`` or ``NAME:CONFIG``.
      asked: Names of the features, and what the labels are.
      data_dir: Where data sets were prepared; TFDS's own default if None.
      cache_dir: Where labels and fingerprints of unchanged files are remembered.
      workers: Number of threads, see `ordered_map`.
      progress: Whether to show a bar while records are read.

    Returns:
      A source with the splits that have labels; the others are its `unlabelled`. Examples are called by their
      file names, where the data set keeps them.

    Raises:
      UserError: Unknown or not prepared, not as array_record, or no image classification.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError(f"--dataset=tfds:{spec}: write tfds:NAME or tfds:NAME:CONFIG")
    name = "/".join(part for part in match.groups() if part)
    builder = _builder(name, data_dir)
    fields = tfds_features.fields_of(name, builder, asked)
    stored = _records(name, builder, data_dir)
    read_splits = {
        split: _examples(name, builder, fields, split, stored[split], cache_dir, workers, progress)
        for split in stored
    }
    examples = {split: part for split, (part, _) in read_splits.items()}
    splits, notes = _by_role(name, examples)
    unlabelled = {split: part for split, part in examples.items() if not _has_labels(part)}
    if not fields.classes or asked.task == "multilabel":
        return _of_other_labels(f"tfds:{spec}", fields, asked, splits, read_splits, notes)
    return Source(f"tfds:{spec}", fields.class_names, splits, notes, unlabelled)


def _of_other_labels(
    dataset: str,
    fields: Fields,
    asked: Wanted,
    splits: Mapping[str, Examples],
    read_splits: Mapping[str, tuple[Examples, list[Any]]],
    notes: tuple[str, ...],
) -> Source:
    """The source of labels that are not one class per image by a feature of classes."""
    values = {id(part): of_split for part, of_split in read_splits.values()}
    labels = {split: [fields.label(value) for value in values[id(part)]] for split, part in splits.items()}
    understood = record_labels.understand(
        labels, asked, dataset=dataset, class_names=fields.class_names or None
    )
    if understood is None:
        classes = {
            split: record_labels.classes(of_split, split, dataset, asked.task)
            for split, of_split in labels.items()
        }
        names = records.sorted_names({name for of_split in classes.values() for name in of_split})
        places = {name: place for place, name in enumerate(names)}
        splits = {
            split: dataclasses.replace(
                part, labels=np.array([places[name] for name in classes[split]], np.int32)
            )
            for split, part in splits.items()
        }
        return Source(dataset, tuple(map(readable, names)), splits, notes)
    assert understood.targets is not None
    splits = {
        split: dataclasses.replace(part, labels=understood.labels[split], targets=understood.targets[split])
        for split, part in splits.items()
    }
    return Source(dataset, understood.class_names, splits, (*notes, *understood.notes), task=understood.task)


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """From the prepared files, so in any version, with or without code; else from the code."""
    import tensorflow_datasets as tfds

    where = None if data_dir is None else os.path.expanduser(os.fspath(data_dir))
    try:
        with _known_features_only():
            return tfds.core.read_only_builder.builder_from_files(name, data_dir=where)
    except tfds.core.DatasetNotFoundError:
        pass
    # A damaged dataset_info.json or features.json; their readers have exceptions of their own.
    except Exception as error:
        raise UserError(f"--dataset=tfds:{name}: {_first_line(error)}") from error
    try:
        with _known_features_only():
            return tfds.builder(name, data_dir=where)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"--dataset=tfds:{name}: TFDS has no data set of this name, "
            f"and none is prepared in {_where(data_dir)} (--data_dir)"
        ) from error
    # Building a builder runs the code of the data set, which may need packages that are not there.
    except Exception as error:
        raise UserError(f"--dataset=tfds:{name}: {_first_line(error)}") from error


@contextlib.contextmanager
def _known_features_only() -> Iterator[None]:
    """Keeps TFDS from importing the modules of feature classes that the files of a data set name.

    ``features.json`` names Python classes, and TFDS imports the module of one that it does not know, which may be any
    in the current directory.
    """
    from tensorflow_datasets.core.features.feature import FeatureConnector

    usual = FeatureConnector.__dict__["cls_from_name"]

    def known(cls: Any, python_class_name: str) -> Any:
        feature = cls._registered_features.get(python_class_name)
        if feature is None:
            raise ValueError(
                f"features.json names {readable(python_class_name, 100)}, which is no feature of TFDS; it is not "
                "imported"
            )
        return feature

    FeatureConnector.cls_from_name = classmethod(known)
    try:
        yield
    finally:
        FeatureConnector.cls_from_name = usual


def _file_name_feature(builder: Any) -> str | None:
    import tensorflow_datasets as tfds

    features = builder.info.features
    texts = [key for key in _FILE_NAME if key in features and isinstance(features[key], tfds.features.Text)]
    return texts[0] if texts else None


def _records(name: str, builder: Any, data_dir: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Random access to the records of every split: serialised examples, not parsed."""
    prepared = list(builder.info.splits)
    how = f'`pip install "finetune-jax[tensorflow]"`, then `tfds build {name} --file_format=array_record' + (
        f" --data_dir={data_dir}`" if data_dir is not None else "`"
    )
    try:
        # A builder that knows no splits has nothing prepared, unless it is a mock, which takes any name.
        sources = {
            split: builder.as_data_source(split, file_format="array_record")
            for split in prepared or ("train", "test")
        }
    except (NotImplementedError, ValueError, KeyError, AssertionError) as error:
        if prepared:
            raise UserError(
                f"--dataset=tfds:{name}: {builder.data_dir} holds {builder.info.file_format.value} files; "
                f"only array_record can be read in any order; remove the folder and prepare it again: {how}"
            ) from error
        raise UserError(
            f"--dataset=tfds:{name} is not prepared in {_where(data_dir)} (--data_dir); "
            f"prepare it once, on a machine with network: {how}"
        ) from error
    # Not the source itself: it decodes images whenever a label is asked for, several times slower.
    return {split: source.data_source for split, source in sources.items() if len(source)}


def _examples(
    name: str,
    builder: Any,
    fields: Fields,
    split: str,
    records: Any,
    cache_dir: str | os.PathLike[str] | None,
    workers: int | None,
    progress: bool,
) -> tuple[Examples, list[Any]]:
    """The examples of a split, and the value of each one's label."""

    def read_image(i: int) -> np.ndarray:
        example = f"{name} {split}[{i}]"
        try:
            image = _parse(records[i], fields)[0]
        except Exception as error:  # A damaged shard; its reader has exceptions of its own.
            raise UnreadableImage(example, _first_line(error)) from error
        return decode_image(image, example) if isinstance(image, bytes) else _as_rgb(image)

    count = len(records)
    key = _shards_key(builder, split)
    known = index.recall(cache_dir, key) if key else {}
    named = _file_name_feature(builder)
    kept_as = fields.kept_as
    if any(len(known.get(part, ())) != count for part in (kept_as, "digests", *(["names"] if named else []))):
        labels, digests, names = [], [], []

        def scan(i: int) -> tuple[Any, str, str | None]:
            try:
                image, label, file = _parse(records[i], fields, named)
            except Exception as error:
                raise UserError(
                    f"--dataset=tfds:{name}: record {i} of {split} in {builder.data_dir} is damaged "
                    f"({_first_line(error)}): prepare the data set again"
                ) from error
            return label, digest_of(image if isinstance(image, bytes) else image.tobytes()).hex(), file

        for label, digest, file in ordered_map(
            scan, count, workers=workers, progress=progress, title=f"reading {split}"
        ):
            labels.append(label)
            digests.append(digest)
            names.append(file)
        known = {**known, kept_as: labels, "digests": digests}
        if named:
            known["names"] = names
        if key:
            index.remember(cache_dir, key, known)
    every_digest = as_digests([bytes.fromhex(digest) for digest in known["digests"]])
    values = known[kept_as]
    examples = Examples(
        labels=np.array(values, np.int32) if fields.classes else np.zeros(count, np.int32),
        names=known.get("names") or [f"{name} {split}[{i}]" for i in range(count)],
        read=read_image,
        fingerprint=fingerprint_of_digests(every_digest),
        digests=every_digest,
    )
    return examples, values


def _shards_key(builder: Any, split: str) -> str | None:
    """Changes with the name, size, inode or times of change of any file of the split; None without files."""
    if split not in builder.info.splits:
        return None
    try:
        status = [(os.fspath(path), os.stat(path)) for path in builder.info.splits[split].filepaths]
    except OSError as error:
        raise UserError(
            f"--dataset=tfds:{builder.name}: cannot read {error.filename} ({error.strerror}): "
            "prepare the data set again"
        ) from error
    return fingerprint_of("shards", *(_status_text(path, s) for path, s in status))


def _status_text(path: str, status: os.stat_result) -> str:
    return f"{path} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _parse(record: Any, fields: Fields, named: str | None = None) -> tuple[Any, Any, str | None]:
    """Image, label and the text called `named` of a record; a mock (`tfds.testing.mock_data`) comes decoded."""
    if isinstance(record, Mapping):
        text = record[named] if named else None
        label = fields.of_decoded(record)
        return record[fields.image], label, text.decode() if isinstance(text, bytes) else text
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(record).features.feature
    text = features[named].bytes_list.value[0].decode() if named else None
    return features[fields.image].bytes_list.value[0], fields.of_serialised(features), text


def _as_rgb(image: np.ndarray) -> np.ndarray:
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[:, :, :3]


def _by_role(name: str, examples: Mapping[str, Examples]) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Train, validation and test among the splits of the data set."""
    notes: list[str] = []
    labelled = {split: part for split, part in examples.items() if _has_labels(part)}
    notes += [f"{split}: it has no labels" for split in examples if split not in labelled]
    if "train" not in labelled:
        raise UserError(f"--dataset=tfds:{name}: has no labelled train split, only {', '.join(examples)}")
    validation = next((split for split in _VALIDATION if split in labelled), None)
    test = next((split for split in _TEST if split in labelled), None)
    if test is None and validation is not None:
        notes.append(f"test: the {validation} split of {name}, as there is no labelled test split")
        validation, test = None, validation
    unused = [split for split in labelled if split not in ("train", validation, test)]
    notes += [f"{split}: not used" for split in unused]
    roles = {"train": "train", "validation": validation, "test": test}
    return {role: labelled[split] for role, split in roles.items() if split is not None}, tuple(notes)


def _has_labels(examples: Examples) -> bool:
    return bool(examples.labels.min() >= 0)


def _where(data_dir: str | os.PathLike[str] | None) -> str:
    return os.fspath(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def _first_line(error: Exception) -> str:
    return readable((str(error).strip() or type(error).__name__).splitlines()[0])
