"""Images per second and memory of ``--decode=cache`` and ``--decode=stream`` on a folder of photographs.

    python -m benchmarks.decoding FOLDER --count=5000 --size=224 --batch=32

Batches are brought to the device in the random order of training and thrown away, so nothing but reading and decoding
is measured. Each way is a process of its own: first the cache is made (its seconds are in the table), then an epoch is
read from it, then one is decoded on demand. A folder with fewer images than ``--count`` is gone through again.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from finetune_jax import data as datasets
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.feeds import create_feed
from finetune_jax.data.order import training_order
from finetune_jax.devices.replicas import Replicas

WAYS = ("make the cache", "cache", "stream")


def measure(way: str, folder: str, cache: str, count: int, size: int, batch: int) -> dict[str, float]:
    """Seconds, images per second and peak memory of this process."""
    config = FinetuneConfig(
        dataset=f"folder:{folder}", cache_dir=cache, validation_fraction=0.0, augmentation="flip",
        decode="stream" if way == "stream" else "cache",
    )  # fmt: skip
    source = datasets.load_source(config, silent=True)
    examples = source.splits["train"]
    examples = examples.subset(np.resize(np.arange(len(examples)), count))
    start = time.perf_counter()
    prepared = datasets.preprocessing(config, size, train=True)
    arrays = datasets.materialise_split(config, examples, prepared, silent=True, title="")
    if way != "make the cache":
        feed = create_feed(arrays, Replicas(tuple(jax.devices()[:1])), resident=False, steps_per_dispatch=1)
        start = time.perf_counter()
        for images in feed.batches(training_order(count, batch, seed=0, epoch=0)):
            jax.block_until_ready(images)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "rate": count / seconds, "memory": memory}


def main(arguments: list[str] | None = None) -> None:
    """Measure each way in a process of its own, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process")
    parser.add_argument("--cache", default="")
    options = parser.parse_args(arguments)
    values = {"count": options.count, "size": options.size, "batch": options.batch}
    if options.way:
        print(json.dumps(measure(options.way, options.folder, options.cache, **values)))
        return
    with tempfile.TemporaryDirectory() as cache:
        print("| | seconds | images/s | peak memory, MB | cache on disk, MB |")
        print("|---|---:|---:|---:|---:|")
        for way in WAYS:
            words = [f"--{name}={value}" for name, value in {**values, "way": way, "cache": cache}.items()]
            command = [sys.executable, "-m", "benchmarks.decoding", options.folder, *words]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            figures = json.loads(ran.stdout.splitlines()[-1])
            disk = sum(path.stat().st_size for path in Path(cache).rglob("images.npy")) / 1e6
            kept = "–" if way == "stream" else f"{disk:.0f}"
            print(
                f"| {way} | {figures['seconds']:.1f} | {figures['rate']:.0f} | {figures['memory']:.0f} | {kept} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
