"""What is kept of the runs of :mod:`benchmarks.rates`: one line for a contestant in a cell, in ``docs/lab/rates.csv``.

A series is what one version measured on one machine. Regrets are within a series, since compiled programs differ from
machine to machine by as much as seeds do. Scores are percent; costs and seconds are of one run with all that it took to
choose its rate, costs in plain runs. Lines of the contestant ``grid`` are validation scores of single rates.
"""

import csv
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

CHOOSING = 100  # the seed with which rates of the grid are chosen
GRID, SINGLE = "grid", "single"
AT_BEST_RATE = (
    "layer_decay", "auto_rgn", "auto_snr", "head_first", "decay_grid", "slice_grid", "auto_rgn_tensors",
    "auto_rgn_renewed", "autolr_best", "autolr_best_relative",
)  # fmt: skip
"""After the grid, and trained once more."""

_DECIMALS = 4

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contestant in a cell.

    Attributes:
        cell: a network, an optimiser and a data set.
        contestant: its name.
        series: in which it was measured.
        rates: those of its seeds, each once; empty where there is not one.
        mean: of the scores of the seeds, 0 for one that diverged.
        spread: sample standard deviation; 0 of a single score.
        seeds: how many.
        runs: cost.
        seconds: on the machine as it was.
    """

    cell: str
    contestant: str
    series: str
    rates: tuple[float, ...]
    mean: float
    spread: float
    seeds: int
    runs: float
    seconds: float


def read(file: Path) -> list[Entry]:
    """The lines of a record; none where there is no file."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return [
            Entry(
                row["cell"],
                row["contestant"],
                row["series"],
                tuple(map(float, row["rates"].split())),
                float(row["mean"]),
                float(row["spread"]),
                int(row["seeds"]),
                float(row["runs"]),
                float(row["seconds"]),
            )
            for row in csv.DictReader(lines)
        ]


def write(file: Path, entries: Iterable[Entry]) -> None:
    """Replace a record."""
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(Entry))
        for entry in entries:
            rates = " ".join(f"{rate:g}" for rate in entry.rates)
            scores = f"{entry.mean:.10g}", f"{entry.spread:.10g}", entry.seeds
            costs = f"{entry.runs:.10g}", f"{entry.seconds:.0f}"
            writer.writerow((entry.cell, entry.contestant, entry.series, rates, *scores, *costs))


def merged(entries: Sequence[Entry], newer: Sequence[Entry]) -> list[Entry]:
    """Entries with those of the same contestant, cell and series renewed, the cells in their order.

    Args:
        entries: as recorded.
        newer: of the lines that are there now.
    """
    renewed = {_place(entry) for entry in newer}
    kept = [entry for entry in entries if _place(entry) not in renewed]
    cells = dict.fromkeys(entry.cell for entry in (*entries, *newer))
    return [entry for cell in cells for entry in (*kept, *newer) if entry.cell == cell]


def _place(entry: Entry) -> tuple[str, str, str]:
    return entry.cell, entry.contestant, entry.series


def grid_of(entries: Iterable[Entry], cell: str) -> dict[float, float]:
    """``{rate: validation score in percent}`` of the grid of a cell; empty where none is recorded."""
    return {entry.rates[0]: entry.mean for entry in entries if (entry.cell, entry.contestant) == (cell, GRID)}


def of_rows(
    cell: str, rows: Sequence[Row], series: str, recorded: Mapping[float, float] | None = None
) -> list[Entry]:
    """What the lines of the runs of a cell come to.

    Args:
        cell: its name.
        rows: of its runs; those called ``grid`` are of the choice of a rate.
        series: they belong to.
        recorded: the grid, where it has no lines here; its runs then take the seconds of ``single``.

    Raises:
        ValueError: there is neither a line of the grid nor one of ``single``, in whose runs costs are counted.
    """
    plain = [row for row in rows if row["contestant"] == GRID] or _reported(rows, SINGLE)
    if not plain:
        raise ValueError(f"{cell}: no run of a single rate tells what a run costs")
    of_run = _cost(plain[0])
    grid = [row for row in rows if row["contestant"] == GRID]
    runs_of_grid = sum(map(_cost, grid)) / of_run
    seconds_of_grid = sum(row["seconds"] for row in grid)
    if not grid:
        runs_of_grid = float(len(recorded or {}))
        seconds_of_grid = runs_of_grid * statistics.fmean(row["seconds"] for row in plain)
    entries = [
        Entry(cell, GRID, series, (row["rate"],), _percent(row["validation"]), 0.0, 1, 1.0, row["seconds"])
        for row in sorted(grid, key=lambda row: row["rate"])
    ]
    for name in dict.fromkeys(row["contestant"] for row in rows if row["contestant"] != GRID):
        reported = _reported(rows, name)
        if not reported:
            continue
        searched = [row for row in rows if row["contestant"] == name and row["seed"] == CHOOSING]
        runs = statistics.fmean(map(_cost, reported)) / of_run
        seconds = statistics.fmean(row["seconds"] for row in reported)
        if name == SINGLE:  # the best of the grid has been trained in it
            runs = seconds = 0.0
        if name == SINGLE or name in AT_BEST_RATE:
            runs, seconds = runs + runs_of_grid, seconds + seconds_of_grid
        runs += sum(map(_cost, searched)) / of_run
        seconds += sum(row["seconds"] for row in searched)
        scores = [_percent(row["test"]) for row in reported]
        spread = round(statistics.stdev(scores), _DECIMALS) if len(scores) > 1 else 0.0
        rates = tuple(dict.fromkeys(row["rate"] for row in reported if "rate" in row))
        mean, runs = round(statistics.fmean(scores), _DECIMALS), round(runs, _DECIMALS)
        entries.append(Entry(cell, name, series, rates, mean, spread, len(scores), runs, seconds))
    return entries


def _reported(rows: Sequence[Row], contestant: str) -> list[Row]:
    return [row for row in rows if row["contestant"] == contestant and row["seed"] != CHOOSING]


def _cost(row: Row) -> float:
    return row["trained"] + row["judged"] / 3


def _percent(value: float | None) -> float:
    """Nothing is right where training diverged."""
    return 0.0 if value is None or math.isnan(value) else round(100 * value, _DECIMALS)
