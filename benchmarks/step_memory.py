"""Peak memory of a training step, ours and PyTorch's, and what rematerialisation saves and costs.

    python -m benchmarks.step_memory --torch ../torch-env/bin/python

Every side is a process of its own that runs ``--steps`` steps of ``benchmarks.train_step`` on the CPU. "Peak" is
``VmHWM`` of ``/proc/self/status`` (Linux), the largest resident size the process ever had: interpreter, libraries,
compiler, weights, optimiser and activations. "Above the start" leaves out what was resident once the library was
loaded. "Temporary" is what XLA plans for values inside the step (``memory_analysis``). CPU seconds are of a step
after the first, over all threads, which other work on the machine disturbs less than the clock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import train_step
from benchmarks.streaming_memory import resident_bytes

SIDES = ("ours", "rematerialised", "torch")


def measure(side: str, case: train_step.Case, steps: int, threads: int) -> dict[str, Any]:
    """One side in this process: bytes at the ``start``, ``peak``, ``temporary`` (ours); seconds per step."""
    implementation: Any
    if side == "torch":
        implementation = train_step.TorchSide(threads)
    else:
        import jax

        from finetune_jax.devices.replicas import local_replicas, prepare_backend

        prepare_backend()
        implementation = train_step.OurSide(
            local_replicas(jax.devices()[:1]), rematerialise=side == "rematerialised"
        )
    implementation.version()
    start = resident_bytes("VmRSS")
    implementation.prepare(case)
    seconds, cpu_seconds = [], []
    for _ in range(steps):
        before = time.process_time()
        seconds.append(implementation.run("train"))
        cpu_seconds.append(time.process_time() - before)
    # The first step compiles and touches its memory for the first time.
    result = {
        "start": start,
        "peak": resident_bytes("VmHWM"),
        "seconds": statistics.median(seconds[1:]),
        "cpu_seconds": statistics.median(cpu_seconds[1:]),
    }
    if side != "torch":
        result["temporary"] = temporary_bytes(implementation, case)
    return result


def temporary_bytes(side: train_step.OurSide, case: train_step.Case) -> int:
    """Bytes that XLA plans for the values inside one step."""
    import jax
    import jax.numpy as jnp

    from finetune_jax.data.batch import Batch
    from finetune_jax.devices.replicas import local_replicas

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), tree)

    def batch() -> Batch:
        number = jnp.zeros((1, case.batch), np.int32)
        return Batch(
            jnp.zeros((1, case.batch, case.image_size, case.image_size, 3), np.uint8), number, number
        )

    mapped: Any = local_replicas(jax.devices()[:1]).map(side.train_step, (None, 0), donate=(0,))
    program = mapped.lower(shapes(side.state), jax.eval_shape(batch)).compile()
    return program.memory_analysis().temp_size_in_bytes


def main(words: list[str] | None = None) -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--steps", type=int, default=3, help="of each side, the first of them not timed")
    parser.add_argument("--threads", type=int, default=0, help="of each side; 0 is one per core")
    parser.add_argument("--torch", default="none", help="interpreter that has PyTorch; none leaves it out")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.steps < 2:
        parser.error("--steps starts at 2: the first is not timed")
    threads = arguments.threads or len(os.sched_getaffinity(0))
    if arguments.side:
        case = train_step.Case(
            arguments.network, arguments.width, arguments.image_size, arguments.batch, 1, 1
        )
        print(json.dumps(measure(arguments.side, case, arguments.steps, threads)))
        return
    print("| side | peak | above the start | temporary | seconds per step | CPU seconds per step |")
    print("|---" * 6 + "|", flush=True)
    for side in SIDES if arguments.torch != "none" else SIDES[:2]:
        python = arguments.torch if side == "torch" else sys.executable
        flags = ["network", "width", "image_size", "batch", "steps", "threads"]
        command = [python, "-m", "benchmarks.step_memory", "--side", side]
        command += [f"--{name}={getattr(arguments, name)}" for name in flags]
        # XLA sizes its thread pool by NPROC when its backend starts.
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "NPROC": str(threads)}
        child = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[1],
        )
        figures = json.loads(child.stdout)
        temporary = f"{figures['temporary'] / 1e9:.2f} GB" if "temporary" in figures else ""
        print(
            f"| {side} | {figures['peak'] / 1e9:.2f} GB | {(figures['peak'] - figures['start']) / 1e9:.2f} GB "
            f"| {temporary} | {figures['seconds']:.2f} | {figures['cpu_seconds']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
