"""Progressive networks: a frozen pretrained column beside a new one."""

import jax

from finetune_jax.models.compositions.progressive import ProgressiveNetwork
from finetune_jax.training.objectives import Forward, Prediction, Tree, random_streams


def progressive_forward(model: ProgressiveNetwork, *, train_frozen: bool = False) -> Forward:
    """Both columns of a progressive network.

    Args:
        model: the network.
        train_frozen: whether the frozen column normalises with batch statistics.
    """
    changing = (*model.network.part_names, *[name for name in model.frozen_parts if train_frozen])

    def function(
        params: Tree, frozen: Tree, batch_stats: Tree, images: jax.Array, keys: jax.Array
    ) -> Prediction:
        variables = {"params": {**frozen, **params}, "batch_stats": batch_stats}
        outputs, _, updated = model.run(variables, images, train=changing, rngs=random_streams(keys))
        return Prediction(outputs, {name: updated[name] for name in changing})

    return function
