"""The summary of a run."""

import math
from typing import Any

import jax

from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory


def _best_row(directory: RunDirectory, rows: list[dict[str, str]]) -> dict[str, str]:
    """The row of the epoch whose checkpoint is the best."""
    best = checkpoints.best_step(directory.checkpoints)
    return next(row for row in rows if int(row["step"]) == best)


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
