"""Report of a reproduction: our rows of a table beside the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.reports import tables
from finetune_jax.reports.published import Table
from finetune_jax.reports.study_report import StudyReport
from finetune_jax.reports.tables import json_text, mean_of, spoken, with_spread


def report(
    name: str, table: Table, dataset: str, rows: Sequence[Mapping[str, Any]], data: str = ""
) -> StudyReport:
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
    columns = [part for metric in metrics for part in (f"{spoken(metric)} in %, ours", whose)]
    lines = []
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
    return StudyReport(
        title=f"{name} on {dataset}",
        parts=[
            f"{name}: {table.title}, {dataset}",
            tables.Table(["row", *columns, "epochs trained"], cells),
            *(["\n".join(lines)] if lines else []),
        ],
        data={"results.json": json_text(rows)},
    )
