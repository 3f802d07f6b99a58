"""What training several settings together saves, against as many separate runs.

    python -m benchmarks.parallel_trials --methods feature_extractor,standard

Fine-tunes the bundled network on digits with ``--trials`` learning rates in three ways: as separate processes, one
after the other; together in one process with the compiled step of one run (``in turn``); and together with one
compiled step of all runs (``vectorized``). Everything counts: the start of Python, reading data, compilation,
training, evaluation, checkpoints and reports. Separate runs share a cache of compiled programs, which is empty at the
start, as with the default flags; the other ways start with an empty cache too. Prints seconds of wall time and of CPU
time (of all threads, which other work on the machine disturbs less), and the speed-up of each.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("separate", "in turn", "vectorized")


def measure(way: str, flags: dict[str, str], rates: list[float]) -> tuple[float, float]:
    """Seconds of wall time and of CPU time that the runs take; ``flags`` are of ``FinetuneConfig``."""
    with tempfile.TemporaryDirectory() as folder:
        groups = [[rate] for rate in rates] if way == "separate" else [rates]
        before, began = _children_seconds(), time.perf_counter()
        for group in groups:
            arguments = [f"{name}={value}" for name, value in flags.items()]
            listed = ",".join(map(str, group))
            command = [sys.executable, "-m", "benchmarks.parallel_trials", "--child", way, folder, listed]
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "compiled")}
            subprocess.run(
                [*command, *arguments], check=True, env=environment, capture_output=True, text=True
            )
        return time.perf_counter() - began, _children_seconds() - before


def child(way: str, folder: str, rates: str, *settings: str) -> None:
    """Train one group of runs in this process."""
    import dataclasses

    import jax

    from finetune_jax.config.declaration import declared
    from finetune_jax.config.settings import FinetuneConfig
    from finetune_jax.devices.replicas import local_replicas, prepare_backend
    from finetune_jax.runs import finetune

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    defaults = {name: setting.default for name, setting in declared(FinetuneConfig).items()}
    values = dict(setting.split("=", 1) for setting in settings)
    base = FinetuneConfig(**{name: type(defaults[name])(value) for name, value in values.items()})
    configs = [
        dataclasses.replace(base, learning_rate=float(rate), workdir=str(Path(folder) / f"lr{rate}"))
        for rate in rates.split(",")
    ]
    prepare_backend()
    replicas = local_replicas()
    if way == "separate":
        finetune.run(configs[0], replicas)
    else:
        finetune.train_in_lockstep(configs, replicas, vectorize=way == "vectorized")


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--child", nargs="+", help="For the script's own processes.")
    parser.add_argument("--methods", default="feature_extractor,standard")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=32)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    rates = [round(0.001 * 2**number, 6) for number in range(options.trials)]
    print("| method | way | seconds | speed-up | CPU seconds | speed-up |\n|---|---|---|---|---|---|")
    for method in options.methods.split(","):
        flags = {
            "method": method,
            "epochs": str(options.epochs),
            "batch_size": str(options.batch_size),
            "image_size": str(options.image_size),
        }
        seconds: dict[str, tuple[float, float]] = {}
        for way in options.ways.split(","):
            wall, cpu = seconds[way] = measure(way, flags, rates)
            speedups = [""] * 2
            if "separate" in seconds:
                speedups = [f"{a / b:.2f}" for a, b in zip(seconds["separate"], seconds[way], strict=True)]
            print(
                f"| {method} | {way} | {wall:.0f} | {speedups[0]} | {cpu:.0f} | {speedups[1]} |", flush=True
            )


if __name__ == "__main__":
    main()
