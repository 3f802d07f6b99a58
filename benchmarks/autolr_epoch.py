"""What AutoLR adds to an epoch: an accepted trial against the same epoch with fixed rates.

    python -m benchmarks.autolr_epoch

Both train the same network on the same random images through the same loop, alternating in one process, and an
epoch is timed from evaluation to evaluation: rates, steps, judgement, records and checkpoints are all in it.
AutoLR takes every first trial (``max_trials=1``). Prints the median of the ratios and their range.
"""

import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

EVALUATED = 10  # every so many of the images are predicted after an epoch


class _Images:
    def __init__(self, count: int, size: int, classes: int) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        self.labels = rng.integers(0, classes, count).astype(np.int32)


def measure(
    *,
    images: int,
    size: int,
    width: float,
    batch: int,
    rounds: int,
    epochs: int,
    network: str = "resnet26",
) -> dict[str, list[float]]:
    """Seconds of each timed epoch, ``{"fixed": …, "autolr": …}``; the first epoch of every fit is not timed."""
    from finetune_jax import models
    from finetune_jax.algorithms import augmentation, optimizers
    from finetune_jax.algorithms.autolr import AutoLRConfig
    from finetune_jax.data.feeds import create_feed
    from finetune_jax.data.order import training_order
    from finetune_jax.devices.replicas import AXIS, Replicas, prepare_backend
    from finetune_jax.files.run_directory import RunDirectory
    from finetune_jax.models.normalization import normalizer
    from finetune_jax.training import evaluation, loop, objectives, step, tuning
    from finetune_jax.training.methods.autolr import AutoLRTuner
    from finetune_jax.training.plan import Plan
    from finetune_jax.training.state import TrainState, create_state

    prepare_backend()
    replicas = Replicas((jax.devices()[0],))
    built = models.create(network, 10, width=width)
    variables = built.init(jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), np.float32))
    parts = built.part_names
    optimizer = optimizers.per_block_sgd(dict.fromkeys(parts), dict.fromkeys(parts, 0.0))
    normalize = normalizer((0.5,) * 3, (0.25,) * 3)
    objective = objectives.objective(
        objectives.forward(built, parts),
        objectives.cross_entropy(),
        normalize=normalize,
        augment=augmentation.flip,
    )
    train_step = functools.partial(step.train_step, objective=objective, optimizer=optimizer, axis_name=AXIS)
    feed = create_feed(
        _Images(images, size, 10), replicas, resident=True, steps_per_dispatch=1 if replicas.on_cpu else 64
    )
    run = feed.compile_training(train_step)
    predict = evaluation.compile_evaluation(evaluation.classifier(built, normalize), replicas, batch)
    start = jax.device_get(create_state(variables, parts, optimizer, key=jax.random.key(1)))
    rates = dict.fromkeys(parts, 1e-3)
    tuners: dict[str, tuning.Tuner] = {
        "fixed": tuning.FixedRates(built.block_names, lambda epoch: rates),
        "autolr": AutoLRTuner(
            AutoLRConfig(max_trials=1), built.block_names, 1e-3, {"head": 1e-3}, "stem", lambda epoch: 1.0
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tuners}
    for number in range(rounds + 1):
        # Whichever comes second in a round could profit or suffer from the first.
        for name in sorted(tuners, reverse=bool(number % 2)):
            ends: list[float] = []

            def evaluate(state: TrainState, ends: list[float] = ends) -> dict[str, float]:
                predict(state.variables, feed, max(images // EVALUATED, 1))
                ends.append(time.perf_counter())
                return {"score": 0.0}

            plan = Plan(
                epochs=epochs + 1,
                batch_size=batch,
                order=lambda epoch: training_order(images, batch, seed=0, epoch=epoch),
                tuner=tuners[name],
                evaluate=evaluate,
                score="",
                patience=0,
                checkpoint_steps=0,
                card={},
            )
            with tempfile.TemporaryDirectory() as folder:
                loop.fit(start, run, plan, replicas, RunDirectory(Path(folder)))
            if number:  # the first round compiles
                seconds[name].append(statistics.median(np.diff(ends)))
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet26")
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--width", type=float, default=0.375)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=2)
    seconds = measure(**vars(parser.parse_args()))
    ratios = [ours / fixed for ours, fixed in zip(seconds["autolr"], seconds["fixed"], strict=True)]
    for name, values in seconds.items():
        print(f"{name:<7} {statistics.median(values):.3f} s per epoch ({min(values):.3f}-{max(values):.3f})")
    print(f"ratio   {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")


if __name__ == "__main__":
    main()
