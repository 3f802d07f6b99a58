"""What the host does for a training step, with more and more devices.

    python -m benchmarks.host_work

Runs a step that only adds up pixels over 1, 2, 4 and 8 virtual CPU devices, the batch over all of them being the
same, and counts on the thread that dispatches: calls of functions of this package, calls of all Python functions
(JAX's own among them), calls of ``jax.device_put``, and bytes handed to it. Virtual devices share the cores, so times
would be those of their programs and not of the host; counts do not depend on what else the machine does.
"""

import argparse
import collections
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

import finetune_jax

PACKAGE = str(Path(finetune_jax.__file__).parent)


class Examples(NamedTuple):
    """uint8 ``images [N, S, S, 3]`` and int32 ``labels [N]``."""

    images: np.ndarray
    labels: np.ndarray


def count(devices: int, *, resident: bool, steps_per_dispatch: int = 1, steps: int = 8) -> dict[str, int]:
    """Of ``steps`` steps after the first ones: own ``calls``, ``python calls``, ``transfers`` and their ``bytes``."""
    import jax
    import jax.numpy as jnp

    from finetune_jax.data.batch import Batch
    from finetune_jax.data.feeds import create_feed
    from finetune_jax.devices.replicas import AXIS, Replicas

    batch = 16
    rng = np.random.default_rng(0)
    examples = Examples(
        rng.integers(0, 256, (steps * batch, 4, 4, 3), np.uint8), np.zeros(steps * batch, np.int32)
    )
    replicas = Replicas(tuple(jax.devices()[:devices]))
    feed = create_feed(examples, replicas, resident=resident, steps_per_dispatch=steps_per_dispatch)

    def step(total: jax.Array, batch: Batch) -> jax.Array:
        return total + jax.lax.psum(batch.images.sum(dtype=jnp.uint32), AXIS)

    train = feed.compile_training(step)
    order = np.arange(steps * batch).reshape(steps, batch)
    state: Any = replicas.replicate(np.uint32(0))
    for after, _ in train(state, order):  # compiles
        state = after
    jax.block_until_ready(state)

    counts: dict[str, int] = collections.Counter()
    put = jax.device_put

    def counted(tree: Any, *rest: Any, **options: Any) -> Any:
        counts["transfers"] += 1
        counts["bytes"] += sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))
        return put(tree, *rest, **options)

    def called(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            counts["python calls"] += 1
            counts["calls"] += frame.f_code.co_filename.startswith(PACKAGE)

    with mock.patch.object(jax, "device_put", counted):
        sys.setprofile(called)
        try:
            for after, _ in train(state, order):
                state = after
        finally:
            sys.setprofile(None)
    expected = 2 * int(examples.images.sum(dtype=np.uint64)) % 2**32
    if int(state) != expected:
        raise RuntimeError(f"the pixels add up to {int(state)}, those given to {expected}")
    return dict(counts)


def main(words: Sequence[str] | None = None) -> None:
    """Count and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=32)
    arguments = parser.parse_args(words)

    from finetune_jax.devices.replicas import prepare_backend

    prepare_backend(max(arguments.devices))
    names = ("calls", "python calls", "transfers", "bytes")
    print(
        "| feed | devices | " + " | ".join(f"{name} per step" for name in names) + " |\n" + "|---" * 6 + "|"
    )
    for resident in (True, False):
        for devices in arguments.devices:
            counts = count(devices, resident=resident, steps=arguments.steps)
            cells = [f"{counts[name] / arguments.steps:.1f}" for name in names]
            print(
                f"| {'resident' if resident else 'streamed'} | {devices} | " + " | ".join(cells) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
