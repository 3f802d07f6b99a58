"""Report of a pruning study."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.reports import figures
from finetune_jax.reports.study_report import Picture, StudyReport
from finetune_jax.reports.tables import Table, json_text, spoken, with_spread


def report(result: Mapping[str, Any]) -> StudyReport:
    """The table of depths, what to do with the best, and a curve.

    Args:
        result: of ``studies.prune.search``.
    """
    best, last = result["best_depth"], result["depths"][-1]["depth"]
    if best == last:
        ending = f"{best} was the largest depth tried; the score had not fallen yet"
    else:
        ending = f"the score fell at {last}"
    return StudyReport(
        title="How many top blocks can be left out",
        parts=[depths_table(result), f"best depth: {best} ({ending}); train with --prune_depth={best}"],
        pictures=[picture(result)],
        data={"results.json": json_text(result)},
    )


def depths_table(result: Mapping[str, Any]) -> Table:
    """One row per pruning depth; the chosen one is marked."""
    whole = result["depths"][0]
    rows = [
        [
            f"{row['depth']}{' *' if row['depth'] == result['best_depth'] else ''}",
            with_spread(row["scores"]),
            row["parameters"],
            _saved(row["parameters"], whole["parameters"]),
            f"{row['flops'] / 1e6:.0f}",
            _saved(row["flops"], whole["flops"]),
            f"{row['seconds']:.1f}",
        ]
        for row in result["depths"]
    ]
    columns = [
        "blocks pruned",
        f"{spoken(result['score'])}, %",
        "parameters",
        "saved",
        "MFLOPs per image",
        "saved",
    ]
    return Table([*columns, "seconds per epoch"], rows)


def picture(result: Mapping[str, Any]) -> Picture:
    """Score and costs over depths."""
    depths = result["depths"]
    figure = figures.draw_pruning_curve(
        [row["depth"] for row in depths],
        [row["scores"] for row in depths],
        {
            "parameters": [row["parameters"] for row in depths],
            "operations per image": [row["flops"] for row in depths],
        },
        chosen=result["best_depth"],
        score_name=spoken(result["score"]),
    )
    caption = (
        "Validation score, and what is left of the network, by the number of top blocks left out; the dotted line is "
        "the depth chosen (Algorithm 1 of AutoLR stops where the score falls)."
    )
    return Picture("pruning", caption, figure)


def _saved(part: float, whole: float) -> str:
    return f"{100 * (1 - part / whole):.0f} %"
