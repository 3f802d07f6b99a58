r"""Damaged images, indices, caches and records: each must give the right result or one sentence.

    python -m benchmarks.damaged_images --count=4000 --seed=0

Prints how many of each kind gave a result and a sentence, every other outcome in full, the longest time of one
input and the peak of memory. Exit status 1 where anything else than these two happened.
"""

import argparse
import collections
import functools
import io
import os
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from finetune_jax.data import cache, folder, record
from finetune_jax.data.decode import Decoding, Preprocessing, decode_image
from finetune_jax.errors import UserError

_LIMIT_SECONDS = 20.0


class Case(NamedTuple):
    """One input.

    Attributes:
        name: what it is, to make it again: kind, number, damage.
        call: uses it; returns where the result is right, raises UserError where it is refused.
    """

    name: str
    call: Callable[[], object]


def images(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Files of every format that is read, damaged in every way, and made up headers of huge images."""
    files = dict(_sound_images())
    names = sorted(files)
    for number in range(count):
        name = names[int(rng.integers(len(names)))]
        damage, content = damaged(rng, files[name])
        yield Case(f"image {number} {name} {damage}", functools.partial(_decode, content))


def indices(rng: np.random.Generator, count: int, scratch: Path) -> Iterator[Case]:
    """Indices of a folder, damaged; the images must be those of the folder."""
    root = _folder(scratch / "indexed")
    expected = folder.read(str(root)).fingerprint
    for number in range(count):
        target = scratch / "cache-of-index"
        shutil.rmtree(target, ignore_errors=True)
        folder.read(str(root), cache_dir=target)
        (path,) = (target / "index").iterdir()
        damage, content = damaged(rng, path.read_bytes())
        path.write_bytes(content)

        def use(target: Path = target) -> None:
            _expect(folder.read(str(root), cache_dir=target).fingerprint == expected, "other digests")

        yield Case(f"index {number} {damage}", use)


def caches(rng: np.random.Generator, count: int, scratch: Path) -> Iterator[Case]:
    """Caches of decoded images, one file of each damaged; the pixels must be those of the images."""
    root = _folder(scratch / "cached")
    train = folder.read(str(root)).splits["train"]
    prepared = Preprocessing(8, 8)
    sound = scratch / "sound"
    expected = cache.materialise(train, prepared, cache_dir=sound).images[:]
    (key,) = (path.name for path in sound.iterdir())
    files = ("images.npy", "sizes.npy", "digests.npy", "meta.json")
    for number in range(count):
        target = scratch / f"cache-{number}"
        shutil.copytree(sound, target)
        file = files[int(rng.integers(len(files)))]
        path = target / key / file
        damage, content = damaged(rng, path.read_bytes())
        path.write_bytes(content)

        def use(target: Path = target) -> None:
            arrays = cache.materialise(train, prepared, cache_dir=target)
            _expect(np.array_equal(arrays.images, expected), "other pixels")
            shutil.rmtree(target)

        yield Case(f"cache {number} {file} {damage}", use)


def records(rng: np.random.Generator, count: int, scratch: Path) -> Iterator[Case]:
    """Records of a run's images, damaged; one that is read must be the sound one."""
    root = _folder(scratch / "recorded")
    known = record.record_of(folder.read(str(root)))
    assert known is not None
    sound = record.to_bytes(known)
    for number in range(count):
        damage, content = damaged(rng, sound)

        def use(content: bytes = content) -> None:
            _expect(record.from_bytes(content, "data.npz").digest == known.digest, "another record")

        yield Case(f"record {number} {damage}", use)


def damaged(rng: np.random.Generator, content: bytes) -> tuple[str, bytes]:
    """A file with one kind of damage, and the name of the damage."""
    kinds = {
        "cut": _cut,
        "flipped": _flipped,
        "overwritten": _overwritten,
        "without a part": _without_part,
        "with a part twice": _with_part_twice,
        "with large numbers": _with_large_numbers,
        "replaced": _replaced,
    }
    name = list(kinds)[int(rng.integers(len(kinds)))]
    return name, kinds[name](rng, content)


def _cut(rng: np.random.Generator, content: bytes) -> bytes:
    return content[: int(rng.integers(0, len(content) + 1))]


def _flipped(rng: np.random.Generator, content: bytes) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(0, 8 * len(changed), int(rng.integers(1, 9))) if changed else ():
        changed[place // 8] ^= 1 << (place % 8)
    return bytes(changed)


def _overwritten(rng: np.random.Generator, content: bytes) -> bytes:
    start, length = int(rng.integers(0, len(content) + 1)), int(rng.integers(1, 64))
    return content[:start] + rng.bytes(length) + content[start + length :]


def _without_part(rng: np.random.Generator, content: bytes) -> bytes:
    start, length = int(rng.integers(0, len(content) + 1)), int(rng.integers(1, 64))
    return content[:start] + content[start + length :]


def _with_part_twice(rng: np.random.Generator, content: bytes) -> bytes:
    start, length = int(rng.integers(0, len(content) + 1)), int(rng.integers(1, 200))
    return content[: start + length] + content[start:]


def _with_large_numbers(rng: np.random.Generator, content: bytes) -> bytes:
    """A header field made huge: sizes and offsets lie in the first bytes of most formats."""
    number = [0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1][int(rng.integers(8))]
    packed = struct.pack(">I" if rng.integers(2) else "<I", number)
    start = int(rng.integers(0, max(1, min(len(content), 200))))
    return content[:start] + packed + content[start + 4 :]


def _replaced(rng: np.random.Generator, content: bytes) -> bytes:
    choices = (
        b"",
        b"\0" * 100,
        rng.bytes(200),
        b"[" * 50_000,
        b"{}",
        b"null",
        b"1" + b"0" * 5000,
        b"\xff\xfe",
        b"PK\x05\x06" + bytes(18),
        b"\x93NUMPY\x01\0\x76\0" + b"{'descr': (".ljust(117) + b"\n",
        b"%!PS-Adobe-3.0\nshowpage\n",
        b"<svg/>",
    )
    return choices[int(rng.integers(len(choices)))]


def _sound_images() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :60]
    noise = rng.normal(0, 9, (40, 60, 3))
    photo = np.clip(np.dstack([3 * rows, 2 * columns, rows + columns]) + 60 + noise, 0, 255).astype(np.uint8)
    rgb = Image.fromarray(photo)
    grey = Image.fromarray(photo[..., 0])
    wide = Image.fromarray(photo[..., 0].astype(np.uint16) * 257)
    alpha = Image.fromarray(np.dstack([photo, photo[..., :1]]))
    exif = Image.Exif()
    exif[274] = 6
    ways: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "jpeg": (rgb, "JPEG", {"exif": exif, "icc_profile": b"q" * 300}),
        "progressive jpeg": (rgb, "JPEG", {"progressive": True}),
        "grey jpeg": (grey, "JPEG", {}),
        "cmyk jpeg": (rgb.convert("CMYK"), "JPEG", {}),
        "png": (rgb, "PNG", {"exif": exif}),
        "palette png": (rgb.quantize(16), "PNG", {"transparency": 3}),
        "wide png": (wide, "PNG", {}),
        "alpha png": (alpha, "PNG", {}),
        "bit png": (grey.convert("1"), "PNG", {}),
        "gif": (rgb.quantize(32), "GIF", {"save_all": True, "append_images": [rgb.quantize(8)]}),
        "bmp": (rgb, "BMP", {}),
        "webp": (alpha, "WEBP", {"exif": exif.tobytes()}),
        "tiff": (rgb, "TIFF", {}),
        "lzw tiff": (wide, "TIFF", {"compression": "tiff_lzw"}),
        "jpeg tiff": (rgb, "TIFF", {"compression": "jpeg"}),
        "ppm": (rgb, "PPM", {}),
    }
    for name, (image, kind, options) in ways.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        yield name, file.getvalue()


def _decode(content: bytes) -> None:
    pixels = decode_image(content, "x", Decoding(max_pixels=50_000_000))
    _expect(pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, "another form")


def _expect(right: bool, wrong: str) -> None:
    if not right:
        raise AssertionError(wrong)


def _folder(root: Path) -> Path:
    rng = np.random.default_rng(1)
    for name in "ab":
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(6):
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(
                root / name / f"{number}.png"
            )
    for path in root.rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    time.sleep(2.1)  # an index keeps no digest of a file that was changed a moment ago
    return root


def outcomes(cases: Iterator[Case]) -> tuple[collections.Counter[str], list[str], float]:
    """Uses each input: counts of results and sentences, all other outcomes, and the longest time of one."""
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    longest = 0.0
    for case in cases:
        began = time.monotonic()
        try:
            case.call()
            counts["result"] += 1
        except UserError as error:
            counts["sentence"] += 1
            if len(str(error)) > 3000 or not str(error).strip():
                wrong.append(f"{case.name}: a message of {len(str(error))} characters")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong.append(f"{case.name}: {type(error).__name__}: {str(error)[:200]}")
        seconds = time.monotonic() - began
        longest = max(longest, seconds)
        if seconds > _LIMIT_SECONDS:
            wrong.append(f"{case.name}: {seconds:.1f} s")
    return counts, wrong, longest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=4000, help="Inputs in all; four fifths are images.")
    parser.add_argument("--seed", type=int, default=0, help="Of the damage.")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    few = max(1, arguments.count // 15)
    status = 0
    with tempfile.TemporaryDirectory() as scratch:
        kinds = {
            "images": images(rng, arguments.count - 3 * few),
            "indices": indices(rng, few, Path(scratch)),
            "caches": caches(rng, few, Path(scratch)),
            "records": records(rng, few, Path(scratch)),
        }
        for kind, cases in kinds.items():
            counts, wrong, longest = outcomes(cases)
            print(
                f"{kind}: {counts.total()} inputs, {dict(counts)}, longest {longest:.2f} s, {len(wrong)} wrong"
            )
            for line in wrong[:20]:
                print(f"  {line}")
            status |= bool(wrong)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"seed {arguments.seed}, peak of memory {peak:.0f} MB")
    return status


if __name__ == "__main__":
    sys.exit(main())
