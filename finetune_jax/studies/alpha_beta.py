"""AutoLR's two settings of the first epoch's targets, α and β, on a grid: Figure 3 of the paper."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import Diverged
from finetune_jax.studies.comparison import Train
from finetune_jax.studies.progress import Progress


def grid(
    base: FinetuneConfig,
    train: Train,
    *,
    alphas: Sequence[float],
    betas: Sequence[float],
    passes_of: Callable[[str], Sequence[Mapping[str, str]]],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train AutoLR for every pair that can be used.

    Where ``β · max v ≤ α · min v`` (v of the first trial, which no setting changes) the targets would descend:
    such pairs are marked and not trained, but for the first pair, which v is taken from.

    Args:
        base: of ``--method=autolr``.
        train: trains one config.
        alphas: A values.
        betas: B values.
        passes_of: name of a run to the rows of its ``passes.csv``.
        progress: is told of every run.

    Returns:
        JSON: ``alphas``, ``betas``, ``score`` (its name; of validation where there is any), and ``scores`` and
        ``unavailable``, both ``[A][B]``; a score is None where a pair was not trained or diverged.
    """
    progress = progress or Progress()
    progress.expect(len(alphas) * len(betas))
    scores: list[list[float | None]] = [[None] * len(betas) for _ in alphas]
    smallest, largest, score = math.nan, math.nan, ""
    for row, alpha in enumerate(alphas):
        for column, beta in enumerate(betas):
            if beta * largest <= alpha * smallest:  # not with NaN, before anything is known
                progress.expect(-1)
                continue
            config = dataclasses.replace(base, alpha=alpha, beta=beta)
            name = f"alpha{alpha:g}-beta{beta:g}"
            progress.begin(f"α {alpha:g}, β {beta:g}")
            try:
                summary = train(config, name)
            except Diverged:
                continue
            # One that diverged has no variations; the next has all rates lower by the same factor.
            first = next(row for row in passes_of(name) if row["finite"] == "1")
            variations = [float(cell) for key, cell in first.items() if key.startswith("variation/")]
            smallest, largest = min(variations), max(variations)
            score = summary["score"].replace("test", "validation")
            if summary.get(score) is None:  # as in the paper, which has no validation images
                score = summary["score"]
            scores[row][column] = float(summary[score])
            progress.scored(f"α {alpha:g}, β {beta:g}", float(summary[score]))
    return {
        "alphas": list(alphas),
        "betas": list(betas),
        "score": score,
        "scores": scores,
        "unavailable": [[beta * largest <= alpha * smallest for beta in betas] for alpha in alphas],
    }
