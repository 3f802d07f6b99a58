"""Feeds damaged files to every reader, each in a bound of time and memory.

    python -m benchmarks.damage --inputs=10000 --seed=0

Each target makes an intact file or folder once and names how it is read. An input is a damaged copy: bits flipped,
bytes overwritten, cut off, pieces repeated or swapped, numbers made huge, text made foreign, files emptied or
removed. Right is the intact result, a result that the target accepts, or one sentence (``UserError``) of readable
length that a terminal can show. Wrong is any other exception, more than ``--seconds`` of CPU, more than
``--megabytes`` of memory beyond what the reader needs for the intact file, or a result that the target calls silently
wrong.

Prints what was wrong, with the target and the number of the input, which together with the seed makes it again
(``--only=TARGET:NUMBER``), and the counts.

A new kind of file needs one line in ``benchmarks.damage_targets.TARGETS``. Images, indices, caches and records of
images have a test of their own, ``benchmarks.damaged_images``.
"""

import argparse
import collections
import contextlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.damage_target import Target
from benchmarks.damage_targets import TARGETS

LONGEST = 2500  # characters of a message


class Limit(BaseException):
    """An input took too long; not an ``Exception``, so that no reader takes it for damage."""


# --- damage ---------------------------------------------------------------------------------------------


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A damaged copy of the content of a file."""
    data = bytearray(content)
    kind = chance.randrange(9)
    if kind == 0 or not data:
        return bytes(chance.randbytes(chance.randrange(200)))
    place = chance.randrange(len(data))
    if kind in (1, 2):
        for _ in range(1 if kind == 1 else chance.randrange(1, 9)):
            place = chance.randrange(8 * len(data))
            data[place // 8] ^= 1 << place % 8
    elif kind == 3:
        data[place : place + 8] = chance.randbytes(min(8, len(data) - place))
    elif kind == 4:
        del data[place:]
    elif kind == 5:
        piece = data[place : place + chance.randrange(1, 64)]
        data[place:place] = piece * chance.randrange(1, 50)
    elif kind == 6:
        other = chance.randrange(len(data))
        data[place], data[other] = data[other], data[place]
    elif kind == 7:  # text: numbers and nesting that no writer makes
        words = [
            b"1e999",
            b"9" * 400,
            b"-1",
            b"[" * 3000,
            b"null",
            b"\xff\xfe",
            b"\x00",
            b'"\\ud800"',
            b"{}",
            b"[]",
            b"NaN",
        ]
        digits = [index for index, byte in enumerate(data) if 48 <= byte < 58]
        at = chance.choice(digits) if digits else place
        data[at : at + 1] = chance.choice(words)
    else:
        del data[place : place + chance.randrange(1, 32)]
    return bytes(data)


def damage(path: Path, chance: random.Random) -> None:
    """Damage a file, or one of a folder."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    file = chance.choice(files)
    if path.is_dir() and chance.random() < 0.1:
        file.unlink()
    else:
        file.write_bytes(damaged(file.read_bytes(), chance))


# --- running --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bounded(seconds: float, megabytes: float) -> Iterator[None]:
    """Interrupt what runs too long, and let allocations far beyond the present size fail."""

    def late(*_: object) -> None:
        raise Limit(f"more than {seconds:g} s of CPU")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    handler = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    if pages:
        size = pages * resource.getpagesize() + int(megabytes * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def verdict(target: Target, path: Path, intact: Any, seconds: float, megabytes: float) -> str:
    """``same``, ``accepted``, ``refused``, or what is wrong."""
    from finetune_jax.errors import UserError, message

    try:
        with bounded(seconds, megabytes):
            result = target.read(path)
    except UserError as error:
        text = message(error)
        if len(text) > LONGEST:
            return f"a message of {len(text)} characters"
        if not text.replace("\n", "").isprintable():
            return "a message with control characters"
        return "refused"
    except Limit as error:
        return str(error)
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if result == intact:
        return "same"
    return "accepted" if target.accepts(result) else "silently wrong"


def feed(
    target: Target, numbers: range | list[int], seed: int, limits: tuple[float, float]
) -> collections.Counter[str]:
    """Feed inputs of these numbers to a target; counts of verdicts."""
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="damage-") as folder:
        whole, copy = Path(folder) / "whole" / target.name, Path(folder) / "copy" / target.name
        whole.parent.mkdir()
        target.make(whole)
        intact = target.read(_copied(whole, copy))
        for number in numbers:
            damage(_copied(whole, copy), random.Random(f"{seed} {target.name} {number}"))
            outcome = verdict(target, copy, intact, *limits)
            good = outcome in ("same", "accepted", "refused")
            counts[outcome if good else "wrong"] += 1
            if not good:
                print(f"{target.name}:{number}: {outcome}", flush=True)
    return counts


def _copied(whole: Path, copy: Path) -> Path:
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir()
    shutil.copytree(whole, copy) if whole.is_dir() else shutil.copyfile(whole, copy)
    return copy


def main() -> int:
    """Feed and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default="", help="names, separated by commas; all by default")
    parser.add_argument("--only", default="", help="TARGET:NUMBER of one input")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--megabytes", type=float, default=1024.0)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    warnings.simplefilter("ignore")
    name, _, number = options.only.rpartition(":")
    names = [name] if name else [word for word in options.targets.split(",") if word]
    chosen = [target for target in TARGETS if not names or target.name in names]
    each = -(-options.inputs // len(chosen))
    total: collections.Counter[str] = collections.Counter()
    for target in chosen:
        began = time.monotonic()
        numbers = [int(number)] if number else range(each)
        counts = feed(target, numbers, options.seed, (options.seconds, options.megabytes))
        total += counts
        shown = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        print(f"{target.name}: {shown} ({time.monotonic() - began:.0f} s)", flush=True)
    print(
        f"seed {options.seed}: {total.total()} inputs, "
        + ", ".join(f"{c} {v}" for v, c in sorted(total.items()))
    )
    return int(total["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
