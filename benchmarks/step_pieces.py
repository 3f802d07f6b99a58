"""What each piece of a recipe costs, as a share of the training step that it is added to.

    python -m benchmarks.step_pieces
    python -m benchmarks.step_pieces --image_size=32 --batch=32 --pieces EMA AdamW

The step is that of a network on a batch that is already on the device: mirror images, forward, backward, SGD. Each
piece runs alone, on the same batch, gradients or weights; of an optimiser it is what it takes more than SGD. Times are
the medians of ``--rounds`` calls, in CPU time with ``--cpu_seconds``, which other work on the machine disturbs less.
XLA may fuse a piece into the step and make it cheaper than alone. TPGM is what ``--method=tpgm`` does after every
step, with validation images in batches of the same size.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

CLASSES = 100
Call = Callable[[], Any]


class LabelledImages(NamedTuple):
    """uint8 ``images [N, H, W, 3]`` and int32 ``labels [N]``."""

    images: np.ndarray
    labels: np.ndarray


class Case:
    """A network, a batch, and functions of them."""

    def __init__(self, network: str, image_size: int, batch: int) -> None:
        """Make them; nothing is compiled yet."""
        import jax
        import jax.numpy as jnp

        from finetune_jax import models

        rng = np.random.default_rng(0)
        self.size, self.batch = image_size, batch
        self.network = models.create(network, CLASSES)
        shape = (batch, image_size, image_size, 3)
        self.bytes = jnp.asarray(rng.integers(0, 256, shape, np.uint8))
        self.labels = jnp.asarray(rng.integers(0, CLASSES, batch, np.int32))
        self.keys = jax.random.split(jax.random.key(0), batch)
        example = jax.ShapeDtypeStruct((1, *shape[1:]), np.float32)
        self.variables = self.network.init(jax.random.key(1), example)
        self.params = self.variables["params"]
        self.gradients = jax.tree.map(lambda leaf: 1e-3 * (leaf + 1), self.params)

    def step(self) -> Call:
        """The whole training step."""
        import jax

        from finetune_jax.algorithms import augmentation, optimizers
        from finetune_jax.data.batch import Batch
        from finetune_jax.models.normalization import normalizer
        from finetune_jax.training import objectives, step
        from finetune_jax.training.state import create_state

        parts = self.network.part_names
        optimizer = optimizers.per_block_sgd(dict.fromkeys(parts), dict.fromkeys(parts, 0.001))
        objective = objectives.objective(
            objectives.forward(self.network, parts),
            objectives.cross_entropy(),
            normalize=normalizer((0.5,) * 3, (0.25,) * 3),
            augment=augmentation.flip,
        )
        run = jax.jit(
            functools.partial(step.train_step, objective=objective, optimizer=optimizer), donate_argnums=0
        )
        batch = Batch(self.bytes, self.labels, jax.device_put(np.arange(self.batch, dtype=np.int32)))
        current = create_state(self.variables, parts, optimizer, key=jax.random.key(2))

        def one() -> Any:
            nonlocal current
            current = run(current, batch)
            return current.step

        current = jax.device_put(jax.tree.map(np.array, current))
        return one

    def of_images(self, augment: Callable[..., Any]) -> Call:
        """An augmentation ``(key, image) → image`` of the batch."""
        import jax
        import jax.numpy as jnp

        mapped = jax.jit(lambda keys, images: jax.vmap(augment)(keys, images.astype(jnp.float32)))
        return lambda: mapped(self.keys, self.bytes)

    def mixed(self, **alphas: float) -> Call:
        """Mixup or CutMix of the batch and its labels."""
        import jax
        import jax.numpy as jnp

        from finetune_jax.algorithms import mixing

        @jax.jit
        def mix(key: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
            drawn = mixing.draw(key, (self.size, self.size), **alphas)
            images = images.astype(jnp.float32)
            partners = mixing.partners(labels)
            soft = mixing.soft_labels(drawn, labels, partners, num_classes=CLASSES)
            return mixing.apply(drawn, images, mixing.partners(images)), soft

        return lambda: mix(self.keys[0], self.bytes, self.labels)

    def of_gradients(self, function: Callable[[Any, Any], Any]) -> Call:
        """``(gradients, params) → anything``."""
        import jax

        compiled = jax.jit(function)
        return lambda: compiled(self.gradients, self.params)

    def optimizer(self, rule: Any) -> Call:
        """An update of all weights with a rule of ``algorithms.optimizers``."""
        import jax
        import optax

        from finetune_jax.algorithms import optimizers

        parts = self.network.part_names
        transform = optimizers.per_block(
            dict.fromkeys(parts), dict.fromkeys(parts, 1e-4), dict.fromkeys(parts, rule)
        )
        extended = optax.with_extra_args_support(transform)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def update(params: Any, state: Any, gradients: Any) -> Any:
            updates, state = extended.update(gradients, state, params, value=1.0)
            return optax.apply_updates(params, updates), state

        state = (jax.tree.map(lambda leaf: leaf + 0, self.params), transform.init(self.params))

        def one() -> Any:
            nonlocal state
            state = update(*state, self.gradients)
            return jax.tree.leaves(state[0])[0]

        return one

    def tpgm(self) -> Call:
        """A turn of TPGM: radii learn from a batch of validation images, and weights go back into their balls."""
        import jax

        from finetune_jax.algorithms import optimizers
        from finetune_jax.config.settings import FinetuneConfig
        from finetune_jax.data import feeds
        from finetune_jax.devices.replicas import Replicas
        from finetune_jax.models.normalization import normalizer
        from finetune_jax.training.methods.method import Around, Base
        from finetune_jax.training.methods.tpgm import TPGM
        from finetune_jax.training.state import create_state

        config = FinetuneConfig(method="tpgm", batch_size=self.batch)
        method = TPGM.create(config, Base(self.network, self.variables, jax.random.key(3)))
        replicas = Replicas(jax.local_devices()[:1])
        examples = LabelledImages(np.asarray(self.bytes), np.asarray(self.labels))
        around = Around(
            config=config,
            task="classification",
            replicas=replicas,
            normalize=normalizer((0.5,) * 3, (0.25,) * 3),
            validation=feeds.create_feed(examples, replicas, resident=True, steps_per_dispatch=1),
            images=self.batch,
            steps_per_epoch=1,
        )
        after_nothing = method.steps(lambda state, order: iter([(state, len(order))]), around)
        parts = method.trained
        optimizer = optimizers.per_block_sgd(dict.fromkeys(parts), dict.fromkeys(parts, 0.001))
        current = create_state(method.variables, parts, optimizer, key=jax.random.key(2))
        moved = jax.tree.map(lambda leaf: leaf + 1e-3, current.params)
        current = replicas.replicate(jax.tree.map(np.array, current.replace(params=moved)))
        order = np.arange(self.batch, dtype=np.int32)[None]

        def one() -> Any:
            nonlocal current
            ((current, _),) = after_nothing(current, order)
            return jax.tree.leaves(current.params)

        return one


def pieces(case: Case) -> Mapping[str, Callable[[], Call]]:
    """``{name: makes its call}``."""
    from finetune_jax.algorithms import (
        augmentation,
        averaging,
        clipping,
        erasing,
        optimizer_rules,
        optimizers,
        projection,
        regularizers,
    )

    def pull(gradients: Any, params: Any) -> Any:
        import jax

        penalty = lambda moved: regularizers.l2_sp(moved, gradients, tuple(params), 0.01, 0.01)  # noqa: E731
        return jax.grad(penalty)(params)

    def ball() -> Call:
        rule = projection.projected_rule(optimizers.sgd(), radius_rate=0.01, shrinking=1.0, shared=False)
        return case.optimizer(rule)

    images: dict[str, Callable[[], Call]] = {
        "mirror": lambda: case.of_images(augmentation.flip),
        "random_resized_crop": lambda: case.of_images(
            augmentation.create("random_resized_crop", size=case.size)
        ),
        **{
            name: functools.partial(lambda name: case.of_images(augmentation.create(name, case.size)), name)
            for name in ("trivial_augment", "rand_augment", "augmix")
        },
        "dihedral": lambda: case.of_images(augmentation.dihedral),
        "erasing": lambda: case.of_images(functools.partial(erasing.erase, probability=0.25)),
        "mixup": lambda: case.mixed(mixup=0.2, cutmix=0.0),
        "CutMix": lambda: case.mixed(mixup=0.0, cutmix=1.0),
    }
    weights: dict[str, Callable[[], Call]] = {
        "clip_norm": lambda: case.of_gradients(lambda gradients, _: clipping.by_global_norm(gradients, 1.0)),
        "AGC": lambda: case.of_gradients(
            lambda gradients, params: clipping.adaptive(gradients, params, 0.01)
        ),
        "gradient norms": lambda: case.of_gradients(lambda gradients, _: clipping.block_norms(gradients)),
        "EMA": lambda: case.of_gradients(
            lambda average, params: averaging.ema_update(average, params, 0.999)
        ),
        "L2-SP": lambda: case.of_gradients(pull),
        "FTP": ball,
        "TPGM": case.tpgm,
    }
    names = [name for name in optimizer_rules.NAMES if name != "sgd"]
    rules = {
        name: functools.partial(lambda name: case.optimizer(optimizers.create(name)), name)
        for name in names
        if name != "adamw"
    }
    return {**images, **weights, "adamw": lambda: case.optimizer(optimizers.adamw()), **rules}


MORE_THAN_SGD = ("FTP", "adamw")


def seconds(call: Call, rounds: int, clock: Callable[[], float]) -> float:
    """Median time of a call, after one that compiles."""
    import jax

    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        began = clock()
        jax.block_until_ready(call())
        times.append(clock() - began)
    return statistics.median(times)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet26")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pieces", nargs="+", help="Those to measure; all by default.")
    parser.add_argument("--cpu_seconds", action="store_true", help="CPU time of this process.")
    arguments_read = parser.parse_args(arguments)
    from finetune_jax.algorithms import optimizer_rules, optimizers
    from finetune_jax.devices.replicas import prepare_backend

    prepare_backend()
    clock = time.process_time if arguments_read.cpu_seconds else time.perf_counter
    case = Case(arguments_read.network, arguments_read.image_size, arguments_read.batch)
    step = seconds(case.step(), max(2, arguments_read.rounds // 2), clock)
    plain = seconds(case.optimizer(optimizers.sgd()), arguments_read.rounds, clock)
    print(f"step {1e3 * step:.0f} ms, of which SGD {1e3 * plain:.1f} ms\n")
    print("| piece | ms | of the step |\n|---|---|---|", flush=True)
    for name, make in pieces(case).items():
        if arguments_read.pieces and name not in arguments_read.pieces:
            continue
        taken = seconds(make(), arguments_read.rounds, clock)
        if name in MORE_THAN_SGD or name in optimizer_rules.NAMES:
            taken -= plain
        print(f"| {name} | {1e3 * taken:.1f} | {100 * taken / step:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
