"""What came out of :mod:`benchmarks.rates`: results of a cell, tables, the summary, and the figure. Pure functions."""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHOOSING = 100  # the seed with which rates of the grid are chosen
PROMISED = 7 / 4  # runs: a quarter of a grid of seven rates
AT_BEST_RATE = ("layer_decay", "auto_rgn", "auto_snr", "head_first", "decay_grid", "slice_grid")
"""After the grid, and trained once more."""
CONTESTANTS = (
    "single", "default", "probe", "fast_head", "auto", "find", "find_blocks", "layer_decay", "head_first", "auto_rgn",
    "auto_snr", "prodigy", "prodigy_blocks", "dowg", "dowg_blocks", "autolr", "autolr_rms", "autolr_relative",
    "dog", "dadapt", "mechanic", "similarity", "decay_grid", "slice_grid", "auto_se", "probe_default", "probe_auto",
    "probe_auto_se", "auto_ratio", "auto_ratio_se", "auto_order", "auto_head", "auto_now",
    "probe_seen", "auto_probe", "auto_still",
)  # fmt: skip
_MARKS = "osD^vP"
_CHEAPEST = 0.06  # runs, on the axis of the figure

Row = Mapping[str, Any]


class Log:
    """The lines of a cell, one of each run.

    Attributes:
        file: of them.
        rows: their content.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        text = file.read_text().splitlines() if file.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in text]

    def get(self, contestant: str, seed: int, rate: float | None = None) -> Row | None:
        """The line of a run, if it has one."""
        for row in self.rows:
            if (row["contestant"], row["seed"]) == (contestant, seed) and rate in (None, row.get("rate")):
                return row
        return None

    def add(self, row: Row) -> Row:
        """Write a line."""
        self.rows.append(row)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        return row


@dataclasses.dataclass(frozen=True)
class Result:
    """A contestant in a cell.

    Attributes:
        name: of the contestant.
        scores: of the test images, of each seed; 0 where it diverged.
        rates: of each seed, empty where there is not one.
        runs: cost of one run with all that it took to choose its rate, in plain runs.
        seconds: of one run with its choice, on the machine as it was.
        regret: by which its mean score is below that of the grid's best rate.
        tie: whether that is no more than the larger of the two spreads.
    """

    name: str
    scores: list[float]
    rates: list[float]
    runs: float
    seconds: float
    regret: float = 0.0
    tie: bool = True

    @property
    def mean(self) -> float:
        """Of the scores."""
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float:
        """Sample standard deviation; 0 of a single score."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0

    @property
    def keeps(self) -> bool:
        """Whether it keeps the promise."""
        return self.tie and self.runs <= PROMISED


def results(rows: Sequence[Row]) -> list[Result]:
    """The contestants of a cell that have runs, ``single`` first.

    Args:
        rows: of the cell; those called ``grid`` are of the choice of a rate.
    """
    grid = [row for row in rows if row["contestant"] == "grid"]
    of_run = _cost(grid[0])
    of_contestants = []
    for name in CONTESTANTS:
        reported = [row for row in rows if row["contestant"] == name and row["seed"] != CHOOSING]
        if not reported:
            continue
        searched = [row for row in rows if row["contestant"] == name and row["seed"] == CHOOSING]
        cost, seconds = (
            statistics.fmean(map(_cost, reported)),
            statistics.fmean(row["seconds"] for row in reported),
        )
        if name == "single":  # the best of the grid has been trained in it
            cost = seconds = 0.0
        if name == "single" or name in AT_BEST_RATE:
            searched += grid
        cost, seconds = cost + sum(map(_cost, searched)), seconds + sum(row["seconds"] for row in searched)
        scores = [_score(row["test"]) for row in reported]
        rates = [row["rate"] for row in reported if "rate" in row]
        of_contestants.append(Result(name, scores, rates, cost / of_run, seconds))
    if not of_contestants or of_contestants[0].name != "single":
        return of_contestants
    single = of_contestants[0]
    return [
        dataclasses.replace(
            result,
            regret=single.mean - result.mean,
            tie=single.mean - result.mean <= max(single.spread, result.spread),
        )
        for result in of_contestants
    ]


def table(cells: Mapping[str, Sequence[Row]]) -> str:
    """Markdown of all cells.

    Args:
        cells: ``{name: rows}``.
    """
    head = ("contestant", "rates", "test score", "regret", "", "cost in runs", "seconds", "promise")
    lines = []
    for name, rows in cells.items():
        lines += ["", f"### {name}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for result in results(rows):
            plain = result.name == "single"
            entries = [
                result.name,
                ", ".join(f"{rate:.2g}" for rate in dict.fromkeys(result.rates)),
                f"{100 * result.mean:.2f} ± {100 * result.spread:.2f} ({len(result.scores)})",
                "" if plain else f"{100 * result.regret:.2f}".replace("-", "−"),
                "" if plain else "tie" if result.tie else "behind",
                f"{result.runs:.2f}",
                f"{result.seconds:.0f}",
                "kept" if result.keeps else "",
            ]
            lines.append(f"| {' | '.join(entries)} |")
        tried = sorted((row["rate"], row["validation"]) for row in rows if row["contestant"] == "grid")
        lines += [
            "",
            "Grid, validation: " + ", ".join(f"{rate:g}: {100 * _score(score):.2f}" for rate, score in tried),
        ]
    return "\n".join(lines[1:])


def summary(cells: Mapping[str, Sequence[Row]]) -> str:
    """Markdown of all contestants over the cells: mean rank, worst regret, and who keeps the promise where.

    Ranks are by mean score, among the contestants that ran in every cell; 1 is the best, equals share their ranks.

    Args:
        cells: ``{name: rows}``, each with runs of ``single``.
    """
    of_cells = [{result.name: result for result in results(rows)} for rows in cells.values()]
    everywhere = [name for name in CONTESTANTS if all(name in cell for cell in of_cells)]
    head = (
        "contestant",
        "cells",
        "mean rank",
        "worst regret",
        "tie in",
        "cost in runs",
        "keeps the promise in",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    entries = []
    for name in CONTESTANTS:
        of_name = [cell[name] for cell in of_cells if name in cell]
        if not of_name:
            continue
        rank = math.inf
        if name in everywhere:
            rank = statistics.fmean(
                _rank(cell[name].mean, [cell[other].mean for other in everywhere]) for cell in of_cells
            )
        worst = max(result.regret for result in of_name)
        costs = sorted(result.runs for result in of_name)
        texts = [
            name,
            str(len(of_name)),
            f"{rank:.1f}" if math.isfinite(rank) else "",
            "" if name == "single" else f"{100 * worst:.1f}".replace("-", "−"),
            "" if name == "single" else f"{sum(result.tie for result in of_name)} of {len(of_name)}",
            f"{costs[0]:.2f}" if costs[-1] - costs[0] < 0.005 else f"{costs[0]:.2f} to {costs[-1]:.2f}",
            f"{sum(result.keeps for result in of_name)} of {len(of_name)}",
        ]
        entries.append((rank, worst, f"| {' | '.join(texts)} |"))
    return "\n".join([*lines, *(text for _, _, text in sorted(entries, key=lambda entry: entry[:2]))])


def figure(cells: Mapping[str, Sequence[Row]]) -> bytes:
    """Cost against score, a panel for each cell; SVG.

    Args:
        cells: ``{name: rows}``.
    """
    from finetune_jax.reports.figures import canvas

    columns = min(3, len(cells))
    lines = -(-len(cells) // columns)
    drawn, axes = canvas.new(lines, columns, (3.9 * columns, 3.3 * lines + 0.9), squeeze=False)
    shown = {}
    for axis, (title, rows) in zip(axes.flat, cells.items(), strict=False):
        contestants = results(rows)
        axis.axvspan(_CHEAPEST, PROMISED, color=canvas.GREY, alpha=0.1, lw=0)
        for result in contestants:
            color, mark = mark_of(result.name)
            if result.name == "single":
                axis.axhline(100 * result.mean, color=canvas.GREY, lw=1, ls=":")
            shown[result.name] = axis.errorbar(
                max(result.runs, _CHEAPEST),
                100 * result.mean,
                100 * result.spread,
                color=color,
                fmt=mark,
                capsize=2,
                ms=5,
            )
        axis.set_xscale("log")
        axis.set_xlim(0.8 * _CHEAPEST, 14)
        axis.set_xticks([0.1, 0.3, 1, 2, 4, 8], ["0.1", "0.3", "1", "2", "4", "8"])
        axis.minorticks_off()
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("cost, in runs")
        axis.set_ylabel("test score, %")
    for axis in axes.flat[len(cells) :]:
        axis.set_visible(False)
    ordered = [name for name in CONTESTANTS if name in shown]
    drawn.legend(
        [shown[name] for name in ordered],
        ordered,
        loc="outside lower center",
        ncols=2 * columns,
        fontsize=8,
        frameon=False,
    )
    return canvas.encode(drawn, "svg")


def mark_of(contestant: str) -> tuple[str, str]:
    """Colour and mark of a contestant in the figure."""
    from finetune_jax.reports.figures import canvas

    turn, color = divmod(CONTESTANTS.index(contestant), len(canvas.COLORS))
    return canvas.COLORS[color], _MARKS[(turn + 3 * (color % 2)) % len(_MARKS)]


def _rank(score: float, scores: Sequence[float]) -> float:
    return 1 + sum(other > score for other in scores) + (sum(other == score for other in scores) - 1) / 2


def _cost(row: Row) -> float:
    return row["trained"] + row["judged"] / 3


def _score(value: float | None) -> float:
    """Nothing is right where training diverged."""
    return 0.0 if value is None or math.isnan(value) else value
