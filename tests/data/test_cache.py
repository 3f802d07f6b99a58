"""The cache of decoded images: right, whole or absent, bounded in memory, and clear when it cannot be."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tqdm
from child_processes import SECONDS
from PIL import Image

from finetune_jax.data import cache, sources
from finetune_jax.data.decode import Preprocessing, UnreadableImage, preprocess
from finetune_jax.data.examples import Examples
from finetune_jax.data.parallel import ordered_map
from finetune_jax.errors import UserError

TINY = Preprocessing(image_size=4, resize=5)


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (6, 7, 3), dtype=np.uint8)


def examples_of(count: int, *, broken: tuple[int, ...] = (), content: str = "content") -> Examples:
    def read(i: int) -> np.ndarray:
        if i in broken:
            raise UnreadableImage(f"photo{i}.jpg", "truncated")
        return picture(i)

    return Examples(
        labels=np.arange(count, dtype=np.int32) % 3,
        names=[f"photo{i}.jpg" for i in range(count)],
        read=read,
        fingerprint=f"{content} {count} {broken}",
    )


def expected(indices) -> np.ndarray:
    return np.stack([preprocess(picture(i), TINY) for i in indices])


def unread(i: int) -> np.ndarray:
    raise AssertionError("an image was read again")


def with_read(examples: Examples, read) -> Examples:
    return Examples(examples.labels, examples.names, read, examples.fingerprint)


# --- the parallel map -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 300])
def test_the_parallel_map_keeps_the_order(workers, count):
    def slow_for_some(i: int) -> int:
        time.sleep(0.002 if i % 50 == 0 else 0)
        return i * i

    assert list(ordered_map(slow_for_some, count, workers=workers)) == [i * i for i in range(count)]


def test_the_parallel_map_does_not_run_ahead_of_its_consumer():
    started = []
    results = ordered_map(lambda i: started.append(i), 5000, workers=2)
    for _ in range(100):
        next(results)
    time.sleep(0.1)
    assert len(started) <= 100 + 32 * 2 + 8
    results.close()
    assert len(started) < 300


def test_an_exception_ends_the_parallel_map_and_its_threads():
    def fails_at_20(i: int) -> int:
        if i == 20:
            raise KeyError("twenty")
        return i

    before = set(threading.enumerate())
    seen = []
    with pytest.raises(KeyError, match="twenty"):
        seen.extend(ordered_map(fails_at_20, 100, workers=3))
    assert seen == list(range(len(seen)))
    assert len(seen) <= 20
    started = set(threading.enumerate()) - before
    # The first bar of a process starts tqdm's own thread, which watches over all bars.
    assert [thread.name for thread in started if not isinstance(thread, tqdm.TMonitor)] == []


def test_several_threads_work_at_once():
    both = threading.Barrier(2, timeout=60)  # broken, and the test with it, unless two threads meet

    def meet(i: int) -> int:
        if i in (0, 8):  # the first of the first two chunks
            both.wait()
        return i

    assert list(ordered_map(meet, 16, workers=2)) == list(range(16))


def test_a_progress_bar_is_silent_where_stderr_is_no_terminal(capfd):
    assert len(list(ordered_map(abs, 100, progress=True, title="decoding"))) == 100
    assert capfd.readouterr() == ("", "")


# --- what is in it ----------------------------------------------------------------------------------------


def test_images_labels_and_order_are_those_of_the_examples(tmp_path):
    arrays = cache.materialise(examples_of(40), TINY, cache_dir=tmp_path)
    np.testing.assert_array_equal(arrays.images, expected(range(40)))
    np.testing.assert_array_equal(arrays.labels, np.arange(40) % 3)
    np.testing.assert_array_equal(arrays.kept, np.arange(40))
    np.testing.assert_array_equal(arrays.sizes, [(6, 7)] * 40)
    np.testing.assert_allclose(arrays.aspects, 7 / 6, rtol=1e-6)
    assert arrays.labels.dtype == np.int32
    assert arrays.skipped == ()
    assert isinstance(arrays.images, np.memmap)
    assert not arrays.images.flags.writeable


def test_a_second_start_reads_no_image(tmp_path):
    examples = examples_of(10)
    first = cache.materialise(examples, TINY, cache_dir=tmp_path)
    second = cache.materialise(with_read(examples, unread), TINY, cache_dir=tmp_path)
    np.testing.assert_array_equal(first.images, second.images)


def test_content_preprocessing_and_members_each_have_their_own_cache(tmp_path):
    examples = examples_of(10)
    cache.materialise(examples, TINY, cache_dir=tmp_path)
    for other, preprocessing in (
        (examples_of(10, content="other"), TINY),
        (examples.subset(np.arange(9)), TINY),
        (examples.subset(np.arange(10)[::-1]), TINY),
        (examples, Preprocessing(image_size=4, resize=6)),
        (examples, Preprocessing(image_size=4, resize=5, mode="shorter_side")),
    ):
        with pytest.raises(AssertionError, match="read again"):
            cache.materialise(with_read(other, unread), preprocessing, cache_dir=tmp_path)


def test_labels_are_those_asked_for_not_those_cached(tmp_path):
    examples = examples_of(6)
    cache.materialise(examples, TINY, cache_dir=tmp_path)
    arrays = cache.materialise(with_read(examples, unread).relabelled([5, 6, 7]), TINY, cache_dir=tmp_path)
    assert arrays.labels.tolist() == [5, 6, 7, 5, 6, 7]


def test_an_empty_split_gives_empty_arrays(tmp_path):
    arrays = cache.materialise(examples_of(5).subset(np.arange(0)), TINY, cache_dir=tmp_path)
    assert arrays.images.shape == (0, 4, 4, 3)
    assert arrays.labels.shape == arrays.kept.shape == (0,)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_photographs_ends_up_as_pixels(tmp_path):
    for number, name in enumerate(("cat/a.png", "cat/b.jpg", "dog/c.png")):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat(np.repeat(picture(number), 4, axis=0), 4, axis=1)).save(path, quality=95)
    source = sources.load(f"folder:{tmp_path / 'data'}", test_fraction=0.0, validation_fraction=0.0)
    train = source.splits["train"]
    arrays = cache.materialise(train, Preprocessing(8, 8), cache_dir=tmp_path / "cache", workers=2)
    for i in range(3):
        np.testing.assert_array_equal(arrays.images[i], preprocess(train.read(i), Preprocessing(8, 8)))


# --- unreadable images ------------------------------------------------------------------------------------


def test_unreadable_images_are_counted_and_named_in_one_error(tmp_path):
    broken = tuple(range(0, 36, 3))
    with pytest.raises(UserError) as caught:
        cache.materialise(examples_of(40, broken=broken), TINY, cache_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith("12 of 40 images cannot be read")
    assert "--skip_unreadable" in message
    assert "finetune-jax check_data" in message
    assert "  photo0.jpg: truncated\n" in message
    assert message.count("truncated") == 10
    assert message.endswith("and 2 more")
    assert list(tmp_path.iterdir()) == []


def test_unreadable_images_can_be_left_out_and_are_reported(tmp_path):
    examples = examples_of(20, broken=(0, 7, 19))
    kept = [i for i in range(20) if i not in (0, 7, 19)]
    for examples_now in (examples, with_read(examples, unread)):
        arrays = cache.materialise(examples_now, TINY, cache_dir=tmp_path, skip_unreadable=True)
        np.testing.assert_array_equal(arrays.images, expected(kept))
        np.testing.assert_array_equal(arrays.kept, kept)
        np.testing.assert_array_equal(arrays.labels, np.array(kept) % 3)
        assert arrays.skipped == tuple((f"photo{i}.jpg", "truncated") for i in (0, 7, 19))
    with pytest.raises(UserError, match="3 of 20"):
        cache.materialise(with_read(examples, unread), TINY, cache_dir=tmp_path)


def test_a_split_without_any_readable_image_is_an_error_in_any_case(tmp_path):
    with pytest.raises(UserError, match=r"3 of 3 images cannot be read.*none would be left"):
        cache.materialise(examples_of(3, broken=(0, 1, 2)), TINY, cache_dir=tmp_path, skip_unreadable=True)


def test_an_operating_system_error_while_reading_is_an_unreadable_image(tmp_path):
    def read(i: int) -> np.ndarray:
        raise OSError(5, "Input/output error")

    with pytest.raises(UserError, match=r"photo1\.jpg: Input/output error"):
        cache.materialise(with_read(examples_of(3), read), TINY, cache_dir=tmp_path)


# --- damage, competition, full disks ----------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["short", "no meta", "no sizes", "bad meta", "other shape"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    examples = examples_of(10)
    cache.materialise(examples, TINY, cache_dir=tmp_path)
    (folder,) = tmp_path.iterdir()
    if damage == "short":
        os.truncate(folder / "images.npy", 300)
    elif damage == "no meta":
        (folder / "meta.json").unlink()
    elif damage == "no sizes":
        (folder / "sizes.npy").unlink()
    elif damage == "bad meta":
        (folder / "meta.json").write_text("{")
    else:
        np.save(folder / "images.npy", np.zeros((9, 4, 4, 3), np.uint8))
    arrays = cache.materialise(examples, TINY, cache_dir=tmp_path)
    np.testing.assert_array_equal(arrays.images, expected(range(10)))
    assert list(tmp_path.iterdir()) == [folder]


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from finetune_jax.data import cache
from finetune_jax.data.decode import Preprocessing
from finetune_jax.data.examples import Examples

cache_dir, mode = Path(sys.argv[1]), sys.argv[2]

def read(i):
    if mode == "race":
        (cache_dir.parent / f"at_work_{sys.argv[3]}").touch()
        while len(list(cache_dir.parent.glob("at_work_*"))) < 2:
            time.sleep(0.01)
    elif i == 400:  # some chunks are written by then
        (cache_dir.parent / "at_work").touch()
        time.sleep(60)
    return np.full((4, 4, 3), i % 256, np.uint8)

examples = Examples(np.zeros(600, np.int32), [str(i) for i in range(600)], read, "shared")
arrays = cache.materialise(examples, Preprocessing(4, 4), cache_dir=cache_dir, workers=2)
assert (arrays.images[:, 0, 0, 0] == np.arange(600) % 256).all()
"""


def child(tmp_path: Path, *arguments: str) -> subprocess.Popen:
    root = Path(cache.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.fspath(root)}
    command = [sys.executable, "-c", CHILD, os.fspath(tmp_path / "cache"), *arguments]
    return subprocess.Popen(command, env=environment)


def test_two_processes_that_build_the_same_cache_both_end_well(tmp_path):
    children = [child(tmp_path, "race", name) for name in "ab"]
    assert [process.wait(timeout=SECONDS) for process in children] == [0, 0]
    (folder,) = (tmp_path / "cache").iterdir()
    assert not folder.name.startswith(".")


def test_a_killed_process_leaves_nothing_that_is_taken_for_a_cache(tmp_path):
    process = child(tmp_path, "hang")
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "at_work").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=SECONDS)
    (leftover,) = (tmp_path / "cache").iterdir()
    assert leftover.name.startswith(".")
    calls = []

    def read(i: int) -> np.ndarray:
        calls.append(i)
        return np.full((4, 4, 3), i % 256, np.uint8)

    examples = Examples(np.zeros(600, np.int32), [str(i) for i in range(600)], read, "shared")
    arrays = cache.materialise(examples, Preprocessing(4, 4), cache_dir=tmp_path / "cache")
    assert sorted(calls) == list(range(600))
    np.testing.assert_array_equal(arrays.images[:, 0, 0, 0], np.arange(600) % 256)
    # A day later it is in nobody's way any more.
    assert leftover.exists()
    for path in (leftover, *leftover.iterdir()):
        os.utime(path, (0, 0))
    cache.materialise(examples_of(3), TINY, cache_dir=tmp_path / "cache")
    assert not leftover.exists()


def test_an_exception_while_building_leaves_nothing(tmp_path):
    def read(i: int) -> np.ndarray:
        if i == 30:
            raise KeyboardInterrupt
        return picture(i)

    with pytest.raises(KeyboardInterrupt):
        cache.materialise(with_read(examples_of(40), read), TINY, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_named_with_its_flag(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"--cache_dir: cannot write .*file/cache \(Not a directory\)"):
        cache.materialise(examples_of(3), TINY, cache_dir=tmp_path / "file" / "cache")


def test_too_little_room_is_said_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(UserError, match="--cache_dir: the decoded images need"):
        cache.materialise(with_read(examples_of(3), unread), TINY, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_an_error_and_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # stands in for the end of the disk
    try:
        with pytest.raises(UserError, match="--cache_dir: cannot write"):
            cache.materialise(examples_of(2000), TINY, cache_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_bounded_while_building(tmp_path):
    """600 images of 256 x 256 are 118 MB decoded; 64 of them may wait for two threads, 13 MB."""
    examples = with_read(examples_of(600), lambda i: np.full((256, 256, 3), i % 256, np.uint8))
    tracemalloc.start()
    try:
        arrays = cache.materialise(examples, Preprocessing(256, 256), cache_dir=tmp_path, workers=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert arrays.images.nbytes == 600 * 256 * 256 * 3
    assert peak < 40e6


def test_the_meta_file_says_what_is_in_the_cache(tmp_path):
    cache.materialise(examples_of(4, broken=(2,)), TINY, cache_dir=tmp_path, skip_unreadable=True)
    (folder,) = tmp_path.iterdir()
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["preprocessing"] == {"image_size": 4, "resize": 5, "mode": "stretch", "bits": 16}
    assert Preprocessing(**meta["preprocessing"]) == TINY
    assert meta["unreadable"] == [[2, "truncated"]]
