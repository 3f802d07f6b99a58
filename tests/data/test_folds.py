"""Folds: a partition of the images, even in every class, that no group and no near-duplicate crosses."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from finetune_jax.data import folds, in_memory, sources
from finetune_jax.data.decode import Decoding
from finetune_jax.data.examples import Source
from finetune_jax.data.in_memory import Part
from finetune_jax.errors import UserError

COUNT = 60
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 9, 8, 3)).astype(np.uint8)
LABELS = np.arange(COUNT) % 3


def source(order: np.ndarray | None = None, groups: np.ndarray | None = None) -> Source:
    order = np.arange(COUNT) if order is None else order
    part = Part(IMAGES[order], LABELS[order], None if groups is None else groups[order])
    return in_memory.hold({"train": part}, decoding=Decoding()).source


def held_out(source: Source, count: int) -> list[set[bytes]]:
    of_folds = [folds.with_fold(source, count, number, seed=0).splits for number in range(1, count + 1)]
    for splits in of_folds:
        both = [*splits["train"].digests, *splits["test"].digests]
        assert len({digest.tobytes() for digest in both}) == COUNT
    return [{digest.tobytes() for digest in splits["test"].digests} for splits in of_folds]


def test_every_image_is_in_one_fold_and_classes_are_divided_evenly():
    found = held_out(source(), 4)
    assert sum(map(len, found)) == len(set.union(*found)) == COUNT
    for number in range(1, 5):
        test = folds.with_fold(source(), 4, number, seed=0).splits["test"]
        assert np.bincount(test.labels).tolist() == [5, 5, 5]


def test_the_order_of_the_images_moves_none_and_the_seed_does():
    assert held_out(source(), 3) == held_out(source(np.random.default_rng(1).permutation(COUNT)), 3)
    other = folds.with_fold(source(), 3, 1, seed=1).splits["test"]
    assert {digest.tobytes() for digest in other.digests} != held_out(source(), 3)[0]


def test_groups_and_near_duplicates_are_in_one_fold():
    groups = np.arange(COUNT) // 6
    grouped = source(groups=groups)
    names = {d.tobytes(): g for d, g in zip(grouped.splits["train"].digests, groups, strict=True)}
    for digests in held_out(grouped, 3):
        members = [names[digest] for digest in digests]
        assert all(members.count(group) == 6 for group in members)
    images = IMAGES.copy()
    images[1] = np.asarray(Image.fromarray(IMAGES[0])) ^ 1  # the same to the eye
    alike = in_memory.hold({"train": Part(images, LABELS)}, decoding=Decoding()).source
    for number in range(1, 4):
        names_in = folds.with_fold(alike, 3, number, seed=0).splits["test"].names
        assert ("train[0]" in names_in) == ("train[1]" in names_in)


def test_too_few_images_are_refused_in_one_sentence():
    with pytest.raises(UserError, match="--folds=61: 60 groups cannot be divided"):
        folds.with_fold(source(), 61, 1, seed=0)
    groups = np.where(LABELS == 2, 1000, np.arange(COUNT))
    with pytest.raises(UserError, match="all images of 2 are in one fold"):
        folds.with_fold(source(groups=groups), 3, 1, seed=0)


def test_a_test_split_of_the_data_set_is_in_no_fold_and_validation_is_made_of_the_rest():
    whole = source()
    held = in_memory.hold_source(
        dataclasses.replace(whole, splits={"train": whole.splits["train"], "test": whole.splits["train"]})
    )
    loaded = sources.load(held.source.name, folds=3, fold=2)
    assert "the 60 test images that the data set brings are in no fold" in loaded.notes
    sizes = {split: len(examples) for split, examples in loaded.splits.items()}
    assert sizes["test"] == 20
    assert sizes["train"] + sizes["validation"] == 40


def test_numbers_and_several_classes_are_divided_without_regard_to_classes():
    numbers = in_memory.hold({"train": Part(IMAGES, np.arange(COUNT) / 7)}, decoding=Decoding()).source
    flags = np.zeros((COUNT, 3))
    flags[0, 0], flags[:, 1] = 1, 1  # one image alone has the first class
    several = in_memory.hold({"train": Part(IMAGES, flags)}, decoding=Decoding()).source
    for whole in (numbers, several):
        found = [folds.with_fold(whole, 3, number, seed=0).splits["test"] for number in (1, 2, 3)]
        assert sorted(name for part in found for name in part.names) == sorted(whole.splits["train"].names)
        assert all(
            part.targets.shape == (len(part), whole.splits["train"].targets.shape[1]) for part in found
        )
