"""Time and memory of Recall@k, by default at the size of the Stanford Online Products test set.

    python -m benchmarks.recall_at_k --images 10000 60502 --features 512 --ks 1 10 100

Every size is measured in a process of its own. "Memory" is the growth of the process's resident peak from the
moment the embeddings exist: JAX itself, its compiler and its copies of the features are in it. For comparison
the table shows what the matrix of all similarities would take.
"""

import argparse
import json
import resource
import subprocess
import sys
import time


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux


def measure(images: int, features: int, classes: int, ks: list[int]) -> dict[str, float]:
    """Seconds of a first and a second call, and bytes above the embeddings."""
    import numpy as np

    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((images, features), np.float32)
    labels = rng.integers(classes, size=images)
    before = peak_bytes()

    from finetune_jax.algorithms import retrieval

    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        retrieval.recall_at_k(embeddings, labels, ks)
        seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "second": seconds[1], "memory": peak_bytes() - before}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[60502])
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=11316)
    parser.add_argument("--ks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.in_this_process:
        [images] = arguments.images
        print(json.dumps(measure(images, arguments.features, arguments.classes, arguments.ks)))
        return

    print("| images | features | first call | second call | memory above the embeddings | full matrix |")
    print("|---|---|---|---|---|---|")
    for images in arguments.images:
        command = [sys.executable, "-m", "benchmarks.recall_at_k", "--in-this-process", f"--images={images}"]
        command += [f"--features={arguments.features}", f"--classes={arguments.classes}"]
        command += ["--ks", *map(str, arguments.ks)]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(
            f"| {images} | {arguments.features} | {result['first']:.1f} s | {result['second']:.1f} s "
            f"| {result['memory'] / 1e9:.2f} GB | {4 * images**2 / 1e9:.2f} GB |"
        )


if __name__ == "__main__":
    main()
