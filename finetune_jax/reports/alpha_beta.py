"""Report of an alpha-beta map."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.reports import figures
from finetune_jax.reports.study_report import Picture, StudyReport
from finetune_jax.reports.tables import Table, json_text, spoken


def report(result: Mapping[str, Any]) -> StudyReport:
    """Scores with a row per α and a column per β, and the map of them.

    Args:
        result: of ``studies.alpha_beta.grid``.
    """
    rows = []
    for alpha, scores, unavailable in zip(
        result["alphas"], result["scores"], result["unavailable"], strict=True
    ):
        cells = [
            "unavailable" if hatched else "–" if score is None else f"{100 * score:.2f}"
            for score, hatched in zip(scores, unavailable, strict=True)
        ]
        rows.append([f"{alpha:g}", *cells])
    score = spoken(result["score"])
    figure = figures.draw_alpha_beta_grid(
        np.array(result["scores"], np.float64),
        result["alphas"],
        result["betas"],
        np.array(result["unavailable"]),
        score_name=score,
    )
    caption = (
        f"{score[0].upper()}{score[1:]} by α and β, which set how far the lowest and the highest block should move in "
        "the first epoch. Hatched pairs ask low blocks to move further than high ones; a frame marks the highest score "
        "where there is only one."
    )
    return StudyReport(
        title="AutoLR over α and β",
        parts=[Table([f"{score} in %, α \\ β", *[f"{beta:g}" for beta in result["betas"]]], rows)],
        pictures=[Picture("map", caption, figure)],
        data={"results.json": json_text(result)},
    )
