"""Data sets in folders: splits, names, links, and what is no data set."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from folders import SPLITS, assert_partition, colour, picture, write

from finetune_jax.data import sources
from finetune_jax.data.decode import UnreadableImage
from finetune_jax.data.examples import Examples
from finetune_jax.errors import UserError


def short_names(examples: Examples, root: Path) -> list[str]:
    return [os.path.relpath(name, root) for name in examples.names]


def test_given_splits_are_kept_and_both_names_of_validation_are_known(tmp_path):
    for number, validation in enumerate(("validation", "val")):
        root = tmp_path / str(number)
        dataset = write(
            root, [f"{s}/{c}/1.png" for s in ("train", validation, "test") for c in ("cat", "dog")]
        )
        source = sources.load(dataset)
        assert source.class_names == ("cat", "dog")
        assert source.notes == ()
        for split, folder in zip(SPLITS, ("train", validation, "test"), strict=True):
            assert short_names(source.splits[split], root) == [f"{folder}/cat/1.png", f"{folder}/dog/1.png"]
            assert source.splits[split].labels.tolist() == [0, 1]


def test_given_validation_images_may_join_the_training_images(tmp_path):
    names = [f"{s}/{c}/{i}.png" for s in ("train", "val", "test") for c in ("cat", "dog") for i in range(3)]
    dataset = write(tmp_path / "data", names)
    source = sources.load(dataset, train_on_validation=True, validation_fraction=0.0)
    assert {split: len(source.splits[split]) for split in SPLITS} == {"train": 12, "validation": 0, "test": 6}
    assert sum("/val/" in name for name in source.splits["train"].names) == 6
    assert "train: with the 6 validation images of the data set" in source.notes
    # A share of all of them can be held out again.
    source = sources.load(dataset, train_on_validation=True, validation_fraction=0.25)
    assert len(source.splits["train"]) + len(source.splits["validation"]) == 12
    assert len(source.splits["validation"]) > 0
    with pytest.raises(UserError, match="--train_on_validation: digits brings no validation split"):
        sources.load("digits", train_on_validation=True)


def test_every_example_is_read_from_its_own_file(tmp_path):
    names = [f"train/{c}/{i}.png" for c in "ba" for i in range(4)] + ["test/a/x.png"]
    source = sources.load(write(tmp_path, names), validation_fraction=0.0)
    for split in ("train", "test"):
        examples = source.splits[split]
        for i, name in enumerate(short_names(examples, tmp_path)):
            np.testing.assert_array_equal(examples.read(i)[0, 0], colour(names.index(name)))
            assert source.class_names[examples.labels[i]] == name.split("/")[1]


def test_missing_splits_are_carved_out_of_train_class_by_class(tmp_path):
    source = sources.load(write(tmp_path, [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(100)]))
    assert_partition(source, 200)
    counts = {split: np.bincount(source.splits[split].labels, minlength=2) for split in SPLITS}
    # 20 % of 200, and 10 % of the rest, within three standard deviations.
    assert 24 <= counts["test"].sum() <= 56
    assert 5 <= counts["validation"].sum() <= 28
    assert min(map(min, counts.values())) > 0
    assert [note.split(" of train")[0] for note in source.notes] == [
        f"test: {counts['test'].sum()} images, 20 %",
        f"validation: {counts['validation'].sum()} images, 10 %",
    ]


def test_of_train_and_test_only_train_gives_to_validation(tmp_path):
    names = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in range(10)]
    source = sources.load(write(tmp_path, names))
    assert len(source.splits["train"]) + len(source.splits["validation"]) == len(source.splits["test"]) == 20
    assert all("/train/" in name for name in source.splits["validation"].names)


def test_order_and_fingerprint_do_not_depend_on_the_file_system(tmp_path, monkeypatch):
    names = [f"{c}/{i}.png" for c in "abc" for i in range(5)]
    first = sources.load(write(tmp_path / "one", names))
    # The same content elsewhere, written in another order, listed in another order, modified at another time.
    for number in reversed(range(len(names))):
        path = tmp_path / "two" / names[number]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
        os.utime(path, ns=(number, number))
    scandir = os.scandir

    class Reversed:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self):
            return iter(sorted(self.entries, key=lambda entry: entry.name, reverse=True))

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    second = sources.load(f"folder:{tmp_path / 'two'}")
    assert second.fingerprint == first.fingerprint
    (tmp_path / "two" / "b" / "3.png").write_bytes(picture(99))
    assert sources.load(f"folder:{tmp_path / 'two'}").fingerprint != first.fingerprint


def test_nested_files_belong_to_the_class_folder_and_others_are_left_out(tmp_path):
    names = ["cat/a.png", "cat/home/deep/b.JPG", "dog/c.Jpeg", "dog/d.png"]
    dataset = write(
        tmp_path, [*names, "cat/.hidden.png", ".git/x.png", "cat/.thumbs/y.png", "dog/n.txt", "cat/n"]
    )
    (tmp_path / "README.md").write_text("about")
    source = sources.load(dataset, test_fraction=0.0, validation_fraction=0.0)
    assert short_names(source.splits["train"], tmp_path) == names
    assert source.notes[0] == "2 files are no images by their suffix and were left out (no suffix 1, .txt 1)"


def test_symbolic_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere", ["kitten.png", "more/tom.png"])
    dataset = write(tmp_path / "data", ["dog/a.png"])
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "more" / "back").symlink_to(tmp_path / "elsewhere")
    source = sources.load(dataset, test_fraction=0.0, validation_fraction=0.0)
    assert short_names(source.splits["train"], tmp_path / "data") == [
        "cat/kitten.png",
        "cat/more/tom.png",
        "dog/a.png",
    ]


def test_a_dead_link_is_an_unreadable_image_not_a_missing_one(tmp_path):
    dataset = write(tmp_path, ["cat/a.png", "dog/a.png"])
    (tmp_path / "cat" / "b.png").symlink_to(tmp_path / "nowhere.png")
    train = sources.load(dataset, test_fraction=0.0, validation_fraction=0.0).splits["train"]
    with pytest.raises(UnreadableImage, match="No such file"):
        train.read(train.names.index(str(tmp_path / "cat" / "b.png")))


def test_unicode_class_names_are_one_class_however_they_are_written(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD"))
    dataset = write(tmp_path, [f"train/{composed}/1.png", "train/犬/1.png", f"test/{decomposed}/1.png"])
    source = sources.load(dataset, validation_fraction=0.0)
    assert source.class_names == (composed, "犬")
    assert source.splits["test"].labels.tolist() == [0]


def test_file_names_that_are_no_utf8_can_be_read_and_printed(tmp_path):
    dataset = write(tmp_path, ["cat/a.png", "dog/a.png"])
    odd = os.fsencode(tmp_path) + b"/dog/\xff.png"
    with open(odd, "wb") as file:
        file.write(picture(5))
    train = sources.load(dataset, test_fraction=0.0, validation_fraction=0.0).splits["train"]
    names = short_names(train, tmp_path)
    assert names == ["cat/a.png", "dog/a.png", "dog/\\xff.png"]
    "".join(names).encode("utf-8")
    np.testing.assert_array_equal(train.read(2)[0, 0], colour(5))


def test_classes_may_be_called_like_splits(tmp_path):
    source = sources.load(
        write(tmp_path, [f"{c}/{i}.png" for c in ("train", "tram", "truck") for i in range(5)])
    )
    assert source.class_names == ("train", "tram", "truck")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["readme.txt"], "holds no class folders"),
        (["a.png", "b.png"], r"in no class folder \(a.png, b.png\)"),
        (["a.png", "cat/b.png", "dog/c.png"], r"in no class folder \(a.png\)"),
        (["cat/b.png"], r"a single training class \(cat\)"),
        (["cat/b.png", "dog/readme.txt", "emu/x.md"], r"without images \(dog, emu\)"),
        (["train/cat/b.png", "dog/c.png"], r"folders of splits \(train\) beside other folders \(dog\)"),
        (["train/a.png", "test/b.png"], r"train holds images that are in no class folder"),
        (["val/cat/a.png", "test/cat/b.png"], "no train/"),
        (["train/cat/a.png", "val/cat/a.png", "validation/cat/a.png"], "has both val/ and validation/"),
        (
            [f"{s}/{c}/a.png" for s in ("train", "test") for c in "ab"] + ["test/emu/a.png"],
            r"the test split has classes that train has not \(emu\)",
        ),
        (
            [f"train/{c}/a.png" for c in "ab"] + ["test/unsorted.png"],
            r"test holds images .* \(unsorted.png\)",
        ),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused_in_one_sentence(tmp_path, files, message):
    dataset = write(tmp_path, files)
    with pytest.raises(UserError, match=message) as caught:
        sources.load(dataset)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        sources.load(f"folder:{tmp_path / 'gone'}")
    (tmp_path / "photos.zip").write_bytes(b"")
    with pytest.raises(UserError, match="this is a file"):
        sources.load(f"folder:{tmp_path / 'photos.zip'}")


def test_classes_of_one_image_cannot_give_a_test_split(tmp_path):
    with pytest.raises(UserError, match=r"one training image.*--test_fraction=0"):
        sources.load(write(tmp_path, ["cat/a.png", "dog/a.png"]))


def test_a_class_without_test_images_is_noted(tmp_path):
    names = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in range(9)] + [
        "train/c/1.png"
    ]
    assert sources.load(write(tmp_path, names)).notes[0] == "test: no images of 1 classes (c)"


def test_unchanged_files_are_not_read_again(tmp_path, monkeypatch):
    from finetune_jax.data import digests

    monkeypatch.setattr(digests, "RACY_NS", 0)  # the time at which a file's status changed cannot be set back
    dataset = write(tmp_path / "data", [f"{c}/{i}.png" for c in "ab" for i in range(10)])
    for path in (tmp_path / "data").rglob("*.png"):
        os.utime(path, ns=(10**18, 10**18))
    first = sources.load(dataset, cache_dir=tmp_path / "cache").fingerprint
    reads: list[str] = []
    read = digests.read_regular
    monkeypatch.setattr(digests, "read_regular", lambda path: reads.append(path) or read(path))
    assert sources.load(dataset, cache_dir=tmp_path / "cache").fingerprint == first
    assert reads == []
    changed = tmp_path / "data" / "b" / "3.png"
    changed.write_bytes(picture(77))
    second = sources.load(dataset, cache_dir=tmp_path / "cache").fingerprint
    assert second != first
    assert reads == [str(changed)]
    # Changed a moment ago: it might change again without a new time stamp, so it is read once more.
    monkeypatch.setattr(digests, "RACY_NS", 10**12)
    changed.write_bytes(picture(78))
    sources.load(dataset, cache_dir=tmp_path / "cache")
    changed.write_bytes(picture(77))
    assert sources.load(dataset, cache_dir=tmp_path / "cache").fingerprint == second
    assert reads.count(str(changed)) == 3
    for entry in (tmp_path / "cache" / "index").iterdir():
        entry.write_text("{ not json")
    assert sources.load(dataset, cache_dir=tmp_path / "cache").fingerprint == second
