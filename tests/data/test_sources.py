"""Examples, the choice of a source, digits and splits by classes."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from folders import SPLITS, assert_partition, write

from finetune_jax.data import sources
from finetune_jax.data.examples import Examples, Source, concatenate
from finetune_jax.errors import UserError

# --- examples ---------------------------------------------------------------------------------------------


def numbered(values: Sequence[int]) -> Examples:
    return Examples(
        labels=np.array(values, np.int32) % 3,
        names=[f"n{value}" for value in values],
        read=lambda i: np.full((1, 1, 3), values[i], np.uint8),
        fingerprint="-".join(map(str, values)),
    )


def contents(examples: Examples) -> list[tuple[int, int, str]]:
    return [
        (int(examples.read(i)[0, 0, 0]), int(examples.labels[i]), examples.names[i])
        for i in range(len(examples))
    ]


def test_subsets_and_concatenations_keep_image_label_and_name_together():
    both = concatenate([numbered([4, 5, 6]), numbered([]), numbered([9, 8])])
    assert contents(both) == [(v, v % 3, f"n{v}") for v in (4, 5, 6, 9, 8)]
    chosen = both.subset(np.array([4, 0, 3])).subset(np.array([2, 0]))
    assert contents(chosen) == [(9, 0, "n9"), (8, 2, "n8")]
    assert contents(chosen.relabelled(np.array([7, 8, 9]))) == [(9, 7, "n9"), (8, 9, "n8")]


def test_fingerprints_differ_with_members_and_order():
    pool = numbered([4, 5, 6])
    choices = [[0, 1], [1, 0], [0, 2], [0, 1, 2]]
    prints = [pool.subset(np.array(choice)).fingerprint for choice in choices]
    prints.append(concatenate([pool, pool]).fingerprint)
    assert len({*prints, pool.fingerprint}) == 6
    assert pool.subset(np.array([0, 1])).fingerprint == prints[0]


def test_the_fingerprint_of_a_source_covers_labels_and_class_names():
    pool = numbered([4, 5, 6])
    variants = [
        Source("x", ("a", "b", "c"), {"train": pool}),
        Source("x", ("a", "b", "d"), {"train": pool}),
        Source("x", ("a", "b", "c"), {"test": pool}),
        Source("x", ("a", "b", "c"), {"train": pool.relabelled(np.array([1, 0, 2]))}),
    ]
    assert len({source.fingerprint for source in variants}) == 4


@pytest.mark.parametrize("labels", [np.zeros(2), np.zeros((2, 1), np.int32)])
def test_labels_of_another_type_or_shape_are_refused(labels):
    with pytest.raises(ValueError, match="int32"):
        Examples(labels=labels, names=["a", "b"], read=lambda i: np.zeros((1, 1, 3)), fingerprint="")


# --- dispatch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dataset", ["", "digit", "digits:8x8", "folder:", "tfds:", "folder", "imagefolder:x"]
)
def test_an_unknown_data_set_is_named_with_what_there_is(dataset):
    with pytest.raises(UserError, match="digits, folder:PATH, csv:FILE, tfds:NAME") as caught:
        sources.load(dataset)
    assert f"--dataset={dataset} " in str(caught.value)


@pytest.mark.parametrize("flag", ["validation_fraction", "test_fraction"])
@pytest.mark.parametrize("value", [-0.5, 1.0, float("nan")])
def test_a_fraction_out_of_range_names_its_flag(flag, value):
    with pytest.raises(UserError, match=f"--{flag}="):
        sources.load("digits", **{flag: value})


def test_flags_without_meaning_are_refused():
    with pytest.raises(UserError, match="--data_dir"):
        sources.load("digits", data_dir="/somewhere")
    with pytest.raises(UserError, match="--protocol=clustering"):
        sources.load("digits", protocol="clustering")


def test_the_data_side_needs_no_jax_to_be_imported():
    code = "import sys; from finetune_jax.data import sources, cache, check; assert 'jax' not in sys.modules"
    root = Path(sources.__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.fspath(root)}
    )


# --- digits -----------------------------------------------------------------------------------------------


def test_digits_are_complete_stratified_and_repeatable():
    source = sources.load("digits")
    assert_partition(source, 1797)
    assert [len(source.splits[split]) for split in SPLITS] == [1294, 144, 359]
    assert source.class_names == tuple("0123456789")
    for split in SPLITS:
        counts = np.bincount(source.splits[split].labels)
        assert counts.max() - counts.min() <= 0.07 * counts.mean() + 2
    assert sources.load("digits").fingerprint == source.fingerprint
    assert sources.load("digits", seed=1).fingerprint != source.fingerprint
    assert source.notes == (
        "test: 359 images, 20 % of train, stratified, seed 0",
        "validation: 144 images, 10 % of train, stratified, seed 0",
    )


def test_digits_are_the_images_of_scikit_learn():
    from sklearn.datasets import load_digits

    data = load_digits()
    examples = sources.load("digits").splits["test"]
    for i in (0, 100, 358):
        number = int(examples.names[i].removeprefix("digits[").removesuffix("]"))
        assert examples.labels[i] == data.target[number]
        image = examples.read(i)
        assert image.shape == (8, 8, 3)
        assert image.dtype == np.uint8
        for channel in range(3):
            np.testing.assert_array_equal(np.round(image[..., channel] / 255 * 16), data.images[number])
    assert max(examples.read(i).max() for i in range(50)) == 255


def test_fraction_zero_gives_an_empty_split_and_says_so():
    source = sources.load("digits", validation_fraction=0.0)
    assert len(source.splits["validation"]) == 0
    assert source.notes[-1] == "validation: none (--validation_fraction=0)"


# --- retrieval --------------------------------------------------------------------------------------------


def classes_of(source: Source, split: str) -> list[str]:
    return [source.class_names[number] for number in np.unique(source.splits[split].labels)]


def test_retrieval_trains_on_the_first_half_of_the_classes():
    source = sources.load("digits", protocol="retrieval")
    assert_partition(source, 1797)
    assert [classes_of(source, split) for split in SPLITS] == [list("012"), list("34"), list("56789")]
    assert source.num_train_classes == 3
    assert source.notes == (
        "test: the last 5 of 10 classes, none of them trained on",
        "validation: the last 2 of the training classes",
    )


def test_retrieval_pools_splits_that_share_their_classes(tmp_path):
    names = [f"{s}/{c}/{i}.png" for s in ("train", "val", "test") for c in "abcdefgh" for i in range(2)]
    source = sources.load(write(tmp_path, names), protocol="retrieval")
    assert_partition(source, len(names))
    assert [classes_of(source, split) for split in SPLITS] == [list("ab"), list("cd"), list("efgh")]
    assert any("/test/" in name for name in source.splits["train"].names)


def test_retrieval_keeps_a_given_class_split_and_numbers_training_classes_first(tmp_path):
    names = [f"train/{c}/{i}.png" for c in "moqsu" for i in range(3)] + [f"test/{c}/1.png" for c in "anz"]
    source = sources.load(write(tmp_path, names), protocol="retrieval", validation_fraction=0.4)
    assert [classes_of(source, split) for split in SPLITS] == [list("moq"), list("su"), list("anz")]
    assert np.unique(source.splits["train"].labels).tolist() == [0, 1, 2]
    for split in SPLITS:
        for label, name in zip(source.splits[split].labels, source.splits[split].names, strict=True):
            assert source.class_names[label] == Path(name).parent.name


def test_retrieval_with_few_training_classes_validates_on_some_of_their_images(tmp_path):
    names = [f"train/{c}/{i}.png" for c in "ab" for i in range(10)] + [f"test/{c}/1.png" for c in "yz"]
    source = sources.load(write(tmp_path, names), protocol="retrieval")
    assert [classes_of(source, split) for split in SPLITS] == [list("ab"), list("ab"), list("yz")]
    assert_partition(source, 22)


def test_retrieval_renumbers_classes_of_any_source():
    labels = np.repeat(np.arange(6, dtype=np.int32), 2)
    pool = Examples(labels, [f"n{i}" for i in range(12)], lambda i: np.full((1, 1, 3), i, np.uint8), "x")
    splits = {"train": pool.subset(np.arange(4, 12)), "test": pool.subset(np.arange(4))}
    source = sources.for_retrieval(Source("x", tuple("abcdef"), splits), validation_fraction=0.0)
    assert source.class_names == tuple("cdefab")
    assert source.splits["train"].labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert source.splits["test"].labels.tolist() == [4, 4, 5, 5]
    assert source.splits["test"].read(0)[0, 0, 0] == 0


def test_retrieval_refuses_what_it_cannot_split(tmp_path):
    half_shared = [f"train/{c}/1.png" for c in "abc"] + [f"test/{c}/1.png" for c in "cd"]
    with pytest.raises(UserError, match="share some classes but not all"):
        sources.load(write(tmp_path / "one", half_shared), protocol="retrieval")
    with pytest.raises(UserError, match="3 classes are too few"):
        sources.load(write(tmp_path / "two", [f"{c}/1.png" for c in "abc"]), protocol="retrieval")
