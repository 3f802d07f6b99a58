"""Folds of cross-validation: parts of the training images that take turns as the test split."""

import dataclasses
import warnings

import numpy as np

from finetune_jax.data import near_duplicates
from finetune_jax.data.examples import Examples, Source
from finetune_jax.errors import UserError


def numbers(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each example, int64 ``[N]`` from 0: of about equal size, each class divided evenly, no group in two.

    By ``StratifiedGroupKFold`` of scikit-learn.

    Args:
      labels: int ``[N]``.
      groups: int ``[N]``, the number of each example's group.
      folds: At least 2.
      seed: Of the draw.

    Raises:
      ValueError: There are fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if len(np.unique(groups)) < folds:
        raise ValueError(f"{len(np.unique(groups))} groups cannot be divided into {folds} folds")
    fold_numbers = np.empty(len(labels), np.int64)
    drawn = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of classes with fewer images than folds: the caller looks at what came out
        for number, (_, held_out) in enumerate(drawn.split(np.zeros(len(labels)), labels, groups)):
            fold_numbers[held_out] = number
    return fold_numbers


def of_examples(examples: Examples, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The fold of each example and its group, both int64 ``[N]``; the order of the examples is no matter.

    Near-duplicates, and the images of a group (``--group_by``), are in one fold.

    Args:
      examples: To divide.
      folds: At least 2.
      seed: Of the draw.

    Raises:
      ValueError: There are fewer groups than folds.
    """
    groups = np.arange(len(examples))
    order = groups
    if examples.digests is not None:
        groups = near_duplicates.groups_of(examples.digests, examples.appearances)
        if examples.groups is not None:
            groups = near_duplicates.joined(groups, examples.groups)
        order = np.lexsort(examples.digests.T[::-1])
    fold_numbers = np.empty(len(examples), np.int64)
    fold_numbers[order] = numbers(examples.labels[order], _renumbered(groups[order]), folds, seed)
    return fold_numbers, groups


def with_fold(source: Source, folds: int, fold: int, seed: int, *, of_classes: bool = True) -> Source:
    """The source with one fold of its training images as the test split.

    Near-duplicates, and the images of a group (``--group_by``), are in one fold. The order of the images is no matter.

    Args:
      source: With a training split; a test split of its own is left out.
      folds: At least 2.
      fold: From 1.
      seed: Of the draw.
      of_classes: Whether labels are classes, each of which has to be in two folds; else they are numbers.

    Raises:
      UserError: There are too few images, or a class would lie in a single fold.
    """
    train = source.splits["train"]
    balanced = train
    if not of_classes:
        balanced = dataclasses.replace(train, labels=np.zeros(len(train), np.int32))
    try:
        fold_numbers, groups = of_examples(balanced, folds, seed)
    except ValueError as error:
        raise UserError(f"--folds={folds}: {error}; give fewer folds, or more images") from error
    for label in np.unique(train.labels) if of_classes and train.targets is None else ():
        if len(np.unique(fold_numbers[train.labels == label])) < 2:
            raise UserError(
                f"--folds={folds}: all images of {source.class_names[label]} are in one fold, as they are few, alike "
                "or of one group; add others, or leave the class out"
            )
    held_out = fold_numbers == fold - 1
    together = len(train) - len(np.unique(groups))
    note = f"test: {int(held_out.sum())} images, fold {fold} of {folds}, stratified, seed {seed}"
    if together:
        note += f"; groups and near-duplicates are in one fold ({len(np.unique(groups))} groups)"
    left = []
    if "test" in source.splits:
        left = [f"the {len(source.splits['test'])} test images that the data set brings are in no fold"]
    splits = {
        "train": train.subset(np.flatnonzero(~held_out)),
        "test": train.subset(np.flatnonzero(held_out)),
    }
    return dataclasses.replace(source, splits={**source.splits, **splits}, notes=(*source.notes, *left, note))


def _renumbered(groups: np.ndarray) -> np.ndarray:
    """The same groups, numbered as they come: their numbers shall not depend on the order of the images."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
