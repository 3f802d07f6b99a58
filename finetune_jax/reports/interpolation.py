"""Report of networks between a start and a run."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.reports import figures
from finetune_jax.reports.study_report import Picture, StudyReport
from finetune_jax.reports.tables import Table, is_share, json_text, spoken


def report(curve: Mapping[str, Any]) -> StudyReport:
    """The table of shares, which one was chosen, and the curve.

    Args:
        curve: of ``runs.interpolate.Curve.to_json``.
    """
    alphas, scores, name = curve["alphas"], curve["scores"], curve.get("score", "accuracy")
    share = is_share(name)
    unit, factor = (", %", 100) if share else ("", 1)
    chosen = alphas.index(curve["chosen_alpha"])
    rows = [
        [
            f"{alpha:g}{' *' if place == chosen else ''}",
            *(f"{factor * values[place]:.{1 if share else 4}f}" for values in scores.values()),
        ]
        for place, alpha in enumerate(alphas)
    ]
    measured = spoken(name) if name != "accuracy" else "Accuracy"
    caption = (
        f"{measured} of networks between the start (0) and the run (1), with statistics of norms of their own; the "
        f"dotted line is the share that {next(iter(scores))} images chose (WiSE-FT)."
    )
    figure = figures.draw_interpolation_curve(
        alphas, scores, chosen, score=f"{spoken(name)}{unit}", factor=factor
    )
    return StudyReport(
        title="Between the start and the run",
        parts=[
            Table(["alpha", *(f"{of_set}{unit}" for of_set in scores)], rows),
            f"* chosen by {next(iter(scores))} images; they have chosen, so judge by the others",
        ],
        pictures=[Picture("interpolation", caption, figure)],
        data={"interpolation.json": json_text(curve)},
        name="interpolation",
    )
