"""Report of networks between a start and a run."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.reports import figures
from finetune_jax.reports.study_report import Picture, StudyReport
from finetune_jax.reports.tables import Table, json_text


def report(curve: Mapping[str, Any]) -> StudyReport:
    """The table of shares, which one was chosen, and the curve.

    Args:
        curve: of ``runs.interpolate.Curve.to_json``.
    """
    alphas, scores = curve["alphas"], curve["scores"]
    chosen = alphas.index(curve["chosen_alpha"])
    rows = [
        [
            f"{alpha:g}{' *' if place == chosen else ''}",
            *(f"{100 * values[place]:.1f}" for values in scores.values()),
        ]
        for place, alpha in enumerate(alphas)
    ]
    caption = (
        "Accuracy of networks between the start (0) and the run (1), with statistics of norms of their own; the dotted "
        f"line is the share that {next(iter(scores))} images chose (WiSE-FT)."
    )
    figure = figures.draw_interpolation_curve(alphas, scores, chosen)
    return StudyReport(
        title="Between the start and the run",
        parts=[
            Table(["alpha", *(f"{name}, %" for name in scores)], rows),
            f"* chosen by {next(iter(scores))} images; they have chosen, so judge by the others",
        ],
        pictures=[Picture("interpolation", caption, figure)],
        data={"interpolation.json": json_text(curve)},
        name="interpolation",
    )
