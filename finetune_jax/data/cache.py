"""Every image decoded and resized once, kept on disk, memory-mapped from then on.

``<cache_dir>/<key>/images.npy`` is uint8 ``[N, S, S, C]``, ``sizes.npy`` int32 ``[N, 2]``: height and width
before resizing. ``digests.npy`` uint64 ``[N]`` are of their pixels, and ``meta.json`` says what is in them. The key
is a digest of the content of the images and of the preprocessing, so a cache never has to be invalidated, moving a
data set keeps it, and deleting the folder is always safe. Labels are not in it: they cost nothing.

Whatever is wrong with a cache costs time and nothing else: it is made again. That it belongs to the images, and the
pixels of some of them, are checked at the first use in a process; all pixels are by :func:`check_all`.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from finetune_jax.data.decode import Preprocessing, UnreadableImage, preprocess
from finetune_jax.data.examples import Examples, fingerprint_of
from finetune_jax.data.parallel import ordered_map
from finetune_jax.errors import DAMAGE, UserError

_DAMAGED: tuple[type[Exception], ...] = (OSError, *DAMAGE)
_FORMAT = 3  # to be raised whenever the same image and preprocessing give other files
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.[0-9a-f]{8}")
_ABANDONED_SECONDS = 24 * 3600
_NAMED_IN_ERROR = 10
_SAMPLED, _SAMPLED_BYTES = 64, 2**25  # images at least, and bytes if they are small
_FOLDER = re.compile(r"[0-9a-f]{32}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_checked: set[tuple[str, int]] = (
    set()
)  # folders of this process whose sample was right, and their meta's time


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """The images of one split, ready for the network but for normalisation.

    Attributes:
      images: uint8 ``[M, S, S, C]``, memory-mapped and read-only.
      labels: int32 ``[M]``, or float32 ``[M, D]`` where the examples have targets.
      kept: int64 ``[M]``, ascending: which of the N examples these are.
      sizes: int32 ``[M, 2]``, height and width of the images before they were resized.
      skipped: Name and reason of each of the ``N - M`` unreadable images.
      weights: Factors of the images' losses, float32 ``[M]``; None where all count alike.
    """

    images: np.ndarray
    labels: np.ndarray
    kept: np.ndarray
    sizes: np.ndarray
    skipped: tuple[tuple[str, str], ...] = ()
    weights: np.ndarray | None = None

    @property
    def aspects(self) -> np.ndarray:
        """Width over height of the images before they were resized, float32 ``[M]``."""
        return (self.sizes[:, 1] / self.sizes[:, 0]).astype(np.float32)


def materialise(
    examples: Examples,
    preprocessing: Preprocessing,
    *,
    cache_dir: str | os.PathLike[str],
    workers: int | None = None,
    progress: bool = False,
    skip_unreadable: bool = False,
    title: str = "decoding images",
) -> Arrays:
    """Decodes and preprocesses all examples, or finds that this was done before.

    Memory stays bounded: an image is written as soon as its turn has come. What is being built has another
    name until it is whole, so a process killed meanwhile leaves nothing that is taken for a cache, and of
    several processes that build the same one the first to finish wins.

    Args:
      examples: N images.
      preprocessing: See there; its `image_size` is S.
      cache_dir: Made if need be. Only read where the images are there already.
      workers: Number of threads, see `ordered_map`.
      progress: Whether to show a bar on stderr.
      skip_unreadable: Whether to go on without images that cannot be read.
      title: Of the bar.

    Returns:
      The images in the order of the examples.

    Raises:
      UserError: Images that cannot be read (all of them are counted, the first ten named), or a cache folder
        that cannot be written.
    """
    size = preprocessing.image_size
    if len(examples) == 0:
        none = np.empty(0, np.int64)
        return Arrays(
            np.empty((0, size, size, preprocessing.channels), np.uint8),
            examples.truth,
            none,
            np.empty((0, 2), np.int32),
        )
    settings = json.dumps(preprocessing.to_json(), sort_keys=True)
    fingerprint = examples.fingerprint
    if examples.place:
        fingerprint = fingerprint_of("place", examples.place, fingerprint)
    key = fingerprint_of("images", str(_FORMAT), fingerprint, str(len(examples)), settings)
    folder = Path(cache_dir).expanduser() / key
    content = {
        "format": _FORMAT,
        "preprocessing": preprocessing.to_json(),
        "fingerprint": fingerprint,
        "count": len(examples),
    }
    stored = _open(folder, content)
    if stored is None:
        _build(folder, examples, preprocessing, content, workers, progress, skip_unreadable, title)
        stored = _open(folder, content)
    if stored is None:
        raise UserError(f"--cache_dir: {folder} was written but cannot be read; choose another folder")
    images, sizes, unreadable = stored
    skipped = tuple((examples.names[i], reason) for i, reason in unreadable.items())
    if skipped and not skip_unreadable:
        raise _unreadable_error(skipped, len(examples))
    kept = np.array([i for i in range(len(examples)) if i not in unreadable], np.int64)
    weights = None if examples.weights is None else examples.weights[kept]
    return Arrays(images, examples.truth[kept], kept, sizes, skipped, weights)


def _open(folder: Path, content: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, dict[int, str]] | None:
    """Images, their sizes, and reasons by index of the unreadable ones; None unless everything is there and right."""
    try:
        stored = _read(folder)
        if any(stored.meta[name] != value for name, value in content.items()):
            return None
        mark = (os.fspath(folder), (folder / "meta.json").stat().st_mtime_ns)
        if mark not in _checked:
            if _damaged(stored, _sample(stored.images)):
                return None
            _checked.add(mark)
    except _DAMAGED:
        return None
    return stored.images, stored.sizes, stored.unreadable


class _Stored(NamedTuple):
    """A cache folder."""

    meta: dict[str, Any]
    images: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray
    unreadable: dict[int, str]


def _read(folder: Path) -> _Stored:
    """A cache folder, of which everything but the pixels is right.

    Raises:
      Exception: What `DAMAGE` lists, or OSError.
    """
    meta = json.loads((folder / "meta.json").read_bytes())
    if meta.pop("digest") != _digest_of_meta(meta):
        raise ValueError("meta.json has changed")
    unreadable = {int(i): str(reason) for i, reason in meta["unreadable"]}
    images = np.lib.format.open_memmap(folder / "images.npy", mode="r")
    sizes = np.load(folder / "sizes.npy", allow_pickle=False)
    digests = np.load(folder / "digests.npy", allow_pickle=False)
    count, side = meta["count"] - len(unreadable), meta["preprocessing"]["image_size"]
    if images.dtype != np.uint8 or images.shape != (
        count,
        side,
        side,
        meta["preprocessing"].get("channels", 3),
    ):
        raise ValueError("images.npy has another shape")
    if digests.shape != (count,) or sizes.shape != (count, 2):
        raise ValueError("digests.npy or sizes.npy has another shape")
    if meta["tables"] != fingerprint_of(digests.tobytes(), sizes.tobytes()):
        raise ValueError("digests.npy or sizes.npy has changed")
    return _Stored(meta, images, sizes, digests, unreadable)


def _sample(images: np.ndarray) -> np.ndarray:
    """Indices of images to check, others in every process: all of a small cache, read in some tens of milliseconds."""
    count = max(_SAMPLED, _SAMPLED_BYTES * len(images) // max(images.nbytes, 1))
    return np.random.default_rng().choice(len(images), min(count, len(images)), replace=False, shuffle=False)


def _damaged(stored: _Stored, indices: Iterable[int]) -> bool:
    """Whether the pixels of some images are not those that were written."""
    return any(_digest_of_pixels(stored.images[i]) != int(stored.digests[i]) for i in indices)


def check_all(cache_dir: str | os.PathLike[str], *, progress: bool = False) -> tuple[int, tuple[Path, ...]]:
    """Reads every pixel below a cache directory.

    Args:
      cache_dir: That holds the caches.
      progress: Whether to show a bar on stderr.

    Returns:
      How many caches there are, and the folders of those that are damaged (older formats among them).
    """
    root = Path(cache_dir).expanduser()
    folders = sorted(path for path in root.glob("*") if _FOLDER.fullmatch(path.name) and path.is_dir())
    broken = []
    for folder in folders:
        try:
            stored = _read(folder)
            wrong = ordered_map(
                partial(_is_wrong, stored), len(stored.images), progress=progress, title=folder.name[:8]
            )
            with contextlib.closing(wrong):
                damaged = any(wrong)
        except _DAMAGED:
            damaged = True
        if damaged:
            broken.append(folder)
    return len(folders), tuple(broken)


def _is_wrong(stored: _Stored, index: int) -> bool:
    return _damaged(stored, (index,))


def _digest_of_pixels(pixels: np.ndarray) -> int:
    return int.from_bytes(
        hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8).digest(), "little"
    )


def _digest_of_meta(meta: Mapping[str, Any]) -> str:
    return fingerprint_of(json.dumps(meta, sort_keys=True))


def _build(
    folder: Path,
    examples: Examples,
    preprocessing: Preprocessing,
    content: Mapping[str, Any],
    workers: int | None,
    progress: bool,
    skip_unreadable: bool,
    title: str,
) -> None:
    """Writes the cache folder; on any error nothing is left of it."""
    cache_dir = folder.parent
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")

    def prepare(i: int) -> _Prepared | UnreadableImage:
        try:
            image = examples.read(i)
            return _Prepared(preprocess(image, preprocessing), (image.shape[0], image.shape[1]))
        except UnreadableImage as error:
            return error
        except ValueError as error:  # other channels than are wanted
            return UnreadableImage(examples.names[i], str(error))
        except OSError as error:
            return UnreadableImage(examples.names[i], error.strerror or str(error))

    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache_dir)
        _check_free_space(cache_dir, len(examples) * preprocessing.image_size**2 * preprocessing.channels)
        temporary.mkdir()
        prepared = ordered_map(prepare, len(examples), workers=workers, progress=progress, title=title)
        with contextlib.closing(prepared):
            side, channels = preprocessing.image_size, preprocessing.channels
            unreadable, tables = _write_images(temporary, prepared, len(examples), (side, side, channels))
        if (unreadable and not skip_unreadable) or len(unreadable) == len(examples):
            skipped = tuple((examples.names[i], reason) for i, reason in unreadable.items())
            raise _unreadable_error(skipped, len(examples))
        with open(temporary / "meta.json", "w", encoding="ascii") as file:
            meta = {**content, "unreadable": [list(item) for item in unreadable.items()], "tables": tables}
            json.dump({**meta, "digest": _digest_of_meta(meta)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _set_aside_broken(folder, content)
        _move_into_place(temporary, folder)
    except OSError as error:  # Of writing: those of reading have become UnreadableImage.
        raise UserError(
            f"--cache_dir: cannot write decoded images to {cache_dir} ({error.strerror}): "
            f"{'make room there' if error.errno in _FULL else 'make it writable'} or choose another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Prepared(NamedTuple):
    """The pixels that are kept of an image, and its height and width before."""

    pixels: np.ndarray
    size: tuple[int, int]


def _write_images(
    folder: Path, prepared: Iterable[_Prepared | UnreadableImage], count: int, shape: tuple[int, int, int]
) -> tuple[dict[int, str], str]:
    """Writes .npy files of the images that could be read; returns the reasons of the others by index.

    Also returns a digest of the small tables beside the pixels.

    Plain writing, not a memory map: on a full disk this is an error that can be reported, the other is a
    signal that ends the process.
    """
    unreadable: dict[int, str] = {}
    sizes: list[tuple[int, int]] = []
    digests: list[int] = []
    with open(folder / "images.npy", "wb") as file:
        _write_header(file, (count, *shape))
        start = file.tell()
        for index, image in enumerate(prepared):
            if isinstance(image, UnreadableImage):
                unreadable[index] = image.reason
            else:
                file.write(np.ascontiguousarray(image.pixels).data)
                sizes.append(image.size)
                digests.append(_digest_of_pixels(image.pixels))
        file.seek(0)
        _write_header(file, (count - len(unreadable), *shape))
        if file.tell() != start:
            raise RuntimeError(f"the .npy header changed its length from {start} to {file.tell()}")
        file.flush()
        os.fsync(file.fileno())
    tables: tuple[np.ndarray, ...] = (np.array(sizes, np.int32).reshape(-1, 2), np.array(digests, np.uint64))
    for name, table in zip(("sizes", "digests"), tables, strict=True):
        with open(folder / f"{name}.npy", "wb") as file:
            np.save(file, table)
            file.flush()
            os.fsync(file.fileno())
    return unreadable, fingerprint_of(*(table.tobytes() for table in reversed(tables)))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    # NumPy pads the header so that the first axis may change: its length does not depend on the count.
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _move_into_place(temporary: Path, folder: Path) -> None:
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # else another process was faster
            raise


def _set_aside_broken(folder: Path, content: Mapping[str, Any]) -> None:
    """Removes a damaged cache of the same name, which would be in the way."""
    if folder.exists() and _open(folder, content) is None:
        broken = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        os.rename(folder, broken)
        shutil.rmtree(broken, ignore_errors=True)


def _check_free_space(cache_dir: Path, needed: int) -> None:
    free = shutil.disk_usage(cache_dir).free
    if needed > free:
        raise UserError(
            f"--cache_dir: the decoded images need {needed / 2**30:.1f} GiB, {cache_dir} has "
            f"{free / 2**30:.1f} GiB left: make room there or choose another folder"
        )


def _remove_abandoned(cache_dir: Path) -> None:
    """What killed processes left: no living one leaves its file untouched for a day."""
    for path in cache_dir.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError):
                touched = max(inner.stat().st_mtime for inner in (path, *path.iterdir()))
                if time.time() - touched > _ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


def _unreadable_error(skipped: tuple[tuple[str, str], ...], count: int) -> UserError:
    lines = [f"  {name}: {reason}" for name, reason in skipped[:_NAMED_IN_ERROR]]
    if len(skipped) > _NAMED_IN_ERROR:
        lines.append(f"  and {len(skipped) - _NAMED_IN_ERROR} more")
    whole = "none would be left" if len(skipped) == count else "or go on without them (--skip_unreadable)"
    return UserError(
        f"{len(skipped)} of {count} images cannot be read: repair or remove them "
        f"(finetune-jax check_data lists all), {whole}\n" + "\n".join(lines)
    )
