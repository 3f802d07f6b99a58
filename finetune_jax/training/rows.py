"""Rows of metrics and passes, and lines of progress."""

from collections.abc import Mapping
from typing import Any

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
        **{f"variation/{name}": float(v) for name, v in zip(blocks, outcome.variations, strict=True)},
        **{f"target/{name}": verdict.targets.get(name) for name in blocks if verdict.threshold is not None},
    }


def trial_line(epoch: int, epochs: int, verdict: Verdict) -> str:
    """A line of progress about a trial."""
    decision = "accepted" if verdict.accepted else "rejected"
    line = (
        f"epoch {epoch + 1}/{epochs}  trial {verdict.trial} {decision}: sorting quality {verdict.quality:.3f}, "
        f"wanted {verdict.threshold:.3f}"
    )
    return f"{line} ({verdict.remark})" if verdict.remark else line


def shown(row: Mapping[str, Any]) -> str:
    """``train loss 0.12 accuracy 0.95  validation …``: what tells most of a row."""
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
        values = [(label, row.get(f"{split}_{name}")) for name, label in labels.items()]
        numbers = " ".join(f"{label} {value:.4f}" for label, value in values if value is not None)
        if numbers:
            parts.append(f"{split} {numbers}")
    return "  ".join(parts)


def spent(seconds: float, compiling: float) -> str:
    """The time of an epoch; what the making of its programs took stands apart where it can be seen.

    >>> spent(10.6, 8.94), spent(1.7, 0.02)
    ('10.6 s, of which 8.9 s compiling', '1.7 s')
    """
    shown = f"{seconds:.1f} s"
    return f"{shown}, of which {compiling:.1f} s compiling" if compiling >= 0.1 else shown
