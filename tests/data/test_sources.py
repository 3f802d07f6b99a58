"""What --dataset opens: digits, folders and TFDS, each complete with three splits or one clear error."""

import io
import os
import shutil
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune_jax.data import sources
from finetune_jax.data.decode import UnreadableImage
from finetune_jax.data.examples import Examples, Source, concatenate
from finetune_jax.errors import UserError

SPLITS = ("train", "validation", "test")


def colour(number: int) -> tuple[int, int, int]:
    return (7 * number % 256, number % 256, 255 - number % 256)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), colour(number)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: Sequence[str]) -> str:
    """Writes pictures 0, 1, … at these paths; returns the --dataset that names them."""
    for number, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return f"folder:{root}"


def short_names(examples: Examples, root: Path) -> list[str]:
    return [os.path.relpath(name, root) for name in examples.names]


def assert_partition(source: Source, total: int) -> None:
    names = [name for split in SPLITS for name in source.splits[split].names]
    assert len(names) == len(set(names)) == total


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
    with pytest.raises(UserError, match="digits, folder:PATH and tfds:NAME") as caught:
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


# --- folders ----------------------------------------------------------------------------------------------


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
    assert {split: len(source.splits[split]) for split in SPLITS} == {"train": 9, "validation": 3, "test": 6}
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
    source = sources.load(write(tmp_path, [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(20)]))
    assert_partition(source, 40)
    assert [np.bincount(source.splits[split].labels).tolist() for split in SPLITS] == [
        [14, 15],
        [2, 1],
        [4, 4],
    ]
    assert [note.split(",")[0] for note in source.notes] == ["test: 8 images", "validation: 3 images"]


def test_of_train_and_test_only_train_gives_to_validation(tmp_path):
    names = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in range(10)]
    source = sources.load(write(tmp_path, names))
    assert [len(source.splits[split]) for split in SPLITS] == [18, 2, 20]
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
    assert source.notes[0] == "2 files are no images by their suffix and were left out (no suffix, .txt)"


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
    from finetune_jax.data import folder

    dataset = write(tmp_path / "data", [f"{c}/{i}.png" for c in "ab" for i in range(10)])
    for path in (tmp_path / "data").rglob("*.png"):
        os.utime(path, ns=(10**18, 10**18))
    first = sources.load(dataset, cache_dir=tmp_path / "cache").fingerprint
    reads: list[str] = []
    digest = folder._digest
    monkeypatch.setattr(folder, "_digest", lambda path: reads.append(path) or digest(path))
    assert sources.load(dataset, cache_dir=tmp_path / "cache").fingerprint == first
    assert reads == []
    changed = tmp_path / "data" / "b" / "3.png"
    changed.write_bytes(picture(77))
    second = sources.load(dataset, cache_dir=tmp_path / "cache").fingerprint
    assert second != first
    assert reads == [str(changed)]
    # Changed a moment ago: it might change again without a new time stamp, so it is read once more.
    assert sources.load(dataset, cache_dir=tmp_path / "cache").fingerprint == second
    assert reads == [str(changed)] * 2
    for entry in (tmp_path / "cache" / "index").iterdir():
        entry.write_text("{ not json")
    assert sources.load(dataset, cache_dir=tmp_path / "cache").fingerprint == second


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


# --- TFDS -------------------------------------------------------------------------------------------------


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
        ("tfds:tiny_photos:odd", r"needs the features image and label \(a class\), but has file, image"),
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
