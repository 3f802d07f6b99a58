"""What ``--dataset`` names, completed to a training, a validation and a test split."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np

from finetune_jax.config import object_stores
from finetune_jax.data import label_values, record_labels
from finetune_jax.data.decode import Decoding
from finetune_jax.data.examples import Source, concatenate
from finetune_jax.data.folds import with_fold
from finetune_jax.data.split_rules import BY_COUNT, carved, few_per_class
from finetune_jax.data.splits import class_split, num_validation_classes
from finetune_jax.errors import UserError, readable

Protocol = Literal["classification", "retrieval"]

_RECORDS = ("tfds", "hf", "webdataset", "arrayrecord")
"""Kinds of data sets whose records have labels under names of their own."""


def load(
    dataset: str,
    *,
    protocol: Protocol = "classification",
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    train_on_validation: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    decoding: Decoding | None = None,
    columns: Sequence[str] = (),
    image_root: str = "",
    group_by: str = "",
    task: str = "auto",
    label_delimiter: str = "",
    images_per_class: int = 0,
    folds: int = 0,
    fold: int = 1,
    split_rule: int | None = None,
    list_findings: bool = False,
    workers: int | None = None,
    progress: bool = False,
    manifest_from: float = math.inf,
) -> Source:
    """Opens a data set; no image is decoded yet.

    Classification: a split that is missing is carved out of the training split, see `split_rules`; first the
    test split, then of what is left the validation split. Retrieval: see `for_retrieval`.

    Args:
      dataset: ``digits``, ``folder:PATH``, ``csv:FILE``, ``tfds:NAME[:CONFIG]``, ``hf:NAME``, ``webdataset:PATH`` or
        ``arrayrecord:PATH``.
      protocol: ``classification`` or ``retrieval``.
      seed: Of the splits that are made up, at least 0.
      validation_fraction: Of the training split, in ``[0, 1)``; 0 leaves the validation split empty.
      test_fraction: The same for the test split.
      train_on_validation: Whether a validation split that the data set brings joins the training split.
      data_dir: Where TFDS data sets were prepared; None is TFDS's own default.
      cache_dir: Where digests of unchanged files are remembered; None reads all files at every start.
      decoding: Of images in folders.
      columns: Of a table, ``ROLE=COLUMN`` for each role that is not to be guessed; of records ``image=NAME`` and
        ``label=NAME``.
      image_root: Folder that a table's image paths count from; empty is the table's own.
      group_by: ``folder``, or a column of a table; equal values stay on one side of splits that are made.
      task: As of ``--task``: how labels are understood; ``auto`` is by those of a table or of records, else one
        class per image.
      label_delimiter: Between the labels of an image in a table or record; empty is guessed.
      images_per_class: At most so many training images of each class; 0 takes all.
      folds: Parts of the training images, one of which is the test split; 0 makes none.
      fold: Which of them, from 1.
      split_rule: Version of the rule by which splits are made, see `split_rules`; None is that of the kind of data.
      list_findings: Whether to list what is wrong with a folder where that is possible, instead of refusing it.
      workers: Number of reading threads, see `ordered_map`.
      progress: Whether to show a bar while files are read for the first time.
      manifest_from: Number of files from which their digests are of names, sizes and times alone.

    Returns:
      A source with all three splits.

    Raises:
      UserError: With one sentence that names the flag or folder.
    """
    for flag, fraction in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        if not 0.0 <= fraction < 1.0:
            raise UserError(f"--{flag}={fraction} must be at least 0 and less than 1")
    if protocol not in ("classification", "retrieval"):
        raise UserError(f"--protocol={protocol} is neither classification nor retrieval")
    kind, separator, rest = dataset.partition(":")
    if data_dir is not None and kind != "tfds":
        raise UserError(f"--data_dir is for tfds: data sets and has no meaning with --dataset={dataset}")
    if kind != "csv":
        table_flags = (
            ("columns", ",".join(columns)),
            ("image_root", image_root),
            ("label_delimiter", label_delimiter),
        )
        for flag, value in table_flags:
            if value and (flag == "image_root" or kind not in _RECORDS):
                raise UserError(f"--{flag} is for csv: data sets and has no meaning with --dataset={dataset}")
        if group_by and (kind != "folder" or group_by != "folder"):
            raise UserError(
                f"--group_by={group_by}: give folder with --dataset=folder:PATH, or a column with csv:FILE"
            )
        if task == "multilabel" and kind not in ("memory", *_RECORDS):
            raise UserError(
                f"--task=multilabel needs a table of labels, --dataset=csv:FILE; --dataset={dataset} gives every image "
                "one class"
            )
    retrieval = protocol == "retrieval"
    labels_of = "retrieval" if retrieval else task
    asked = record_labels.wanted(columns if kind in _RECORDS else (), labels_of, label_delimiter, dataset)
    fractions = {"test": 0.0 if retrieval else test_fraction, "validation": validation_fraction}
    made = [split for split, fraction in fractions.items() if fraction > 0.0] + ["fold"] * bool(folds)
    if kind == "digits" and not separator:
        from finetune_jax.data import digits

        source = digits.read()
    elif kind == "folder" and rest:
        from finetune_jax.data import folder

        if object_stores.is_folder(dataset):
            from finetune_jax.data import object_store

            rest = str(object_store.local_copy(rest, cache_dir, progress=progress))
        source = folder.read(
            rest,
            by_folder=group_by == "folder",
            open_classes=retrieval,
            made_splits=() if split_rule == BY_COUNT else made,
            list_findings=list_findings,
            decoding=decoding,
            cache_dir=cache_dir,
            workers=workers,
            progress=progress,
            manifest_from=manifest_from,
        )
    elif kind == "csv" and rest:
        from finetune_jax.data import table

        source = table.read(
            rest,
            columns=columns,
            image_root=image_root,
            group_by=group_by,
            task=labels_of,
            label_delimiter=label_delimiter,
            open_classes=retrieval,
            made_splits=made,
            decoding=decoding,
            cache_dir=cache_dir,
            workers=workers,
            progress=progress,
            manifest_from=manifest_from,
        )
    elif kind == "tfds" and rest:
        from finetune_jax.data import tfds

        source = tfds.read(
            rest, asked=asked, data_dir=data_dir, cache_dir=cache_dir, workers=workers, progress=progress
        )
    elif kind in ("webdataset", "arrayrecord", "hf") and rest:
        from finetune_jax.data import array_records, hugging_face, shards
        from finetune_jax.data.image_files import Reading

        readers = {"webdataset": shards.read, "arrayrecord": array_records.read, "hf": hugging_face.read}
        reading = Reading(decoding or Decoding(), cache_dir, workers, progress, bool(made), manifest_from)
        source = readers[kind](dataset, open_classes=retrieval, reading=reading, asked=asked)
    elif kind == "memory" and rest:
        from finetune_jax.data import in_memory

        source = in_memory.read(dataset)
    else:
        absent = "" if separator or not dataset else os.path.abspath(dataset)
        raise UserError(
            f"--dataset={readable(dataset)} is none of digits, folder:PATH, csv:FILE, tfds:NAME[:CONFIG], hf:NAME, "
            "webdataset:PATH and arrayrecord:PATH"
            + (f", and there is no folder or table {readable(absent)}" if absent else "")
        )
    if split_rule is not None:
        source = dataclasses.replace(source, split_rule=split_rule)
    if task == "ordinal":
        source = label_values.graded(source)
    if train_on_validation:
        source = _with_validation_in_training(source)
    if folds:
        source = with_fold(source, folds, fold, seed, of_classes=task != "regression")
    if retrieval:
        source = for_retrieval(source, seed=seed, validation_fraction=validation_fraction)
        return few_per_class(source, images_per_class, seed) if images_per_class else source
    for split in [split for split in ("test", "validation") if split not in source.splits]:
        source = carved(source, split, fractions[split], seed, list_findings=list_findings)
    if images_per_class:
        source = few_per_class(source, images_per_class, seed)
    return label_values.as_numbers(source) if task == "regression" else source


def for_retrieval(source: Source, *, seed: int = 0, validation_fraction: float = 0.1) -> Source:
    """Splits a source by classes: those of the test are not trained on.

    A test split whose classes are all unknown to the training split is a given class split and is kept, with
    the gallery that belongs to it.
    Otherwise all splits are pooled; the first half of the classes trains, the rest tests. Validation gets
    the last of the training classes, or, where these are too few, a part of each.

    Args:
      source: With at least a training split.
      seed: Used only where validation gets a part of each class.
      validation_fraction: Part of the training classes, in ``[0, 1)``.

    Returns:
      A source whose training classes are ``0 … num_train_classes - 1``.

    Raises:
      UserError: Fewer than four classes, a test split that shares only some classes with training, or a
        gallery that lacks a class of the test split.
    """
    test = source.splits.get("test")
    trained = set(source.splits["train"].labels.tolist())
    tested = set() if test is None else set(test.labels.tolist())
    if tested and trained.isdisjoint(tested):
        gallery = source.splits.get("gallery")
        missing = set() if gallery is None else tested - set(gallery.labels.tolist())
        if missing:
            raise UserError(
                f"--dataset={source.name}: the gallery has no images of {source.class_names[min(missing)]}, "
                "which is searched for"
            )
        source = _training_classes_first(source)
        note = f"test: {len(tested)} classes that are not trained on, as given"
        source = dataclasses.replace(source, notes=(*source.notes, note))
    elif "gallery" in source.splits:
        raise UserError(
            f"--dataset={source.name} --protocol=retrieval: with a gallery, query must have only classes that "
            "train has not"
        )
    elif tested - trained:
        raise UserError(
            f"--dataset={source.name} --protocol=retrieval: train and test share some classes but not "
            "all; give test either the same classes as train or only classes that train has not"
        )
    else:
        source = _split_by_class(source)
    if "validation" in source.splits:
        return source
    train = source.splits["train"]
    held_out = num_validation_classes(source.num_train_classes, validation_fraction)
    if validation_fraction > 0.0 and held_out == 0:
        return carved(source, "validation", validation_fraction, seed)
    first = source.num_train_classes - held_out
    note = f"validation: the last {held_out} of the training classes" if held_out else "validation: none"
    return dataclasses.replace(
        source,
        splits={
            **source.splits,
            "train": train.subset(np.flatnonzero(train.labels < first)),
            "validation": train.subset(np.flatnonzero(train.labels >= first)),
        },
        notes=(*source.notes, note),
    )


def _split_by_class(source: Source) -> Source:
    """All images of `source` pooled: the first half of the classes trains, the rest tests."""
    num_classes = len(source.class_names)
    if num_classes < 4:
        raise UserError(
            f"--dataset={source.name} --protocol=retrieval: {num_classes} classes are too few, "
            "at least 4 are needed"
        )
    pool = concatenate(list(source.splits.values()))
    train, test = class_split(num_classes)
    splits = {
        split: pool.subset(np.flatnonzero(np.isin(pool.labels, members)))
        for split, members in (("train", train), ("test", test))
    }
    note = f"test: the last {len(test)} of {num_classes} classes, none of them trained on"
    return dataclasses.replace(source, splits=splits, notes=(*source.notes, note))


def _training_classes_first(source: Source) -> Source:
    """Renumbers the classes: first those of training, then those only other splits have."""
    order: list[int] = []
    for split in ("train", "validation", "test", "gallery"):
        if split in source.splits:
            order += sorted(set(source.splits[split].labels.tolist()) - set(order))
    order += [number for number in range(len(source.class_names)) if number not in set(order)]
    new_labels = np.argsort(order)
    return dataclasses.replace(
        source,
        class_names=tuple(source.class_names[number] for number in order),
        splits={split: examples.relabelled(new_labels) for split, examples in source.splits.items()},
    )


def _with_validation_in_training(source: Source) -> Source:
    """The source without its own validation split, whose images join the training split."""
    if "validation" not in source.splits:
        raise UserError(
            f"--train_on_validation: {source.name} brings no validation split; leave the flag out"
        )
    splits = dict(source.splits)
    validation = splits.pop("validation")
    note = f"train: with the {len(validation)} validation images of the data set"
    splits["train"] = concatenate([splits["train"], validation])
    return dataclasses.replace(source, splits=splits, notes=(*source.notes, note))
