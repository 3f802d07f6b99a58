"""The record of a run's images: compact, the same for the same data, and exact about what has changed."""

import shutil
import tracemalloc

import numpy as np
import pytest
from folders import picture, write

from finetune_jax.data import record, sources
from finetune_jax.data.examples import Examples, Source
from finetune_jax.errors import UserError

FILES = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(20)]


@pytest.fixture
def photos(tmp_path):
    write(tmp_path / "photos", FILES)
    return tmp_path / "photos"


def record_now(folder) -> record.Record:
    return record.record_of(sources.load(f"folder:{folder}"))


def test_a_record_comes_back_as_it_was_and_equal_records_are_equal_files(photos):
    before = record_now(photos)
    content = record.to_bytes(before)
    again = record.from_bytes(content, "data.npz")
    assert (again.dataset, again.class_names, again.split_rule) == (f"folder:{photos}", ("cat", "dog"), 2)
    for name, split in before.splits.items():
        assert list(again.splits[name].names) == list(split.names)
        np.testing.assert_array_equal(again.splits[name].digests, split.digests)
        np.testing.assert_array_equal(again.splits[name].labels, split.labels)
    assert again.digest == before.digest
    assert record.to_bytes(record_now(photos)) == content


def test_nothing_differs_where_the_data_set_was_moved(photos, tmp_path):
    before = record_now(photos)
    shutil.copytree(photos, tmp_path / "elsewhere")
    now = record_now(tmp_path / "elsewhere")
    assert now.digest == before.digest
    assert record.difference(before, now) == ""


def test_the_sentence_counts_and_names_what_was_added_removed_changed_and_renamed(photos):
    before = record_now(photos)
    for number in range(5):
        (photos / "cat" / f"new{number}.png").write_bytes(picture(100 + number))
    (photos / "dog" / "3.png").unlink()
    (photos / "dog" / "4.png").write_bytes(picture(200))
    (photos / "dog" / "5.png").rename(photos / "dog" / "other.png")
    sentence = record.difference(before, record_now(photos))
    assert sentence == (
        "the data has other images than when the run began: 5 added (cat/new0.png, cat/new1.png, cat/new2.png, …), "
        "1 removed (dog/3.png), 1 changed (dog/4.png), 1 renamed (dog/other.png)"
    )


def test_other_classes_are_told_before_other_images(photos):
    before = record_now(photos)
    for number in range(9):
        path = photos / "emu" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(100 + number))
    sentence = record.difference(before, record_now(photos))
    assert sentence == "the data has other classes than when the run began: emu came"


def test_an_image_of_another_class_or_split_is_a_difference(photos):
    before = record_now(photos)
    shutil.move(photos / "cat" / "7.png", photos / "dog" / "77.png")
    assert "1 renamed (dog/77.png)" in record.difference(before, record_now(photos))
    other_seed = record.record_of(sources.load(f"folder:{photos}", seed=5))
    assert "in another split" in record.difference(record_now(photos), other_seed)


@pytest.mark.parametrize("dataset", ["digits"])
def test_data_that_is_embedded_has_a_record_by_the_old_rule(dataset):
    known = record.record_of(sources.load(dataset))
    assert known.split_rule == 1
    assert [len(known.splits[split].names) for split in ("train", "validation", "test")] == [1294, 144, 359]


def test_the_images_of_a_split_are_found_again_in_a_folder_that_has_grown(photos):
    source = sources.load(f"folder:{photos}")
    before = record.record_of(source)
    for name in ("ant", "cat"):
        for number in range(30):
            path = photos / name / f"more{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(picture(60 + number + 30 * (name == "cat")))
    grown = sources.load(f"folder:{photos}")
    examples, changes = record.restored(before, grown, "test")
    assert list(examples.names) == list(source.splits["test"].names)
    np.testing.assert_array_equal(examples.labels, source.splits["test"].labels)
    assert examples.fingerprint == source.splits["test"].fingerprint
    for i in range(len(examples)):
        np.testing.assert_array_equal(examples.read(i), source.splits["test"].read(i))
    assert changes == "the data has other classes than when the run began: ant came"


def test_images_that_are_gone_or_changed_cannot_be_found_again(photos):
    source = sources.load(f"folder:{photos}")
    before = record.record_of(source)
    gone, changed = (name for name in list(source.splits["test"].names)[:2])
    shutil.os.unlink(gone)
    with open(changed, "wb") as file:
        file.write(picture(250))
    with pytest.raises(
        UserError, match=r"1 were removed \(.*\), 1 were changed \(.*\); restore them, or measure"
    ):
        record.restored(before, sources.load(f"folder:{photos}"), "test")


def test_images_that_were_trained_on_are_known_by_their_content(photos):
    source = sources.load(f"folder:{photos}")
    before = record.record_of(source)
    assert record.trained_on(before, source.splits["train"]).all()
    assert not record.trained_on(before, source.splits["test"]).any()
    copy = source.splits["train"].names[3]
    shutil.copy(copy, photos / "dog" / "copy.png")
    grown = sources.load(f"folder:{photos}", split_rule=1)
    every = [grown.splits[split] for split in ("train", "validation", "test")]
    assert (
        sum(int(record.trained_on(before, part).sum()) for part in every) == len(source.splits["train"]) + 1
    )


@pytest.mark.parametrize("damage", range(8))
def test_a_damaged_record_is_one_sentence(photos, damage):
    content = bytearray(record.to_bytes(record_now(photos)))
    rng = np.random.default_rng(damage)
    if damage < 2:
        content = content[: len(content) // (damage + 2)]
    elif damage < 6:
        for place in rng.integers(0, len(content), 5):
            content[place] ^= int(rng.integers(1, 256))
    else:
        content = bytearray(b"PK\x03\x04" if damage == 6 else b"")
    with pytest.raises(UserError, match=r"^run/data\.npz, the record of the run's images, is damaged"):
        record.from_bytes(bytes(content), "run/data.npz")


def test_a_hundred_thousand_images_take_two_megabytes_and_no_time():
    count = 100_000
    rng = np.random.default_rng(0)
    examples = Examples(
        labels=rng.integers(0, 1000, count).astype(np.int32),
        names=[f"photos/n{i % 1000:04}/n{i % 1000:04}_{i}.JPEG" for i in range(count)],
        read=lambda i: np.zeros((1, 1, 3), np.uint8),
        fingerprint="",
        digests=rng.integers(0, 256, (count, 16), dtype=np.uint8),
    )
    classes = tuple(f"n{i:04}" for i in range(1000))
    tracemalloc.start()
    known = record.record_of(Source("folder:photos", classes, {"train": examples}, root="photos/"))
    content = record.to_bytes(known)
    assert record.from_bytes(content, "x").digest == known.digest
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(content) < 2.6e6
    assert peak < 100e6
