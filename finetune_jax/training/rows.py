"""Rows of metrics and passes, and lines of progress."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.reports.tables import score_text
from finetune_jax.training.tuning import Pass, Verdict

# Without those of what is trained beside it, such as a policy.
RATES_OF_NETWORK = ("rate/stem", "rate/block_", "rate/head")


def pass_row(
    epoch: int,
    steps_trained: int,
    verdict: Verdict,
    rates: Mapping[str, float],
    blocks: tuple[str, ...],
    outcome: Pass,
) -> dict[str, Any]:
    """A row of ``passes.csv``; a target is empty where none was set for the next pass."""
    return {
        "epoch": epoch + 1,
        "step": steps_trained,
        "trial": verdict.trial,
        "accepted": int(verdict.accepted),
        "finite": int(outcome.finite),
        "sorting_quality": verdict.quality,
        "threshold": verdict.threshold,
        **{f"rate/{name}": rate for name, rate in rates.items()},
        **_named("variation", blocks, outcome.variations),
        **({} if outcome.signal is None else _named("signal", blocks, outcome.signal)),
        **{f"target/{name}": verdict.targets.get(name) for name in blocks if verdict.threshold is not None},
    }


def _named(kind: str, blocks: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return {f"{kind}/{name}": float(value) for name, value in zip(blocks, values, strict=True)}


def trial_line(epoch: int, epochs: int, verdict: Verdict) -> str:
    """A line of progress about a trial: whether it counts, and how far its blocks move in order."""
    decision = "accepted" if verdict.accepted else "rejected"
    line = f"epoch {epoch + 1}/{epochs}  trial {verdict.trial} {decision}: "
    if not verdict.accepted and not verdict.targets:  # it diverged: nothing was measured
        return line + verdict.remark
    assert verdict.quality is not None
    assert verdict.threshold is not None
    in_order = round(verdict.quality, 3) >= verdict.threshold
    line += "higher blocks move more" if in_order else "lower blocks still move more"
    line += f" (sorting quality {verdict.quality:.3f}, wanted {verdict.threshold:.3f})"
    return f"{line}; {verdict.remark}" if verdict.remark else line


def shown(row: Mapping[str, Any]) -> str:
    """``train loss 0.1234 accuracy 95.00 %  validation …``: what tells most of a row."""
    parts = []
    labels = {
        "loss": "loss",
        "accuracy": "accuracy",
        "recall_at_1": "Recall@1",
        "map_at_r": "MAP@R",
        "mean_average_precision": "mAP",
        "quadratic_kappa": "quadratic kappa",
        "mae": "MAE",
        "r2": "R²",
    }
    for split in ("train", "validation", "test"):
        values = [(name, label, row.get(f"{split}_{name}")) for name, label in labels.items()]
        numbers = " ".join(f"{label} {score_text(name, v)}" for name, label, v in values if v is not None)
        if numbers:
            parts.append(f"{split} {numbers}")
    return "  ".join(parts)
