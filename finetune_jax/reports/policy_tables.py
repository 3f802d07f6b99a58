"""Tables of what a policy does: the numbers behind SpotTune's Figures 3 and 4, for one run."""

from collections.abc import Sequence

import numpy as np

from finetune_jax.algorithms import policies
from finetune_jax.reports.tables import Files, csv_text


def files(
    decisions: np.ndarray, labels: np.ndarray, class_names: Sequence[str], blocks: Sequence[str]
) -> Files:
    """``policy_usage.csv`` (shares of images, in all and per class) and ``policy_counts.csv``.

    Args:
        decisions: ``[N, L]`` of 0 (frozen) and 1 (fine-tuned).
        labels: ``[N]``, places in ``class_names``.
        class_names: of all classes.
        blocks: ``L`` names of the columns of ``decisions``.
    """
    shares: list[list[object]] = [
        ["class", "images", *blocks],
        ["all", len(labels), *map(float, decisions.mean(0))],
    ]
    for name, usage in policies.usage_per_class(decisions, labels, class_names).items():
        images = int((labels == class_names.index(name)).sum())
        shares.append([name, images, *map(float, usage)])
    counts = enumerate(map(int, policies.tuned_block_counts(decisions)))
    return {
        "policy_usage.csv": csv_text(shares),
        "policy_counts.csv": csv_text([("tuned_blocks", "images"), *counts]),
    }
