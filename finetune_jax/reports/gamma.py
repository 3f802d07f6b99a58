"""Table of the gamma study."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.reports.published.autolr import GAMMA_TABLE
from finetune_jax.reports.tables import table


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """γ of each block, ours beside the paper's."""
    printed = GAMMA_TABLE["gamma"]
    cells = [
        [
            row["block"],
            *(f"{rate:.3g}" for rate in row["rates"]),
            *(f"{norm:.4g}" for norm in row["norms"]),
            f"{row['gamma']:.2f}",
            f"{printed[i]:.2f}" if i < len(printed) else "–",
        ]
        for i, row in enumerate(rows)
    ]
    columns = ["", "first rate", "last rate", "‖∇L_acc‖, first", "last", "γ", "γ, paper (ResNet-50, CUB-200)"]
    return table(columns, cells)
