"""How many of a network's top blocks to leave out: Algorithm 1 of AutoLR, with what each depth costs."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from finetune_jax import data as datasets
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.models import costs, pruning
from finetune_jax.runs.start import load_origin
from finetune_jax.studies.comparison import Train
from finetune_jax.studies.progress import Progress


def search(
    base: FinetuneConfig,
    train: Train,
    *,
    seeds: Sequence[int],
    max_depth: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fine-tune with 0, 1, 2 … top blocks left out, as long as the validation score does not fall.

    Args:
        base: of all runs; its rates are the single learning rate of the algorithm.
        train: trains one config.
        seeds: the score of a depth is the mean over them.
        max_depth: largest depth to try; None stops before the last block.
        progress: is told of every run.

    Returns:
        JSON: ``best_depth``, ``score`` (its name), and ``depths``, a list of ``depth``, ``scores`` (one per
        seed), ``parameters``, ``flops`` and ``seconds`` (per epoch).

    Raises:
        UserError: the network has no such blocks.
        Diverged: training did.
    """
    origin = load_origin(base)
    blocks = len(origin.network.blocks)
    if max_depth is None:
        max_depth = blocks - 1
    if not 0 <= max_depth < blocks:
        raise UserError(f"--max_depth={max_depth} is out of range; give at most {blocks - 1} here")
    image_size = datasets.image_size(base, origin.image_size)
    progress = progress or Progress()
    # At most: the search ends where the score falls.
    progress.expect((max_depth + 1) * len(seeds))
    depths: list[dict[str, Any]] = []
    score = ""

    def evaluate(depth: int) -> float:
        nonlocal score
        summaries = []
        for seed in seeds:
            progress.begin(f"{depth} top blocks left out, seed {seed}")
            config = dataclasses.replace(base, prune_depth=depth, seed=seed)
            summaries.append(train(config, f"prune/depth_{depth:02d}-seed{seed}"))
        score = summaries[0]["score"].replace("test", "validation")
        scores = [float(summary[score]) for summary in summaries]
        for value in scores:
            progress.scored(f"{depth} left out", value)
        pruned = pruning.truncate(origin.network.with_num_classes(summaries[0]["classes"]), depth)
        cost = costs.of_network(pruned, image_size)
        depths.append(
            {
                "depth": depth,
                "scores": scores,
                "parameters": summaries[0]["parameters"],
                "flops": cost.flops,
                "seconds": statistics.median(summary["seconds_per_epoch"] for summary in summaries),
            }
        )
        return statistics.fmean(scores)

    searched = pruning.search(evaluate, max_depth)
    return {"best_depth": searched.best_depth, "score": score, "depths": depths}
