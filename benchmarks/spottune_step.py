"""What routing costs: a training step of SpotTune, and the prediction of a single image.

    python -m benchmarks.spottune_step
    python -m benchmarks.spottune_step --network=resnet50 --image_size=128 --batch=16 --frozen_first=3

Training is compared with standard fine-tuning, of all parts ("whole"; the paper reports 1.47, "tested with 4 Titan
Xp GPUs, batch size 96") and with the same lowest blocks frozen, prediction with the plain network (paper: 0.015 s
against 0.013 s). A further training step draws decisions at random instead of asking a policy network.
Prediction is measured for one image and for a large batch, in two ways: both copies of every block with the right one
selected, and only the copy that each image takes (a large batch is sorted into groups that share a copy; decisions of
fresh policies are one-sided, here half of them are for fine-tuning). The sides take turns, and a ratio is of two
rounds of the same turn; the table shows medians and, in brackets, the extremes.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from finetune_jax.config.settings import FinetuneConfig

CLASSES = 100


@dataclasses.dataclass(frozen=True)
class Measured:
    """Seconds per step of every round, ``{side: [rounds]}``."""

    seconds: dict[str, list[float]]

    def ratios(self, side: str, reference: str) -> list[float]:
        """Of every turn."""
        pairs = zip(self.seconds[side], self.seconds[reference], strict=True)
        return [ours / theirs for ours, theirs in pairs]


def take_turns(sides: dict[str, Callable[[], Any]], rounds: int, steps: int) -> Measured:
    """Run every side once, then ``rounds`` times ``steps`` calls of each in turn, its result waited for."""
    import jax

    for side in sides.values():
        jax.block_until_ready(side())
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            for _ in range(steps):
                result = side()
            jax.block_until_ready(result)
            seconds[name].append((time.perf_counter() - began) / steps)
    return Measured(seconds)


def training_sides(
    case: argparse.Namespace, names: Sequence[str] = ("standard", "whole", "no policy", "spottune")
) -> dict[str, Callable[[], Any]]:
    """One step of each of the named methods on the same batch, going on from its last state."""
    from finetune_jax.config.settings import FinetuneConfig

    common = FinetuneConfig(batch_size=case.batch)
    above = _network(case)[0].block_names[case.frozen_first :]
    spottune = dataclasses.replace(common, method="spottune", frozen_first=case.frozen_first)
    standard = dataclasses.replace(common, method="last_k", k=len(above))
    configs = {
        "standard": standard,
        "whole": dataclasses.replace(common, method="standard"),
        "no policy": dataclasses.replace(spottune, method="random_policy"),
        "spottune": spottune,
    }
    return {name: _stepper(case, configs[name]) for name in names}


def prediction_sides(case: argparse.Namespace, batch: int) -> dict[str, Callable[[], Any]]:
    """Logits of ``batch`` images."""
    import jax
    import jax.numpy as jnp

    from finetune_jax.algorithms import spottune
    from finetune_jax.config.settings import FinetuneConfig
    from finetune_jax.models.compositions.routed import RoutedNetwork
    from finetune_jax.training.methods import registry as methods

    network, variables = _network(case)
    config = FinetuneConfig(method="spottune", frozen_first=case.frozen_first)
    model = methods.create(config, network, variables, jax.random.key(1)).model
    assert isinstance(model, RoutedNetwork)
    shape = (batch, case.image_size, case.image_size, 3)
    routed = model.start(variables, jax.random.key(1), jax.ShapeDtypeStruct(shape, np.float32))
    images = jax.random.normal(jax.random.key(2), shape)
    half = jax.random.bernoulli(jax.random.key(3), 0.5, (batch, len(model.routed))).astype(jnp.float32)

    def predict(routed: Any, images: jax.Array, *, once: bool) -> jax.Array:
        tuned, frozen = model.copies(routed)
        # The policy runs as in prediction; what it decides is replaced without the compiler knowing.
        decisions = half + 0 * model.policy_logits(routed, images)[0][..., 0]
        x, _ = spottune.features(network, tuned, frozen, images, decisions, routed=model.routed, once=once)
        return network.run(("head",), tuned, x)[0]

    def plain_and_policy(routed: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return network.apply(model.copies(routed)[0], images), model.policy_logits(routed, images)[0]

    plain, asked = jax.jit(network.apply), jax.jit(plain_and_policy)
    selected = jax.jit(functools.partial(predict, once=False))
    once = jax.jit(functools.partial(predict, once=True))
    return {
        "plain": lambda: plain(variables, images),
        "plain+policy": lambda: asked(routed, images),
        "both copies": lambda: selected(routed, images),
        "one copy": lambda: once(routed, images),
    }


def _network(case: argparse.Namespace) -> tuple[Any, Any]:
    return _initialised(case.network, case.width, case.image_size)


@functools.cache
def _initialised(name: str, width: float, image_size: int) -> tuple[Any, Any]:
    import jax

    from finetune_jax import models

    network = models.create(name, CLASSES, width=width)
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    return network, network.init(jax.random.key(0), images)


def _stepper(case: argparse.Namespace, config: "FinetuneConfig") -> Callable[[], Any]:
    import jax

    from finetune_jax.algorithms import augmentation, optimizers
    from finetune_jax.data.batch import Batch
    from finetune_jax.models.normalization import normalizer
    from finetune_jax.training import objectives, step
    from finetune_jax.training import rates as training_rates
    from finetune_jax.training.methods import registry as methods
    from finetune_jax.training.state import create_state

    network, variables = _network(case)
    setup = methods.create(config, network, variables, jax.random.key(1))
    optimizer = training_rates.optimizer(config, setup.trained, setup.rules(config))
    objective = objectives.objective(
        setup.forward,
        objectives.cross_entropy(),
        normalize=normalizer((0.5,) * 3, (0.25,) * 3),
        augment=augmentation.flip,
    )
    totals = ("loss", "correct", "examples", *setup.totals)
    state = create_state(setup.variables, setup.trained, optimizer, key=jax.random.key(2), totals=totals)
    rates = setup.tuner(config, setup.trained).rates({}, 0)
    state = state.replace(opt_state=optimizers.set_learning_rates(state.opt_state, rates))
    run = jax.jit(
        functools.partial(step.train_step, objective=objective, optimizer=optimizer), donate_argnums=0
    )
    rng = np.random.default_rng(0)
    batch = Batch(
        jax.device_put(rng.integers(0, 256, (case.batch, case.image_size, case.image_size, 3), np.uint8)),
        jax.device_put(rng.integers(0, CLASSES, case.batch, np.int32)),
        jax.device_put(np.arange(case.batch, dtype=np.int32)),
    )
    # A buffer may be donated once, and both copies of a block start as the same array.
    current = jax.device_put(jax.tree.map(np.array, state))

    def one() -> Any:
        nonlocal current
        current = run(current, batch)
        return current.step

    return one


def report(title: str, measured: Measured, references: Sequence[str]) -> str:
    """Milliseconds of each side and its ratios to the references."""
    lines = [title]
    for name, seconds in measured.seconds.items():
        cells = [f"  {name:14s} {1e3 * statistics.median(seconds):9.2f} ms"]
        for reference in references:
            ratios = measured.ratios(name, reference)
            cells.append(
                f"{statistics.median(ratios):.2f} × {reference} ({min(ratios):.2f}–{max(ratios):.2f})"
            )
        lines.append("   ".join(cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet26")
    parser.add_argument("--width", type=float, default=0.375)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--predict_batch", type=int, default=256)
    parser.add_argument("--frozen_first", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--train_steps", type=int, default=3)
    parser.add_argument("--predict_steps", type=int, default=20)
    case = parser.parse_args(arguments)
    from finetune_jax.devices.replicas import prepare_backend

    prepare_backend()
    name = f"{case.network}, width {case.width:g}, {case.image_size} px, {case.frozen_first} blocks frozen"
    trained = take_turns(training_sides(case), case.rounds, case.train_steps)
    print(report(f"training step, {name}, batch {case.batch}", trained, ("standard", "whole")), flush=True)
    predicted = take_turns(prediction_sides(case, 1), case.rounds, case.predict_steps)
    print(report(f"prediction of one image, {name}", predicted, ("plain", "plain+policy")), flush=True)
    predicted = take_turns(prediction_sides(case, case.predict_batch), case.rounds, 1)
    print(
        report(f"prediction of {case.predict_batch} images, {name}", predicted, ("plain", "plain+policy")),
        flush=True,
    )


if __name__ == "__main__":
    main()
