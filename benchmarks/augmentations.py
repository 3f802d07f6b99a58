"""What each augmentation adds to a training step, against the same step without any.

    python -m benchmarks.augmentations
    python -m benchmarks.augmentations --network=resnet50 --image_size=224 --batch=64

Every side trains the same network on a resident batch, kept as large as ``experiments.finetune`` keeps it for that
augmentation, photographs being 4:3. The sides take turns, and a ratio is of two rounds of the same turn; the table
shows medians and, in brackets, the extremes. ``alone`` is the augmentation of a batch without a step around it.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

CLASSES = 100
ASPECT = 4 / 3


def stepper(case: argparse.Namespace, name: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One training step, going on from its last state; and the augmentation of its batch alone."""
    import jax
    import jax.numpy as jnp

    from finetune_jax import data as datasets
    from finetune_jax import models
    from finetune_jax.algorithms import augmentation, optimizers
    from finetune_jax.config.settings import DataConfig
    from finetune_jax.data.batch import Batch
    from finetune_jax.models.normalization import normalizer
    from finetune_jax.training import objectives, step
    from finetune_jax.training.state import create_state

    size = case.image_size
    # Other flags than the defaults do not change what a step costs, except for the hue.
    hue = 0.1 if name == "random_resized_crop with hue" else 0.0
    name = name.removesuffix(" with hue")
    config = DataConfig(dataset="folder:", augmentation=name, hue_jitter=hue)
    side = datasets.preprocessing(config, size, train=True).image_size
    augment = augmentation.create(
        name, size, shorter_side=datasets.shorter_side(config, size), color_jitter=0.4, hue_jitter=hue
    )
    rng = np.random.default_rng(0)
    batch = Batch(
        jax.device_put(rng.integers(0, 256, (case.batch, side, side, 3), np.uint8)),
        jax.device_put(rng.integers(0, CLASSES, case.batch, np.int32)),
        jax.device_put(np.arange(case.batch, dtype=np.int32)),
        jax.device_put(np.full(case.batch, ASPECT, np.float32)) if datasets.in_proportion(config) else None,
    )
    network = models.create(case.network, CLASSES, width=case.width)
    variables = network.init(jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), np.float32))
    parts = network.part_names
    optimizer = optimizers.per_block_sgd(dict.fromkeys(parts), dict.fromkeys(parts, 0.01))
    objective = objectives.objective(
        objectives.forward(network, parts),
        objectives.cross_entropy(),
        normalize=normalizer((0.5,) * 3, (0.25,) * 3),
        augment=augment,
    )
    run = jax.jit(
        functools.partial(step.train_step, objective=objective, optimizer=optimizer), donate_argnums=0
    )
    state = create_state(variables, parts, optimizer, key=jax.random.key(1))
    current = jax.device_put(jax.tree.map(np.array, state))

    def one() -> Any:
        nonlocal current
        current = run(current, batch)
        return current.step

    @jax.jit
    def augmented(batch: Batch) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(2), batch.slots)
        return jax.vmap(augment)(keys, batch.images.astype(jnp.float32), batch.aspects)

    return one, lambda: augmented(batch)


def seconds_per_call(call: Callable[[], Any], count: int, clock: Callable[[], float]) -> float:
    """Mean of ``count`` calls, the last result waited for."""
    import jax

    began = clock()
    for _ in range(count):
        result = call()
    jax.block_until_ready(result)
    return (clock() - began) / count


def compare(case: argparse.Namespace) -> str:
    """The measurements as a Markdown table."""
    sides = {name: stepper(case, name) for name in ("none", *case.augmentations)}
    clock = time.process_time if case.cpu_seconds else time.perf_counter
    for step, alone in sides.values():
        seconds_per_call(step, 1, clock)
        seconds_per_call(alone, 1, clock)
    steps: dict[str, list[float]] = {name: [] for name in sides}
    alone_for: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(case.rounds):
        for name, (step, alone) in sides.items():
            steps[name].append(seconds_per_call(step, case.steps, clock))
            alone_for[name].append(seconds_per_call(alone, case.steps, clock))
    lines = [
        "| augmentation | step, ms | against none | alone, ms | alone, of the step |",
        "|---|---|---|---|---|",
    ]
    for name in sides:
        ratios = [ours / none for ours, none in zip(steps[name], steps["none"], strict=True)]
        shares = [a / none for a, none in zip(alone_for[name], steps["none"], strict=True)]
        lines.append(
            f"| {name} | {1e3 * statistics.median(steps[name]):.1f} | {statistics.median(ratios):.3f} "
            f"({min(ratios):.2f}–{max(ratios):.2f}) | {1e3 * statistics.median(alone_for[name]):.1f} "
            f"| {100 * statistics.median(shares):.1f} % |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet26")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument(
        "--cpu_seconds", action="store_true", help="CPU time of this process, for a machine that others use"
    )
    parser.add_argument(
        "--augmentations",
        nargs="+",
        default=[
            "flip",
            "pad_crop_flip",
            "crop",
            "random_crop",
            "random_resized_crop",
            "random_resized_crop with hue",
        ],
    )
    case = parser.parse_args(arguments)
    from finetune_jax.devices.replicas import prepare_backend

    prepare_backend()
    import jax

    print(
        f"{jax.devices()[0].device_kind}, {case.network}, {case.image_size} px, batch {case.batch}",
        flush=True,
    )
    print(compare(case), flush=True)


if __name__ == "__main__":
    main()
