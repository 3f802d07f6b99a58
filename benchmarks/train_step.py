"""Images per second of training and prediction on the CPU, beside the same networks in PyTorch.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --cases resnet26 --rounds 9 --torch ../torch-env/bin/python
    python -m benchmarks.train_step --bfloat16

Both sides do the same work in float32, or bfloat16, with the same number of threads. A training step takes a
batch out of uint8 images in memory, mirrors half of them, normalises, runs the network with batch statistics, takes
the cross-entropy, and steps SGD (Nesterov momentum, weight decay) with a learning rate per block; a prediction
step runs the network with running statistics and returns logits to NumPy. Ours are the functions that
``experiments.finetune`` runs, over data that lives on the device; PyTorch runs eagerly with channels_last.

Both take turns: a fixed number of steps, once uncounted, for after a pause both are slower, and once timed until
the last result is there. A ratio compares the two rounds of a pair; the table shows medians and, in brackets, the
extremes. GFLOP are those of the network and its gradient by XLA's count, which leaves out products with padding.
PyTorch may live in another environment than JAX: it runs in a process of its own, with the malloc that its users
have; ``--torch_keeps_memory`` gives it what our binaries set for themselves. The machine has to be idle:
PyTorch's threads wait for each other, and it loses most of its speed where another process takes a core.
"""

import argparse
import dataclasses
import functools
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.torch_side import (
    BLOCK_RATE,
    CLASSES,
    HEAD_RATE,
    MEAN,
    MOMENTUM,
    STD,
    WEIGHT_DECAY,
    Case,
    Examples,
    Side,
    TorchProcess,
    TorchSide,
    count_cpu_seconds,
    fastest,
    random_examples,
    seconds_of,
    serve,
)

if TYPE_CHECKING:
    from finetune_jax.devices.replicas import Replicas

TASKS = ("train", "predict")
MATMUL_SIZE = 2048
# Threads of the side that has just finished spin for a few milliseconds before they sleep.
SECONDS_BETWEEN_ROUNDS = 0.1
CASES = (
    Case("resnet50", 1.0, image_size=128, batch=16, train_steps=2, predict_steps=5),
    Case("resnet26", 1.0, image_size=64, batch=128, train_steps=1, predict_steps=1),
    Case("resnet26", 0.375, image_size=32, batch=32, train_steps=12, predict_steps=30),
    Case("resnet26", 0.375, image_size=32, batch=128, train_steps=3, predict_steps=8),
    Case("mobilenet_v2", 1.0, image_size=128, batch=16, train_steps=4, predict_steps=10),
    Case("vit_small_patch16_224", 1.0, image_size=224, batch=16, train_steps=1, predict_steps=2),
    Case("convnext_tiny", 1.0, image_size=128, batch=16, train_steps=1, predict_steps=2),
)


class OurSide:
    """The functions that ``experiments.finetune`` runs.

    Args:
        replicas: the devices.
        streamed_from: directory for a file of the images, read batch by batch; None keeps them on the devices.
        rematerialise: see ``models.create``.
    """

    def __init__(
        self, replicas: "Replicas", *, streamed_from: Path | None = None, rematerialise: bool = False
    ) -> None:
        self._replicas = replicas
        self._streamed_from = streamed_from
        self._rematerialise = rematerialise

    def version(self) -> str:
        import jax

        return f"jax {jax.__version__}"

    def matmul(self, size: int, bfloat16: bool = False) -> float:
        import jax
        import jax.numpy as jnp

        dtype = jnp.bfloat16 if bfloat16 else jnp.float32
        left, right = (jax.random.uniform(jax.random.key(i), (size, size), dtype) for i in (0, 1))
        product = jax.jit(jnp.matmul)
        return fastest(lambda: product(left, right).block_until_ready())

    def prepare(self, case: Case) -> int:
        import jax
        import jax.numpy as jnp

        from finetune_jax import models
        from finetune_jax.algorithms import augmentation, optimizers
        from finetune_jax.data.feeds import create_feed
        from finetune_jax.devices.replicas import AXIS
        from finetune_jax.models.normalization import normalizer
        from finetune_jax.training import evaluation, objectives, step
        from finetune_jax.training.state import create_state

        network = models.create(
            case.network,
            CLASSES,
            width=case.width,
            image_size=case.image_size,
            dtype=jnp.bfloat16 if case.bfloat16 else jnp.float32,
            rematerialise=self._rematerialise,
        )
        parts = network.part_names
        images = jax.ShapeDtypeStruct((1, case.image_size, case.image_size, 3), np.float32)
        variables = network.init(jax.random.key(0), images)
        normalize = normalizer(MEAN, STD)
        optimizer = optimizers.per_block_sgd(
            dict.fromkeys(parts),
            {name: HEAD_RATE if name == "head" else BLOCK_RATE for name in parts},
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
        )
        objective = objectives.objective(
            objectives.forward(network, parts),
            objectives.cross_entropy(),
            normalize=normalize,
            augment=augmentation.flip,
        )
        train_step = functools.partial(
            step.train_step, objective=objective, optimizer=optimizer, axis_name=AXIS
        )
        state = create_state(variables, parts, optimizer, key=jax.random.key(1))

        self._case, self._rounds = case, 0
        self.train_step = train_step
        self._feed = create_feed(
            self._examples(case),
            self._replicas,
            resident=self._streamed_from is None,
            steps_per_dispatch=case.steps_per_dispatch,
        )
        self._train = self._feed.compile_training(train_step)
        self.state = self._replicas.replicate(state)
        classify = evaluation.classifier(network, normalize)
        self._predict = evaluation.compile_evaluation(classify, self._replicas, case.batch)
        return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

    def run(self, task: str) -> float:
        return seconds_of({"train": self._train_round, "predict": self._predict_round}[task])

    def _examples(self, case: Case) -> Examples:
        examples = random_examples(case)
        if self._streamed_from is None:
            return examples
        path = self._streamed_from / "images.npy"
        np.save(path, examples.images)
        return Examples(np.load(path, mmap_mode="r"), examples.labels)

    def _train_round(self) -> None:
        import jax

        from finetune_jax.data.order import training_order

        case, self._rounds = self._case, self._rounds + 1
        count = case.batch * case.train_steps
        order = training_order(count, case.batch, seed=0, epoch=self._rounds)
        for state, _ in self._train(self.state, order):
            self.state = state
        jax.block_until_ready(self.state)

    def _predict_round(self) -> None:
        self._predict(self.state.variables, self._feed, self._case.batch * self._case.predict_steps)


def flops_per_image(case: Case, task: str) -> float:
    """Floating point operations of the network and, for ``train``, of its gradient; 2 per multiply-add."""
    import jax

    from finetune_jax import models
    from finetune_jax.algorithms import losses
    from finetune_jax.models.layers.convolution import countable

    network = models.create(case.network, CLASSES, width=case.width, image_size=case.image_size)
    images = jax.ShapeDtypeStruct((case.batch, case.image_size, case.image_size, 3), np.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    labels = jax.ShapeDtypeStruct((case.batch,), np.int32)

    def loss(params: Any, batch_stats: Any, images: Any, labels: Any) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, batch_stats = network.apply(variables, images, train=True)
        return losses.cross_entropy(logits, labels).mean(), batch_stats

    def predict(variables: Any, images: Any) -> Any:
        return network.apply(variables, images)

    with countable():
        if task == "train":
            gradient = jax.jit(jax.grad(loss, has_aux=True))
            program = gradient.lower(variables["params"], variables["batch_stats"], images, labels)
        else:
            program = jax.jit(predict).lower(variables, images)
    costs = program.cost_analysis()
    assert costs is not None
    return costs["flops"] / case.batch


def compare(
    cases: Sequence[Case], rounds: int, ours: Side, theirs: Side | None, matmul_size: int = MATMUL_SIZE
) -> None:
    """Measure and print, case by case.

    Args:
        cases: what to run.
        rounds: of each side, task and case.
        ours: this package.
        theirs: what to compare with, if anything.
        matmul_size: side of the matrices whose product shows what the machine can do.
    """
    sides = [ours] if theirs is None else [ours, theirs]
    operations = 2 * matmul_size**3
    rates = [operations / side.matmul(matmul_size) / 1e9 for side in sides]
    print(f"product of two {matmul_size}×{matmul_size} matrices, float32:")
    for side, rate in zip(sides, rates, strict=True):
        print(f"  {side.version()}: {rate:.1f} GFLOP/s")
    print("\n| network | width | pixels | batch | task | ours, images/s | PyTorch, images/s | ratio ", end="")
    print("| GFLOP per image | ours, GFLOP/s | of our float32 product |\n" + "|---" * 11 + "|", flush=True)
    pairs = []
    for case in cases:
        parameters = [side.prepare(case) for side in sides]
        if len(set(parameters)) > 1:
            raise SystemExit(f"the two {case.network}s are not the same: {parameters} parameters")
        for task in TASKS:
            images = case.batch * case.steps(task)
            ours_seconds, *theirs_seconds = alternate(sides, task, rounds)
            ours_rates = [images / seconds for seconds in ours_seconds]
            gflop = flops_per_image(case, task) / 1e9
            speed = statistics.median(ours_rates) * gflop
            cells = [case.network, f"{case.width:g}", case.image_size, case.batch, task]
            cells.append(_spread(ours_rates, ".1f"))
            if theirs_seconds:
                theirs_rates = [images / seconds for seconds in theirs_seconds[0]]
                ratios = [mine / other for mine, other in zip(ours_rates, theirs_rates, strict=True)]
                cells += [_spread(theirs_rates, ".1f"), _spread(ratios, ".2f")]
                pairs.append(
                    f"  {case.network}, batch {case.batch}, {task}: " + " ".join(map("{:.2f}".format, ratios))
                )
            else:
                cells += ["", ""]
            cells += [f"{gflop:.3f}", f"{speed:.1f}", f"{speed / rates[0]:.0%}"]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if pairs:
        print("\nratio of each pair (above 1, ours is faster):", *pairs, sep="\n")


def alternate(sides: Sequence[Side], task: str, rounds: int) -> list[list[float]]:
    """Seconds of each round, ``[sides][rounds]``, each after one that is not counted."""
    for side in sides:
        side.run(task)  # compiles
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, side_seconds in zip(sides, seconds, strict=True):
            time.sleep(SECONDS_BETWEEN_ROUNDS)
            # While the other side ran, the system took back what this one had freed.
            side.run(task)
            side_seconds.append(side.run(task))
    return seconds


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def _torch_process(python: str, threads: int, keeps_memory: bool, cpu_seconds: bool) -> TorchProcess | None:
    if python == "none":
        return None
    if python == "auto":
        if importlib.util.find_spec("torch") is None:
            print(
                "PyTorch is left out: it is not installed here, and --torch names no interpreter that has it\n"
            )
            return None
        python = sys.executable
    return TorchProcess(python, threads, keeps_memory=keeps_memory, cpu_seconds=cpu_seconds)


def main() -> None:
    names = tuple(dict.fromkeys(case.network for case in CASES))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(names), help="networks, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="of each side, task and case")
    parser.add_argument(
        "--torch",
        default="auto",
        help="interpreter that has PyTorch; auto is this one, if it has; none leaves PyTorch out",
    )
    parser.add_argument(
        "--torch_keeps_memory", action="store_true", help="PyTorch's malloc keeps what is freed, as ours does"
    )
    parser.add_argument(
        "--bfloat16", action="store_true", help="our compute type; PyTorch's automatic mixed precision"
    )
    parser.add_argument("--threads", type=int, default=0, help="of each side; 0 is one per core")
    parser.add_argument(
        "--cpu_seconds", action="store_true", help="count seconds of the cores instead of those of the clock"
    )
    parser.add_argument("--worker", choices=["torch"], help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cpu_seconds:
        count_cpu_seconds()
    if arguments.worker:
        side = TorchSide(arguments.threads, arguments.device, arguments.compiled)
        serve(side, sys.stdin, sys.stdout)
        return
    chosen = arguments.cases.split(",")
    if unknown := set(chosen) - set(names):
        parser.error(f"--cases: no {', '.join(sorted(unknown))}; choose among {', '.join(names)}")
    if arguments.rounds < 1 or arguments.threads < 0:
        parser.error("--rounds starts at 1, --threads at 0")

    import jax

    from finetune_jax.data.parallel import available_cores
    from finetune_jax.devices.replicas import local_replicas, prepare_backend

    threads = arguments.threads or available_cores()
    # XLA sizes its thread pool by this when its backend starts.
    os.environ["NPROC"] = str(threads)
    # And OpenMP its threads, which convolutions and dense layers run in.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    prepare_backend()
    jax.config.update("jax_platforms", "cpu")
    theirs = _torch_process(arguments.torch, threads, arguments.torch_keeps_memory, arguments.cpu_seconds)
    try:
        print(f"threads: {threads}")
        cases = [
            dataclasses.replace(case, bfloat16=arguments.bfloat16) for case in CASES if case.network in chosen
        ]
        compare(cases, arguments.rounds, OurSide(local_replicas()), theirs)
    finally:
        if theirs is not None:
            theirs.close()


if __name__ == "__main__":
    main()
