"""Progressive networks: a frozen pretrained column beside a new one."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.models.compositions.progressive import ProgressiveNetwork
from finetune_jax.training.methods.method import Base, Method
from finetune_jax.training.objectives import Forward, Prediction, Tree, random_streams


@dataclasses.dataclass(frozen=True)
class Progressive(Method):
    """A new column is trained; it reads the features of the frozen pretrained one."""

    model: ProgressiveNetwork

    @classmethod
    def create(cls, config: FinetuneConfig, base: Base) -> Self:
        """Two columns of the network; see :meth:`Method.create`."""
        model = ProgressiveNetwork(base.network)
        forward = progressive_forward(model, train_frozen=config.frozen_norm == "train")
        return cls(base.network, model, model.start(base.variables), model.trained_parts, forward)

    @property
    def composition(self) -> Mapping[str, Any]:
        """Of both columns."""
        return self.model.to_json()


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
