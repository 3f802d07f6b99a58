"""Table and figure of an alpha-beta map."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.reports import figures
from finetune_jax.reports.tables import spoken
from finetune_jax.reports.tables import table as table_of
from finetune_jax.studies.runs import Runs


def write_alpha_beta(found: Mapping[str, Any], runs: Runs) -> None:
    """Write ``results.json``, ``results.txt`` and ``map.png`` of ``studies.alpha_beta``."""
    runs.write_json("results.json", found)
    runs.write("results.txt", alpha_beta_text(found) + "\n")
    picture = figures.alpha_beta_grid(
        np.array(found["scores"], np.float64),
        found["alphas"],
        found["betas"],
        np.array(found["unavailable"]),
        score_name=spoken(found["score"]),
    )
    runs.write("map.png", picture)


def alpha_beta_text(found: Mapping[str, Any]) -> str:
    """Scores with a row per α and a column per β."""
    rows = []
    for alpha, scores, unavailable in zip(
        found["alphas"], found["scores"], found["unavailable"], strict=True
    ):
        cells = [
            "unavailable" if hatched else "–" if score is None else f"{100 * score:.2f}"
            for score, hatched in zip(scores, unavailable, strict=True)
        ]
        rows.append([f"{alpha:g}", *cells])
    return table_of([f"{spoken(found['score'])}, α \\ β", *[f"{beta:g}" for beta in found["betas"]]], rows)
