"""A damaged cache or index costs time and nothing else."""

import json
import os

import numpy as np
import pytest
from folders import write

from finetune_jax.data import cache, folder, index
from finetune_jax.data.decode import Preprocessing, preprocess

TINY = Preprocessing(4, 5)


@pytest.fixture
def photos(tmp_path):
    write(tmp_path / "photos", [f"{c}/{i}.png" for c in "ab" for i in range(6)])
    return tmp_path


def materialise(root) -> np.ndarray:
    cache._checked.clear()  # as in a new process
    train = folder.read(str(root / "photos"), cache_dir=root / "cache").splits["train"]
    arrays = cache.materialise(train, TINY, cache_dir=root / "cache", workers=1)
    for i in range(len(train)):
        np.testing.assert_array_equal(arrays.images[i], preprocess(train.read(i), TINY))
    np.testing.assert_array_equal(arrays.sizes, [(2, 3)] * len(train))
    return arrays.images


def cache_folder(root):
    (found,) = (path for path in (root / "cache").iterdir() if len(path.name) == 32)
    return found


BYTES = {
    "empty": b"",
    "cut": b"\x93NUMPY\x01\0",
    "bracket": b"\x93NUMPY\x01\0\x76\0" + b"{'descr': (".ljust(117) + b"\n",
    "huge": b"\x93NUMPY\x01\0\x76\0"
    + b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999,), }".ljust(117)
    + b"\n",
    "object": b"\x93NUMPY\x01\0\x76\0"
    + b"{'descr': '|O', 'fortran_order': False, 'shape': (12,), }".ljust(117)
    + b"\n",
    "zip": b"PK\x05\x06" + bytes(18),
    "deep": b"[" * 100_000,
    "list": b"[1, 2]",
    "binary": b"\xff\xfe\x00",
    "number": b"1" + b"0" * 5000,
}


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("name", ["images.npy", "sizes.npy", "digests.npy", "meta.json"])
def test_a_file_of_a_cache_that_is_something_else_is_made_again(photos, name, kind):
    materialise(photos)
    (cache_folder(photos) / name).write_bytes(BYTES[kind])
    materialise(photos)


@pytest.mark.parametrize("name", ["images.npy", "sizes.npy", "digests.npy", "meta.json"])
def test_a_flipped_bit_of_a_small_cache_is_found(photos, name):
    materialise(photos)
    path = cache_folder(photos) / name
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content) * 8, 20):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        materialise(photos)
        path = cache_folder(photos) / name


def test_a_cache_of_other_images_in_the_place_of_this_one_is_made_again(photos):
    materialise(photos)
    (other,) = (photos / "other",)
    write(other / "photos", [f"{c}/{i}.png" for c in "xyz" for i in range(4)])
    materialise(other)
    right, wrong = cache_folder(photos), cache_folder(other)
    for path in wrong.iterdir():
        os.replace(path, right / path.name)
    materialise(photos)


def test_the_whole_check_finds_every_damaged_pixel(photos):
    materialise(photos)
    assert cache.check_all(photos / "cache") == (1, ())
    path = cache_folder(photos) / "images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)
    assert cache.check_all(photos / "cache") == (1, (cache_folder(photos),))


def test_a_sample_is_checked_once_for_each_process(photos, monkeypatch):
    materialise(photos)
    calls = []
    damaged = cache._damaged
    monkeypatch.setattr(cache, "_damaged", lambda *given: calls.append(given) or damaged(*given))
    train = folder.read(str(photos / "photos"), cache_dir=photos / "cache").splits["train"]
    cache._checked.clear()
    for _ in range(3):
        cache.materialise(train, TINY, cache_dir=photos / "cache", workers=1)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", BYTES)
def test_an_index_that_is_something_else_is_read_anew(photos, kind):
    materialise(photos)
    for path in (photos / "cache" / "index").iterdir():
        path.write_bytes(BYTES[kind])
    materialise(photos)


def test_an_index_whose_digests_have_changed_is_not_believed(tmp_path):
    index.remember(tmp_path, "key", {"a": [1, 2]})
    assert index.recall(tmp_path, "key") == {"a": [1, 2]}
    (path,) = (tmp_path / "index").iterdir()
    path.write_bytes(path.read_bytes().replace(b"2]", b"3]"))
    assert index.recall(tmp_path, "key") == {}


@pytest.mark.parametrize("entry", [[1, 2], "text", [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, "zz", None], None, 7])
def test_an_entry_of_another_form_is_read_anew(photos, entry, monkeypatch):
    from finetune_jax.data import digests

    monkeypatch.setattr(digests, "RACY_NS", 0)
    before = folder.read(str(photos / "photos"), cache_dir=photos / "cache").fingerprint
    (path,) = (photos / "cache" / "index").iterdir()
    key = path.stem
    entries = dict.fromkeys(index.recall(photos / "cache", key), entry)
    index.remember(photos / "cache", key, json.loads(json.dumps(entries)))
    assert len(entries) == 12
    assert folder.read(str(photos / "photos"), cache_dir=photos / "cache").fingerprint == before


def test_files_that_change_places_with_equal_sizes_and_times_are_noticed(photos, monkeypatch):
    from finetune_jax.data import digests

    monkeypatch.setattr(digests, "RACY_NS", 0)
    for path in (photos / "photos").rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    first, second = photos / "photos" / "a" / "0.png", photos / "photos" / "b" / "0.png"
    second.write_bytes(second.read_bytes().ljust(200, b"\0"))
    first.write_bytes(first.read_bytes().ljust(200, b"\0"))
    for path in (first, second):
        os.utime(path, (1e9, 1e9))
    read = lambda: folder.read(str(photos / "photos"), cache_dir=photos / "cache").fingerprint  # noqa: E731
    before = read()
    first.rename(photos / "x")
    second.rename(first)
    (photos / "x").rename(second)
    assert read() != before
    # In place, with size and time of before: the time of the last change of the inode cannot be set back.
    content = bytearray(first.read_bytes())
    before = read()
    content[-1] ^= 1
    first.write_bytes(content)
    os.utime(first, (1e9, 1e9))
    assert read() != before


def test_a_cache_directory_that_is_a_file_loses_no_time_and_no_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    index.remember(tmp_path / "file", "key", {"a": 1})
    assert index.recall(tmp_path / "file", "key") == {}
