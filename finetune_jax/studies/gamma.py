"""γ of the AutoLR paper's supplement B, from the trials that a run has recorded."""

from pathlib import Path
from typing import Any

import numpy as np

from finetune_jax.algorithms import weight_variation
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import RunDirectory, config_of_run
from finetune_jax.models.card import read_best


def of_epoch(run: Path, epoch: int) -> list[dict[str, Any]]:
    """Rates and accumulated gradients of the first and the last trial of an epoch.

    Args:
        run: directory of ``--method=autolr``.
        epoch: 1-based.

    Returns:
        JSON, per block: ``block``, ``rates`` and ``norms`` (of both trials), ``gamma`` (last over first).

    Raises:
        UserError: no such run, one with another measure of variation, or not two finite trials in this epoch.
    """
    card, _ = read_best(run)
    measure = config_of_run(run, FinetuneConfig).variation
    if measure != "mean":
        raise UserError(
            f"--run={run} measured its trials with --variation={measure}, and γ is of AutoLR's own; give a run with "
            "--variation=mean"
        )
    rows = [
        row
        for row in RunDirectory(run).read_passes()
        if int(row["epoch"]) == epoch and row["finite"] == "1" and row["threshold"]
    ]
    if len(rows) < 2:
        raise UserError(
            f"--run={run}: epoch {epoch} has {len(rows)} trials of AutoLR, and γ compares two; "
            "give an --epoch with a rejected trial"
        )
    blocks = [name.removeprefix("variation/") for name in rows[0] if name.startswith("variation/")]
    counts = weight_variation.kernel_counts(card.network().shapes()["params"], blocks=blocks)
    rates, norms = [], []
    for row in (rows[0], rows[-1]):
        rates.append([float(row[f"rate/{name}"]) for name in blocks])
        v = [float(row[f"variation/{name}"]) for name in blocks]
        norms.append(
            np.asarray(weight_variation.accumulated_gradient_norms(np.array(rates[-1]), np.array(v), counts))
        )
    return [
        {
            "block": name,
            "rates": [rates[0][i], rates[1][i]],
            "norms": [float(norms[0][i]), float(norms[1][i])],
            "gamma": float(norms[1][i] / norms[0][i]),
        }
        for i, name in enumerate(blocks)
    ]
