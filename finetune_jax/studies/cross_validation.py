"""Cross-validation: every fold of the images is the test split of one run that has not seen it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.studies.comparison import Train
from finetune_jax.studies.progress import Progress

PREDICTIONS = "predictions-test.csv"
"""What a run of classification leaves behind of its test images."""


def run(
    base: FinetuneConfig,
    train: Train,
    predictions: Callable[[str], Sequence[Mapping[str, str]]],
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train with each fold held out.

    Args:
        base: of all runs, ``folds`` at least 2; its ``fold`` does not count.
        train: trains one config.
        predictions: from the name of a run to the rows of its :data:`PREDICTIONS`.
        progress: is told of every run.

    Returns:
        JSON: ``score`` (its name), ``folds``, a list of ``fold``, ``images`` (by split), ``test`` (scores by name),
        ``best_epoch`` and ``seconds``; and ``out_of_fold``, the rows of all runs with their ``fold`` in front.

    Raises:
        UserError: there are too few images for so many folds, or a run's predictions are gone.
        Diverged: training did.
    """
    if base.folds < 2:
        raise UserError(f"--folds={base.folds} is out of range; give a whole number of at least 2")
    progress = progress or Progress()
    progress.expect(base.folds)
    rows: list[dict[str, Any]] = []
    out_of_fold: list[dict[str, str]] = []
    score = ""
    for fold in range(1, base.folds + 1):
        name = f"fold_{fold:02d}"
        progress.begin(f"fold {fold} of {base.folds}")
        summary = train(dataclasses.replace(base, fold=fold), name)
        score = summary["score"]
        progress.scored(f"fold {fold}", float(summary[score]))
        rows.append(
            {
                "fold": fold,
                "images": dict(summary["images"]),
                "test": {name: value for name, value in summary.items() if _is_score(name, value)},
                "best_epoch": summary["best_epoch"],
                "seconds": summary["seconds"],
            }
        )
        out_of_fold += [{"fold": str(fold), **row} for row in predictions(name)]
    return {"dataset": base.dataset, "score": score, "folds": rows, "out_of_fold": out_of_fold}


def _is_score(name: str, value: Any) -> bool:
    return name.startswith("test_") and isinstance(value, int | float)
