"""Table and figure of an alpha-beta map."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.reports import figures
from finetune_jax.reports.tables import Files, json_text, spoken, table


def files(result: Mapping[str, Any]) -> Files:
    """``results.json``, ``results.txt`` and ``map.png`` of a result of ``studies.alpha_beta``."""
    picture = figures.alpha_beta_grid(
        np.array(result["scores"], np.float64),
        result["alphas"],
        result["betas"],
        np.array(result["unavailable"]),
        score_name=spoken(result["score"]),
    )
    return {"results.json": json_text(result), "results.txt": text(result) + "\n", "map.png": picture}


def text(result: Mapping[str, Any]) -> str:
    """Scores with a row per α and a column per β."""
    rows = []
    for alpha, scores, unavailable in zip(
        result["alphas"], result["scores"], result["unavailable"], strict=True
    ):
        cells = [
            "unavailable" if hatched else "–" if score is None else f"{100 * score:.2f}"
            for score, hatched in zip(scores, unavailable, strict=True)
        ]
        rows.append([f"{alpha:g}", *cells])
    return table([f"{spoken(result['score'])}, α \\ β", *[f"{beta:g}" for beta in result["betas"]]], rows)
