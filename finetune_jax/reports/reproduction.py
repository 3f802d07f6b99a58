"""Tables of reproductions: ours beside the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.reports import tables
from finetune_jax.reports.comparison import mean_of, with_spread
from finetune_jax.reports.published import Table
from finetune_jax.reports.tables import Files, json_text, spoken


def files(name: str, table: Table, dataset: str, rows: Sequence[Mapping[str, Any]], data: str = "") -> Files:
    """``results.json`` and ``results.txt`` of rows of ``studies.reproduce``; arguments as of :func:`text`."""
    return {
        "results.json": json_text(rows),
        "results.txt": text(name, table, dataset, rows, data) + "\n",
    }


def text(name: str, table: Table, dataset: str, rows: Sequence[Mapping[str, Any]], data: str = "") -> str:
    """Ours beside the paper's numbers.

    Args:
        name: of the table, ``PAPER/NUMBER``.
        table: as published.
        dataset: on which the rows were run.
        rows: of ``studies.reproduce``.
        data: the column of the table that ``dataset`` is; empty compares with the table's first one.
    """
    same = data
    data = data or next(iter(table.metrics))
    metrics = table.metrics[data]
    cells = []
    for row in rows:
        printed = row["numbers"].get(data) or [None] * len(metrics)
        ours = row["test"] or {}
        cells.append([row["name"]])
        for metric, number in zip(metrics, printed, strict=True):
            if metric in ours:
                shown = with_spread(ours[metric])
            else:
                shown = "not run" if not row["run"] else "–" if ours else "diverged"
            cells[-1] += [shown, "–" if number is None else f"{number:.2f}"]
        cells[-1] += [mean_of(row["passes"]) if row["passes"] else "–"]
    whose = f"paper, {data}" if not same else "paper"
    columns = [part for metric in metrics for part in (f"{spoken(metric)}, ours", whose)]
    lines = [f"{name}: {table.title}, {dataset}", "", tables.table(["", *columns, "epochs trained"], cells)]
    for row in rows:
        if row.get("chosen"):
            point = ", ".join(f"{field} {value:g}" for field, value in row["chosen"].items())
            lines.append(
                f"{row['name']}: {point}, the best of {len(row['tried'])} by {spoken(row['chosen_by'])}"
            )
    if not same:
        lines.append(f"the paper's numbers are of {data}, another data set: for orientation only")
    if table.note:
        lines.append(f"note: {table.note}")
    return "\n".join(lines)
