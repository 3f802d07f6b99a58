"""How much faster should a fresh head learn than the pretrained parts below it?

    python -m benchmarks.fresh_head --runs runs/fresh_head --photos clothing --thumbnails cifar10.zip

Protocol, written before the first run. Arms: the head at 1, 3 and 10 times ``--learning_rate``
(``--rate_factors=head=…``), and alone for the first tenth of the epochs (``--head_epochs``). Data: 300 photographs
of 10 kinds of clothes, 300 images of CIFAR-10 (whose 32 pixels the bundled network was pretrained on: a source that
equals the target), 323 digits. Bundled network at 32 pixels, 10 epochs, everything else as ``finetune`` has it by
default; each arm at the default rate 0.01 and at 0.03, seeds 0, 1 and 2, which draw the head, the order and the
augmentation, and for digits the split too.

Reported: test accuracy per data set and arm at the default rate, mean and deviation over seeds; the same at the rate
that validation prefers; and the difference to factor 1, seed by seed. An arm becomes the default only if its mean is
ahead at the default rate on all three data sets and behind on none at the preferred rate by more than one deviation
of the differences.

Runs that are there already are not trained again, so it can be stopped and started.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import local_replicas
from finetune_jax.runs import finetune

EPOCHS, PER_CLASS, TESTED_PER_CLASS = 10, 30, 37
RATES, SEEDS = (0.01, 0.03), (0, 1, 2)
ARMS: dict[str, dict[str, Any]] = {
    "factor 1": {},
    "factor 3": {"rate_factors": ("head=3",)},
    "factor 10": {"rate_factors": ("head=10",)},
    "head first": {"head_epochs": EPOCHS // 10},
}


class Cell(NamedTuple):
    """One run of the protocol."""

    data: str
    arm: str
    rate: float
    seed: int


def cells(names: list[str]) -> Iterator[Cell]:
    """All runs; whole replications at the default rate come first."""
    for rate, seed, data, arm in itertools.product(RATES, SEEDS, names, ARMS):
        yield Cell(data, arm, rate, seed)


def unpack(source: Path, folder: Path) -> Path:
    """The first images of each class of ``SPLIT/CLASS/NAME``, a folder or a zip; those that are there stay."""
    most_per_class = {"train": PER_CLASS + 4, "test": TESTED_PER_CLASS}
    taken: dict[str, int] = {}
    names, read = _opened(source)
    for name in sorted(names):
        parts = Path(name).parts
        if len(parts) != 3 or taken.get(key := "/".join(parts[:2]), 0) >= most_per_class.get(parts[0], 0):
            continue
        taken[key] = taken.get(key, 0) + 1
        target = folder / "/".join(parts[:2]) / Path(parts[2]).name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read(name))
    return folder


def _opened(source: Path) -> tuple[list[str], Callable[[str], bytes]]:
    if source.is_dir():
        files = [str(path.relative_to(source)) for path in source.rglob("*.jpg")]
        return files, lambda name: (source / name).read_bytes()
    packed = zipfile.ZipFile(source)
    return packed.namelist(), packed.read


def config_of(cell: Cell, settings: dict[str, Any], runs: Path) -> FinetuneConfig:
    """The run of a cell."""
    name = f"{cell.data}-{cell.arm.replace(' ', '_')}-{cell.rate:g}-{cell.seed}"
    return dataclasses.replace(
        FinetuneConfig(),
        workdir=str(runs / name),
        epochs=EPOCHS,
        learning_rate=cell.rate,
        seed=cell.seed,
        **settings,
        **ARMS[cell.arm],
    )


def table(results: dict[Cell, tuple[float, float]], names: list[str]) -> str:
    """Markdown: test accuracy in percent, and its difference to factor 1 seed by seed."""
    lines = [
        "| data | arm | test at 0.01 | difference | rate chosen | test at it |",
        "|---|---|---|---|---|---|",
    ]
    for data, arm in itertools.product(names, ARMS):

        def of(arm: str, rate: float, data: str = data, which: int = 1) -> list[float]:
            of_seeds = (results.get(Cell(data, arm, rate, seed)) for seed in SEEDS)
            return [100 * scores[which] for scores in of_seeds if scores is not None]

        plain, of_arm = of("factor 1", RATES[0]), of(arm, RATES[0])
        differences = [a - b for a, b in zip(of_arm, plain, strict=False)]
        validated = {rate: of(arm, rate, which=0) for rate in RATES if of(arm, rate)}
        if not of_arm:
            continue
        best = max(validated, key=lambda rate: statistics.mean(validated[rate]))
        cells = [data, arm, spread(of_arm), spread(differences), f"{best:g}", spread(of(arm, best))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """``mean ± deviation`` over seeds."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument(
        "--photos", type=Path, help="folder of train and test photographs, a folder per class in each"
    )
    parser.add_argument("--thumbnails", type=Path, help="zip of CIFAR-10 as images")
    arguments = parser.parse_args()
    data: dict[str, dict[str, Any]] = {"digits": {"dataset": "digits", "test_fraction": 0.8}}
    for name, source in (("clothes", arguments.photos), ("CIFAR-10", arguments.thumbnails)):
        if source:
            folder = unpack(source, arguments.runs / name)
            data[name] = {"dataset": f"folder:{folder}", "images_per_class": PER_CLASS}
    replicas = local_replicas(jax.devices()[:1])
    results: dict[Cell, tuple[float, float]] = {}
    for cell in cells(list(data)):
        summary = finetune.run(config_of(cell, data[cell.data], arguments.runs / "runs"), replicas)
        results[cell] = (summary["validation_accuracy"], summary["test_accuracy"])
        print(json.dumps([*cell, *results[cell]]), flush=True)
    print(table(results, list(data)))


if __name__ == "__main__":
    main()
