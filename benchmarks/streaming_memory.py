"""Resident memory and speed of streaming decoded images from disk.

    python -m benchmarks.streaming_memory --images 100000 --size 32 64

Writes a file of random pixels laid out as ``finetune_jax.data.cache`` does, maps it, and streams it for some
epochs, in the random order of training, through a step that only adds up the pixels; the sum is compared with
what was written. Every size runs in a process of its own.

Memory is ``VmHWM`` of ``/proc/self/status`` (Linux): the largest resident size the process ever had, pages of
the mapped file included. The start is the resident size with JAX loaded and the step compiled, before the
first batch. What streaming holds shows in the growth from there; it must not rise with the number of images.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

LIMIT = 2e9
# As in training: how far the host runs ahead of the devices.
DISPATCHES_AHEAD = 32
IMAGES_PER_WRITE = 1024


class Examples(NamedTuple):
    """uint8 ``images [N, S, S, 3]``, memory-mapped, and int32 ``labels [N]``."""

    images: np.ndarray
    labels: np.ndarray


def resident_bytes(entry: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process."""
    match = re.search(rf"^{entry}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"/proc/self/status has no {entry}")
    return int(match[1]) * 1024


def write_cache(path: Path, images: int, size: int) -> np.ndarray:
    """A ``.npy`` file of random pixels; int64 ``[images]``, the sum of each image."""
    rng = np.random.default_rng(0)
    sums = np.empty(images, np.int64)
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (images, size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, images, IMAGES_PER_WRITE):
            stop = min(start + IMAGES_PER_WRITE, images)
            pixels = np.frombuffer(rng.bytes((stop - start) * size * size * 3), np.uint8)
            sums[start:stop] = pixels.reshape(stop - start, -1).sum(1, dtype=np.int64)
            file.write(pixels.data)
    return sums


def measure(folder: Path, images: int, size: int, batch_size: int, epochs: int) -> dict[str, float]:
    """Stream a new file of ``images`` images of ``size × size`` pixels in ``folder``.

    Returns:
        Bytes of the ``file``, resident bytes at the ``start`` and at the ``peak``, and images per second
        (``rate``).

    Raises:
        RuntimeError: the pixels that arrived are not those that were written.
    """
    import jax
    import jax.numpy as jnp

    from finetune_jax.data.batch import Batch
    from finetune_jax.data.feeds import create_feed
    from finetune_jax.data.order import training_order
    from finetune_jax.devices.replicas import AXIS, local_replicas

    path = folder / "images.npy"
    sums = write_cache(path, images, size)
    examples = Examples(np.load(path, mmap_mode="r"), np.zeros(images, np.int32))
    replicas = local_replicas()
    feed = create_feed(examples, replicas, resident=False, steps_per_dispatch=1)

    def step(total: jax.Array, batch: Batch) -> jax.Array:
        # Modulo 2³², which the comparison takes into account.
        return total + jax.lax.psum(batch.images.sum(dtype=jnp.uint32), AXIS)

    train = feed.compile_training(step)
    orders = [training_order(images, batch_size, seed=0, epoch=epoch) for epoch in range(epochs)]
    for total, _ in train(replicas.replicate(np.uint32(0)), orders[0][:2]):
        jax.block_until_ready(total)

    start = resident_bytes("VmRSS")
    began = time.perf_counter()
    state = replicas.replicate(np.uint32(0))
    steps = 0
    for order in orders:
        for total, taken in train(state, order):
            state, steps = total, steps + taken
            if steps % DISPATCHES_AHEAD == 0:
                jax.block_until_ready(state)
    arrived = int(state)
    seconds = time.perf_counter() - began
    expected = sum(int(sums[order].sum()) for order in orders) % 2**32
    if arrived != expected:
        raise RuntimeError(f"the pixels that arrived add up to {arrived}, those written to {expected}")
    return {
        "file": path.stat().st_size,
        "start": start,
        "peak": resident_bytes("VmHWM"),
        "rate": steps * batch_size / seconds,
    }


def print_header() -> None:
    print(
        "| images | pixels | file | resident at start | resident peak (VmHWM) | growth | under 2 GB | images/s |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)


def print_row(images: int, size: int, result: dict[str, float]) -> None:
    growth = result["peak"] - result["start"]
    verdict = "yes" if result["peak"] < LIMIT else "NO"
    print(
        f"| {images} | {size}×{size} | {result['file'] / 1e6:.0f} MB | {result['start'] / 1e6:.0f} MB "
        f"| {result['peak'] / 1e6:.0f} MB | {growth / 1e6:.0f} MB | {verdict} | {result['rate']:.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, nargs="+", default=[32, 64], help="height and width")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folder", help="where the temporary file is written; a disk, not tmpfs")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.in_this_process:
        [size] = arguments.size
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            result = measure(Path(folder), arguments.images, size, arguments.batch_size, arguments.epochs)
        print(json.dumps(result))
        return

    print_header()
    for size in arguments.size:
        command = [sys.executable, "-m", "benchmarks.streaming_memory", "--in-this-process"]
        command += [f"--images={arguments.images}", f"--size={size}"]
        command += [f"--batch_size={arguments.batch_size}", f"--epochs={arguments.epochs}"]
        command += [f"--folder={arguments.folder}"] if arguments.folder else []
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        print_row(arguments.images, size, json.loads(output))


if __name__ == "__main__":
    main()
