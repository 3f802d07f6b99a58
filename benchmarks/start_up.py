"""From the start of the process to the first finished training step, and how soon ``--help`` answers.

    python -m benchmarks.start_up
    python -m benchmarks.start_up --rounds 5 -- --network=resnet26 --image_size=64

Runs ``experiments.finetune`` until its first step is done, ``--rounds`` times with the same flags, directory and
caches, all empty at the start: the first start compiles, later ones load what it compiled. By default it is ResNet-50
at 128 px with weights from a file. Flags after ``--`` are those of ``experiments.finetune``. Prints, of each start,
seconds by the clock, CPU seconds over all threads (which other work on the machine disturbs less), and what JAX says
of its own doings: how many programs it compiled and loaded, and the seconds that tracing, lowering, and compiling or
loading took. ``--profile`` also prints where the last start spent its time.
"""

import argparse
import collections
import cProfile
import json
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
# Of the sum of durations that JAX reports.
PHASES = {
    "tracing": "/jax/core/compile/jaxpr_trace_duration",
    "lowering": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "compiling or loading": "/jax/core/compile/backend_compile_duration",
}
COUNTS = ("compiled", "loaded")


def until_first_step(flags: list[str], started: float, profile: bool) -> None:
    """Run ``experiments.finetune`` in this process; prints a line of JSON after its first step and ends there.

    Args:
        flags: of the binary.
        started: value of ``time.time`` when the process was started.
        profile: whether to print the profile of all calls first, to stderr.
    """
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    import jax

    from finetune_jax.commands import command_line, finetune
    from finetune_jax.data.feeds import Training
    from finetune_jax.devices.replicas import Replicas
    from finetune_jax.files.run_directory import RunDirectory
    from finetune_jax.training import loop
    from finetune_jax.training.plan import Plan
    from finetune_jax.training.state import TrainState

    seconds: dict[str, float] = collections.defaultdict(float)
    counts: dict[str, int] = collections.defaultdict(int)

    def add(event: str, duration_secs: float, **_: str | int) -> None:
        seconds[event] += duration_secs
        counts[event] += 1

    def count(event: str, **_: str | int) -> None:
        counts[event] += 1

    jax.monitoring.register_event_duration_secs_listener(add)
    jax.monitoring.register_event_listener(count)

    def until_first(train: Training) -> Training:
        def first(state: Any, order: np.ndarray) -> Iterator[tuple[Any, int]]:
            for after, taken in train(state, order):
                jax.block_until_ready(after)
                tell()
                yield after, taken

        return first

    def tell() -> None:
        figures = {"seconds": time.time() - started, "cpu_seconds": time.process_time()}
        loaded = counts["/jax/compilation_cache/cache_hits"]
        figures |= {"compiled": counts[PHASES["compiling or loading"]] - loaded, "loaded": loaded}
        figures |= {name: seconds[event] for name, event in PHASES.items()}
        if profile:
            profiler.disable()
            pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats(70)
        print(json.dumps(figures), flush=True)
        # Nothing that follows is of interest, nor is a checkpoint, which the next start would find.
        os._exit(0)

    fit = loop.fit

    def fit_until_first(
        state: TrainState, train: Training, plan: Plan, replicas: Replicas, directory: RunDirectory
    ) -> list[dict[str, str]]:
        return fit(state, until_first(train), plan, replicas, directory)

    # Where it has another signature than this one, the type checker says so.
    loop.fit = fit_until_first
    sys.argv = ["finetune", *flags]
    command_line.run(finetune.main)


def start(flags: list[str], profile: bool = False) -> dict[str, float]:
    """One start in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.start_up", "--started", str(time.time())]
    command += [*(["--profile"] if profile else []), "--", *flags]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if child.returncode or not child.stdout:
        raise SystemExit(
            f"experiments.finetune ended with status {child.returncode} before its first step:\n{child.stderr}"
        )
    if profile:
        sys.stderr.write(child.stderr)
    return json.loads(child.stdout.splitlines()[-1])


def help_seconds(binary: str) -> tuple[float, float]:
    """Seconds and CPU seconds that ``python -m experiments.BINARY --help`` takes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # absl's --help ends with status 1.
    subprocess.run([sys.executable, "-m", f"experiments.{binary}", "--help"], cwd=ROOT, capture_output=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def binaries() -> list[str]:
    """Names below ``experiments`` that can be started."""
    files = sorted((ROOT / "experiments").glob("*.py"))
    return [file.stem for file in files if "__main__" in file.read_text()]


def write_weights(network: str, path: Path) -> None:
    """Random weights of a network, float16 with PyTorch's names, as ``experiments.pretrain`` writes them."""
    import jax

    from finetune_jax import models
    from finetune_jax.models.weights import pretrained

    created = models.create(network, 100)
    shapes = jax.eval_shape(created.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32))
    # Zeros load as fast as any others, and nothing has to be compiled for them.
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    pretrained.export(pretrained.Pretrained(created, variables), path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="starts with the same flags, the first compiles"
    )
    parser.add_argument(
        "--weights", default="resnet50", help="network whose weights are written; none: no file"
    )
    parser.add_argument("--images", type=int, default=64, help="made up, of 640 × 480 pixels")
    parser.add_argument("--profile", action="store_true", help="print where the last start spends its time")
    parser.add_argument("--no_help", action="store_true", help="leave the times of --help out")
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help="of experiments.finetune")
    arguments = parser.parse_args()
    if arguments.started:
        until_first_step(arguments.flags, arguments.started, arguments.profile)
        return
    if not arguments.no_help:
        print("| --help of | seconds | CPU seconds |\n|---|---|---|")
        for binary in binaries():
            seconds, cpu_seconds = help_seconds(binary)
            print(f"| {binary} | {seconds:.2f} | {cpu_seconds:.2f} |", flush=True)

    from benchmarks.folder_epochs import write_photographs

    names = ["seconds", "cpu_seconds", *COUNTS, *PHASES]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        flags = [
            f"--dataset=folder:{write_photographs(scratch / 'photos', arguments.images, classes=2)}",
            f"--workdir={scratch / 'run'}",
            f"--cache_dir={scratch / 'decoded'}",
            f"--compilation_cache={scratch / 'compiled'}",
            "--image_size=128",
            "--batch_size=16",
        ]
        if arguments.weights != "none":
            write_weights(arguments.weights, scratch / "weights")
            flags.append(f"--pretrained={scratch / 'weights.npz'}")
        flags += arguments.flags
        print("\n| start | " + " | ".join(names) + " |\n" + "|---" * (1 + len(names)) + "|", flush=True)
        for number in range(arguments.rounds):
            figures = start(flags, profile=arguments.profile and number == arguments.rounds - 1)
            cells = [f"{figures[name]:.1f}" if name not in COUNTS else f"{figures[name]}" for name in names]
            print(f"| {number + 1} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
