"""What came out of :mod:`benchmarks.rates`: lines of a cell, tables, the summary, and the figure. Pure functions."""

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rates_record import GRID, SINGLE, Entry, Row

PROMISED = 7 / 4  # runs: a quarter of a grid of seven rates
CONTESTANTS = (
    "single", "default", "default_tenth", "probe", "fast_head", "auto", "find", "find_blocks", "layer_decay",
    "head_first", "auto_rgn",
    "auto_rgn_tensors", "auto_rgn_renewed", "auto_snr", "prodigy", "prodigy_blocks", "dowg", "dowg_blocks", "autolr",
    "autolr_rms", "autolr_relative", "autolr_stages", "autolr_geometric", "autolr_ratio", "autolr_first",
    "autolr_parts", "autolr_best", "autolr_best_relative",
    "dog", "dadapt", "mechanic", "similarity", "decay_grid", "slice_grid", "auto_se", "probe_default",
    "probe_auto", "probe_auto_se", "auto_ratio", "auto_ratio_se", "auto_order", "auto_head", "auto_now",
    "probe_seen", "auto_probe", "auto_still", "auto_scale", "auto_low", "auto_careful",
    "auto_tenth",
    "auto_thirtieth",
)  # fmt: skip
IN_SHORT = {
    "default rate": ("default",),
    "linear probe": ("probe",),
    "AutoLR": ("autolr", "autolr_relative"),
    "DoWG, each part": ("dowg_blocks",),
    "--learning_rate=find": ("find",),
    "--method=auto": ("auto_still", "auto_thirtieth", "auto_ratio", "auto_now"),
}
"""What people can choose, and the contestants that are it; the first that ran in a cell counts."""
_MARKS = "osD^vP*X<>"
_LOWEST = -30.0  # points, on the axis of the figure in short
_CHEAPEST = 0.06  # runs, on the axis of the figure
_FARTHEST = 20.0  # points behind the grid's best rate; where others are would be one line


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
class Result(Entry):
    """A contestant in a cell beside the grid's best rate of its series.

    Attributes:
        regret: by which its mean score is below that of the grid's best rate.
        tie: whether that is no more than the larger of the two spreads.
    """

    regret: float = 0.0
    tie: bool = True

    @property
    def keeps(self) -> bool:
        """Whether it keeps the promise."""
        return self.tie and self.runs <= PROMISED


def results(entries: Sequence[Entry], cell: str) -> list[Result]:
    """The contestants of a cell, ``single`` first; of one in several series, in the order of these.

    Args:
        entries: of any cells.
        cell: its name.
    """
    of_cell = [entry for entry in entries if entry.cell == cell and entry.contestant != GRID]
    single = {entry.series: entry for entry in of_cell if entry.contestant == SINGLE}
    beside = []
    for entry in sorted(of_cell, key=lambda entry: CONTESTANTS.index(entry.contestant)):
        best = single.get(entry.series)
        regret = best.mean - entry.mean if best else 0.0
        tie = best is None or regret <= max(best.spread, entry.spread)
        beside.append(Result(**vars(entry), regret=regret, tie=tie))
    return beside


def first(entries: Sequence[Entry], cell: str) -> dict[str, Result]:
    """``{contestant: result}`` of the first series in which each was measured."""
    return {result.contestant: result for result in reversed(results(entries, cell))}


def table(entries: Sequence[Entry]) -> str:
    """Markdown of all cells."""
    head = (
        "contestant",
        "rates",
        "test score",
        "regret",
        "",
        "cost in runs",
        "seconds",
        "promise",
        "series",
    )
    lines = []
    for cell in _cells(entries):
        lines += ["", f"#### {cell}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for result in results(entries, cell):
            plain = result.contestant == SINGLE
            texts = [
                result.contestant,
                ", ".join(f"{rate:.2g}" for rate in result.rates),
                f"{result.mean:.2f} ± {result.spread:.2f} ({result.seeds})",
                "" if plain else f"{result.regret:.2f}".replace("-", "−"),
                "" if plain else "tie" if result.tie else "behind",
                f"{result.runs:.2f}",
                f"{result.seconds:.0f}",
                "kept" if result.keeps else "",
                result.series,
            ]
            lines.append(f"| {' | '.join(texts)} |")
        tried = sorted(
            (entry.rates[0], entry.mean)
            for entry in entries
            if (entry.cell, entry.contestant) == (cell, GRID)
        )
        lines += ["", "Grid, validation: " + ", ".join(f"{rate:g}: {score:.2f}" for rate, score in tried)]
    return "\n".join(lines[1:])


def summary(entries: Sequence[Entry]) -> str:
    """Markdown of all contestants over the cells: mean rank, worst regret, and who keeps the promise where.

    Of a contestant in several series the first counts. Ranks are by mean score, among the contestants that ran in every
    cell; 1 is the best, equals share their ranks.

    Args:
        entries: of the cells, each with ``single``.
    """
    of_cells = [first(entries, cell) for cell in _cells(entries)]
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
    texts_of = []
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
            "" if name == SINGLE else f"{worst:.1f}".replace("-", "−"),
            "" if name == SINGLE else f"{sum(result.tie for result in of_name)} of {len(of_name)}",
            f"{costs[0]:.2f}" if costs[-1] - costs[0] < 0.005 else f"{costs[0]:.2f} to {costs[-1]:.2f}",
            f"{sum(result.keeps for result in of_name)} of {len(of_name)}",
        ]
        texts_of.append((rank, worst, f"| {' | '.join(texts)} |"))
    return "\n".join([*lines, *(text for _, _, text in sorted(texts_of, key=lambda texts: texts[:2]))])


def figure(entries: Sequence[Entry]) -> bytes:
    """Cost against score, a panel for each cell; SVG.

    Of a contestant in several series the first is drawn, and none that is more than twenty points behind the grid's
    best rate.
    """
    from finetune_jax.reports.figures import canvas

    cells = _cells(entries)
    columns = min(3, len(cells))
    lines = -(-len(cells) // columns)
    drawn, axes = canvas.new(lines, columns, (3.9 * columns, 3.3 * lines + 1.3), squeeze=False)
    shown = {}
    for axis, cell in zip(axes.flat, cells, strict=False):
        axis.axvspan(_CHEAPEST, PROMISED, color=canvas.GREY, alpha=0.1, lw=0)
        for name, result in first(entries, cell).items():
            color, mark = mark_of(name)
            if name == SINGLE:
                axis.axhline(result.mean, color=canvas.GREY, lw=1, ls=":")
            if result.regret > _FARTHEST:
                continue
            shown[name] = axis.errorbar(
                max(result.runs, _CHEAPEST),
                result.mean,
                result.spread,
                color=color,
                fmt=mark,
                capsize=2,
                ms=5,
            )
        axis.set_xscale("log")
        axis.set_xlim(0.8 * _CHEAPEST, 14)
        axis.set_xticks([0.1, 0.3, 1, 2, 4, 8], ["0.1", "0.3", "1", "2", "4", "8"])
        axis.minorticks_off()
        axis.set_title(cell, fontsize=9)
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


def figure_in_short(entries: Sequence[Entry]) -> bytes:
    """How far what people can choose is above or below the grid's best rate, a line for each cell; SVG.

    Whoever is further below than the axis goes stands at its end.
    """
    from finetune_jax.reports.figures import canvas

    cells = _cells(entries)
    drawn, axis = canvas.new(1, 1, (7.5, 0.36 * len(cells) + 1.4))
    axis.axvline(0, color=canvas.GREY, lw=1, ls=":")
    axis.grid(axis="y", color=canvas.GREY, alpha=0.15, lw=1)
    for (label, names), color, mark in zip(IN_SHORT.items(), canvas.COLORS, _MARKS, strict=False):
        points = []
        for line, cell in enumerate(cells):
            there = first(entries, cell)
            name = next((name for name in names if name in there), None)
            if name is not None:
                points.append((max(-there[name].regret, _LOWEST), line))
        scores, lines = [point[0] for point in points], [point[1] for point in points]
        axis.plot(scores, lines, mark, color=color, ms=6, alpha=0.85, label=label)
    axis.set_yticks(range(len(cells)), cells, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(left=_LOWEST - 1)
    axis.set_xlabel("test score: points above or below the best rate of a grid")
    drawn.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return canvas.encode(drawn, "svg")


def mark_of(contestant: str) -> tuple[str, str]:
    """Colour and mark of a contestant in the figure."""
    from finetune_jax.reports.figures import canvas

    turn, color = divmod(CONTESTANTS.index(contestant), len(canvas.COLORS))
    return canvas.COLORS[color], _MARKS[(turn + 3 * (color % 2)) % len(_MARKS)]


def _cells(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.cell for entry in entries))


def _rank(score: float, scores: Sequence[float]) -> float:
    return 1 + sum(other > score for other in scores) + (sum(other == score for other in scores) - 1) / 2
