"""Which folders are splits, which are classes, and what is asked where neither is sure."""

import pytest
from folders import write

from finetune_jax.data import sources
from finetune_jax.data.folder_layout import split_of
from finetune_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("TRAIN", "train"),
        ("seg_train", "train"),
        ("train_set", "train"),
        ("images-train", "train"),
        ("trainset", "train"),
        ("TrainingSet", "train"),
        ("train2017", "train"),
        ("Train Data", "train"),
        ("valid", "validation"),
        ("Val", "validation"),
        ("val_images", "validation"),
        ("dev", "validation"),
        ("Testing", "test"),
        ("seg_test", "test"),
        ("eval", "test"),
        ("test1", "test"),
        ("PrivateTest", "test"),
        ("cat", None),
        ("trainer", None),
        ("tests_of_time", None),
        ("valley", None),
        ("device", None),
        ("train_test", None),
        ("2019", None),
        ("猫", None),
    ],
)
def test_names_of_splits_are_known_in_any_case_with_prefixes_and_suffixes(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Training", "Testing"), {"train", "test"}),
        (("seg_train", "seg_test"), {"train", "test"}),
        (("train_set", "valid_set", "test_set"), {"train", "validation", "test"}),
        (("images_train", "images_val"), {"train", "validation"}),
        (("train", "dev", "eval"), {"train", "validation", "test"}),
        (("train", "eval", "test"), {"train", "validation", "test"}),
        (("train", "valid"), {"train", "validation"}),
    ],
)
def test_splits_are_recognised_by_common_names(tmp_path, folders, splits):
    dataset = write(tmp_path, [f"{f}/{c}/{i}.png" for f in folders for c in "ab" for i in range(10)])
    source = sources.load(dataset, validation_fraction=0.3)
    assert source.class_names == ("a", "b")
    for split in splits - {"train"}:
        assert len(source.splits[split]) == 20
    assert sum(len(part) for part in source.splits.values()) == 20 * len(folders)


def test_eval_beside_test_is_for_validation(tmp_path):
    write(tmp_path, [f"{f}/{c}/{i}.png" for f in ("train", "eval", "test") for c in "ab" for i in range(3)])
    source = sources.load(f"folder:{tmp_path}")
    assert {name.split("/")[-3] for name in source.splits["validation"].names} == {"eval"}


def test_a_folder_of_unlabelled_images_beside_the_splits_is_left_out(tmp_path):
    files = [
        f"{f}/{c}/{i}.png"
        for f in ("seg_train/seg_train", "seg_test/seg_test")
        for c in "ab"
        for i in range(9)
    ]
    source = sources.load(write(tmp_path, [*files, "seg_pred/seg_pred/1.png"]))
    assert len(source.splits["test"]) == 18
    assert "seg_pred/ was left out, as it has no labels" in source.notes


@pytest.mark.parametrize(
    "names",
    [
        ("train", "tram", "truck"),
        ("bullet_train", "steam_train"),
        ("test_tube", "beaker"),
        ("dev_board", "hat"),
    ],
)
def test_classes_may_be_called_like_splits(tmp_path, names):
    source = sources.load(write(tmp_path, [f"{c}/{i}.png" for c in names for i in range(9)]))
    assert set(source.class_names) == set(names)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([f"{f}/{c}/1.png" for f in ("fold1", "fold2", "fold3") for c in "ab"], "look like splits or parts"),
        ([f"{f}/{c}/1.png" for f in ("split_a", "split_b") for c in ("x", "y")], "look like splits or parts"),
        ([f"{f}/{c}/1.png" for f in ("trian", "tset") for c in "ab"], "trian, tset looks like a split"),
        ([f"{f}/{c}/1.png" for f in ("train1", "train2") for c in "ab"], "has both train1/ and train2/"),
        ([f"{f}/1.png" for f in ("seg_train", "seg_test")], "holds images that are in no class folder"),
        (
            [f"{y}/{c}/1.png" for y in ("2019", "2020") for c in ("cat", "dog")],
            r"all hold the same folders \(cat, dog\): give one of them, as --dataset=folder:.*/2019",
        ),
        (
            [f"{c}/{s}/1.png" for c in ("cat", "dog") for s in ("test", "train")],
            r"each hold test, train: put the splits at the top, as test/cat/",
        ),
        ([f"{f}/{c}/1.png" for f in ("valid", "testing") for c in "ab"], "but no train/"),
        (
            [f"{f}/{c}/1.png" for f in ("Train", "Test", "extra") for c in "ab"],
            r"beside other folders \(extra\)",
        ),
        ([f"photos/{c}/1.png" for c in "ab"], r"did you mean --dataset=folder:.*/photos\?"),
        ([f"a/b/photos/{c}/1.png" for c in "ab"], r"did you mean --dataset=folder:.*/a/b/photos\?"),
        ([f"photos/{s}/{c}/1.png" for s in ("train", "val") for c in "ab"], r"did you mean .*/photos\?"),
    ],
)
def test_folders_that_are_not_understood_are_refused_with_what_to_do(tmp_path, files, message):
    with pytest.raises(UserError, match=message) as caught:
        sources.load(write(tmp_path, files))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_one_folder_too_low_is_told_the_folder_above(tmp_path):
    write(tmp_path / "photos", [f"{c}/{i}.png" for c in ("cat", "dog", "emu") for i in range(3)])
    with pytest.raises(
        UserError, match=r"give the folder above, .*/photos, whose 3 folders are the classes\?"
    ):
        sources.load(f"folder:{tmp_path / 'photos' / 'dog'}")


def test_one_folder_of_images_in_each_class_is_no_sign_of_splits(tmp_path):
    source = sources.load(write(tmp_path, [f"{c}/images/{i}.png" for c in ("n01", "n02") for i in range(9)]))
    assert source.class_names == ("n01", "n02")


def test_empty_class_folders_are_refused_by_a_run_and_listed_by_a_check(tmp_path):
    dataset = write(tmp_path, [f"{c}/{i}.png" for c in "ab" for i in range(9)])
    (tmp_path / "c").mkdir()
    (tmp_path / "d").mkdir()
    for number in range(8):
        (tmp_path / "d" / f"IMG_{number}.CR2").write_bytes(b"raw")
    with pytest.raises(UserError, match=r"without images \(c, d: \.cr2 8\): convert them to JPEG or PNG"):
        sources.load(dataset)
    source = sources.load(dataset, list_findings=True)
    assert source.class_names == ("a", "b")
    assert "without images (c, d: .cr2 8)" in source.findings[0]
