"""Everything that is to be measured on a GPU or TPU, in one call of less than nine minutes.

    python -m benchmarks.accelerator --torch ../torch-env/bin/python --json accelerator.json
    python -m benchmarks.accelerator --tiny                 # the same at sizes for a CPU: shows that it runs

Parts, each with a share of ``--budget_seconds``:

- ``training``: ResNet-50, 224 px, bfloat16, batch 256, images on the device, all steps of a round in one dispatch,
  against PyTorch with automatic mixed precision, channels_last and torch.compile. The share of the chip's peak is
  of a large bfloat16 product in the same process; operations are XLA's count of the network and its gradient.
- ``streaming``: the same step with images read from a file, against images on the device.
- ``autolr``: an epoch with an accepted trial against the same epoch with fixed rates, evaluation included.
- ``spottune``: a training step of SpotTune against full and against partly frozen fine-tuning.
- ``recall``: Recall@K at the size of the Stanford Online Products test set.
- ``trials``: four runs with one compiled step of all of them, against four separate runs.

Each part is a process of its own, so one that fails, or is stopped at the end of its share, takes no other with it;
what it measured until then is kept, and time that is left over goes to the parts that follow. Sides of a
comparison take turns, and ratios are of the rounds of a pair: medians and, in brackets, the extremes. GPU memory is
taken as needed and not in advance, since both libraries need some.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import train_step

BUDGET_SECONDS = 520.0


class Row(NamedTuple):
    """Something measured: one value, or one per round."""

    part: str
    what: str
    unit: str
    values: list[float]


class Sizes(NamedTuple):
    """Of all parts."""

    case: train_step.Case
    matmul: int
    rounds: int
    autolr: dict[str, str | int | float]
    spottune: dict[str, str | int | float]
    recall: dict[str, int]
    trials: dict[str, str]


FULL = Sizes(
    case=train_step.Case(
        "resnet50",
        1.0,
        image_size=224,
        batch=256,
        train_steps=16,
        predict_steps=1,
        bfloat16=True,
        steps_per_dispatch=16,
    ),
    matmul=16384,
    rounds=5,
    autolr={"images": 12800, "size": 64, "width": 1.0, "batch": 128, "epochs": 2},
    spottune={"network": "resnet26", "width": 1.0, "image_size": 64, "batch": 128, "frozen_first": 4},
    recall={"images": 60502, "features": 512, "classes": 11316},
    trials={"method": "standard", "epochs": "3", "batch_size": "32", "image_size": "32"},
)
TINY = Sizes(
    case=train_step.Case(
        "resnet26_policy",
        0.1,
        image_size=8,
        batch=4,
        train_steps=2,
        predict_steps=1,
        bfloat16=True,
        steps_per_dispatch=2,
    ),
    matmul=128,
    rounds=2,
    autolr={
        "network": "resnet26_policy",
        "images": 32,
        "size": 8,
        "width": 0.1,
        "batch": 16,
        "epochs": 1,
    },
    spottune={
        "network": "resnet26_policy",
        "width": 0.1,
        "image_size": 8,
        "batch": 4,
        "frozen_first": 0,
    },
    recall={"images": 500, "features": 16, "classes": 50},
    trials={"method": "feature_extractor", "epochs": "1", "batch_size": "32", "image_size": "8"},
)


def training(sizes: Sizes, torch: str) -> Iterator[Row]:
    """Ours, then both sides in turn."""
    import jax

    from finetune_jax.devices.replicas import local_replicas

    case, operations = sizes.case, 2 * sizes.matmul**3
    ours = train_step.OurSide(local_replicas(jax.devices()[:1]))
    gflop = train_step.flops_per_image(case, "train") / 1e9
    peak = operations / ours.matmul(sizes.matmul, True) / 1e12
    yield Row("training", f"bfloat16 product, {ours.version()}", "TFLOP/s", [peak])
    yield Row("training", "operations per image", "GFLOP", [gflop])
    ours.prepare(case)
    rates = _images_per_second(case, [ours], sizes.rounds)[0]
    yield Row("training", "ours alone", "images/s", rates)
    yield Row("training", "ours alone, of the peak", "%", [rate * gflop / peak / 10 for rate in rates])
    if torch == "none":
        return
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    theirs = train_step.TorchProcess(torch, threads=os.cpu_count() or 1, device=device, compiled=True)
    try:
        peak_there = operations / theirs.matmul(sizes.matmul, True) / 1e12
        yield Row("training", f"bfloat16 product, {theirs.version()}", "TFLOP/s", [peak_there])
        if theirs.prepare(case) != ours.prepare(case):
            raise SystemExit("the two networks have different numbers of parameters")
        rates, rates_there = _images_per_second(case, [ours, theirs], sizes.rounds)
    finally:
        theirs.close()
    yield Row("training", "ours", "images/s", rates)
    yield Row("training", "PyTorch", "images/s", rates_there)
    yield Row("training", "PyTorch, of our peak", "%", [rate * gflop / peak / 10 for rate in rates_there])
    yield Row("training", "ours / PyTorch", "ratio of speeds", _ratios(rates, rates_there))


def streaming(sizes: Sizes, _: str) -> Iterator[Row]:
    """Both feeds take turns; the file is in the page cache, as that of a data set that fits into memory is."""
    import jax

    from finetune_jax.devices.replicas import local_replicas

    replicas = local_replicas(jax.devices()[:1])
    with tempfile.TemporaryDirectory() as folder:
        sides = [train_step.OurSide(replicas), train_step.OurSide(replicas, streamed_from=Path(folder))]
        for side in sides:
            side.prepare(sizes.case)
        resident, streamed = _images_per_second(sizes.case, sides, sizes.rounds)
    yield Row("streaming", "on the device", "images/s", resident)
    yield Row("streaming", "streamed", "images/s", streamed)
    yield Row("streaming", "streamed / on the device", "ratio of speeds", _ratios(streamed, resident))


def autolr(sizes: Sizes, _: str) -> Iterator[Row]:
    """See ``benchmarks.autolr_epoch``."""
    from benchmarks import autolr_epoch

    seconds = autolr_epoch.measure(rounds=sizes.rounds, **sizes.autolr)  # type: ignore[arg-type]
    for name, values in seconds.items():
        yield Row("autolr", f"epoch, {name}", "s", values)
    yield Row("autolr", "AutoLR / fixed", "ratio of times", _ratios(seconds["autolr"], seconds["fixed"]))


def spottune(sizes: Sizes, _: str) -> Iterator[Row]:
    """See ``benchmarks.spottune_step``."""
    from benchmarks import spottune_step

    names = {"whole": "full fine-tuning", "standard": "the same blocks frozen", "spottune": "SpotTune"}
    sides = spottune_step.training_sides(argparse.Namespace(**sizes.spottune), tuple(names))
    measured = spottune_step.take_turns(sides, sizes.rounds, steps=3)
    for side, name in names.items():
        yield Row("spottune", f"step, {name}", "ms", [1e3 * value for value in measured.seconds[side]])
    for side in ("whole", "standard"):
        yield Row(
            "spottune", f"SpotTune / {names[side]}", "ratio of times", measured.ratios("spottune", side)
        )


def recall(sizes: Sizes, _: str) -> Iterator[Row]:
    """See ``benchmarks.recall_at_k``."""
    from benchmarks import recall_at_k

    seconds = recall_at_k.measure(ks=[1, 10, 100], **sizes.recall)
    size = f"{sizes.recall['images']} × {sizes.recall['features']}"
    yield Row("recall", f"Recall@K of {size}, first call", "s", [seconds["first"]])
    yield Row("recall", f"Recall@K of {size}, second call", "s", [seconds["second"]])


def trials(sizes: Sizes, _: str) -> Iterator[Row]:
    """See ``benchmarks.parallel_trials``; start of Python, compilation and reports are in it."""
    from benchmarks import parallel_trials

    rates = [0.001, 0.002, 0.004, 0.008]
    together, _cpu = parallel_trials.measure("vectorized", sizes.trials, rates)
    yield Row("trials", f"{len(rates)} runs, one program", "s", [together])
    separate, _cpu = parallel_trials.measure("separate", sizes.trials, rates)
    yield Row("trials", f"{len(rates)} separate runs", "s", [separate])
    yield Row("trials", "separate / one program", "ratio of times", [separate / together])


# How much of the time each needs, most important first; compilation of ResNet-50 dominates the first two.
PARTS: dict[str, tuple[Callable[[Sizes, str], Iterator[Row]], float]] = {
    "training": (training, 200),
    "streaming": (streaming, 100),
    "autolr": (autolr, 60),
    "spottune": (spottune, 70),
    "recall": (recall, 30),
    "trials": (trials, 60),
}


def _images_per_second(
    case: train_step.Case, sides: Sequence[train_step.Side], rounds: int
) -> list[list[float]]:
    images = case.batch * case.train_steps
    seconds = train_step.alternate(sides, "train", rounds)
    return [[images / value for value in values] for values in seconds]


def _ratios(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(left, right, strict=True)]


def run_parts(
    commands: Mapping[str, Sequence[str]],
    shares: Mapping[str, float],
    budget_seconds: float,
    tell: Callable[[Row], None],
) -> dict[str, str]:
    """Run the parts one after the other.

    Args:
        commands: of each part; prints a ``Row`` as JSON on each line.
        shares: how much of the time each part needs, in any unit.
        budget_seconds: of all parts.
        tell: given each row when it comes.

    Returns:
        ``{part: what went wrong}``, of the parts that did not end well.
    """
    problems = {}
    end = time.monotonic() + budget_seconds
    waiting = list(commands)
    while waiting:
        left = end - time.monotonic()
        seconds = max(left, 0.0) * shares[waiting[0]] / sum(shares[part] for part in waiting)
        part = waiting.pop(0)
        process = subprocess.Popen(
            commands[part],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )
        late = threading.Event()

        def stop(process: subprocess.Popen[str] = process, late: threading.Event = late) -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):  # ended in this moment
                os.killpg(process.pid, signal.SIGKILL)  # with what it started

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                tell(Row(*json.loads(line)))
            status = process.wait()
        finally:
            timer.cancel()
        if late.is_set():
            problems[part] = f"stopped after its {seconds:.0f} seconds"
        elif status:
            problems[part] = f"ended with status {status}"
    return problems


def cells(row: Row) -> str:
    """A line of the table."""
    form = ".3g" if statistics.median(row.values) < 100 else ".0f"
    spread = f" ({min(row.values):{form}}–{max(row.values):{form}})" if len(row.values) > 1 else ""
    return f"| {row.part} | {row.what} | {statistics.median(row.values):{form}}{spread} | {row.unit} |"


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown table, and return 1 if a part went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", default="none", help="interpreter that has PyTorch; none leaves it out")
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas")
    parser.add_argument("--budget_seconds", type=float, default=BUDGET_SECONDS, help="of all parts")
    parser.add_argument("--json", type=Path, help="file for the results, values of all rounds included")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing, to try the script")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    from finetune_jax.devices.replicas import prepare_backend

    prepare_backend()
    if arguments.part:
        measure, _ = PARTS[arguments.part]
        for row in measure(TINY if arguments.tiny else FULL, arguments.torch):
            print(json.dumps(row), flush=True)
        return 0
    chosen = arguments.parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"--parts: no {', '.join(sorted(unknown))}; choose among {', '.join(PARTS)}")

    rows: list[Row] = []

    def tell(row: Row) -> None:
        rows.append(row)
        print(cells(row), flush=True)

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with tempfile.TemporaryDirectory() as compiled:
        # The step of streaming's resident side was compiled in the part before.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
        command = [sys.executable, "-m", "benchmarks.accelerator", "--torch", arguments.torch]
        command += ["--tiny"] if arguments.tiny else []
        print("| part | what | median (range) | unit |\n|---|---|---|---|", flush=True)
        problems = run_parts(
            {part: [*command, "--part", part] for part in chosen},
            {part: share for part, (_, share) in PARTS.items()},
            arguments.budget_seconds,
            tell,
        )
    for part, problem in problems.items():
        print(f"{part}: {problem}", file=sys.stderr)
    if arguments.json:
        report = {"tiny": arguments.tiny, "rows": [row._asdict() for row in rows], "problems": problems}
        arguments.json.write_text(json.dumps(report, indent=1))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
