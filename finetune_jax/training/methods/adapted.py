"""Methods that train little of each block: LoRA's adapters, norms, or biases (BitFit)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.models.compositions.adapted import BIASES, LORA, NORMS, AdaptedNetwork
from finetune_jax.models.network import Model, Variables
from finetune_jax.training.methods.method import Base, Method
from finetune_jax.training.objectives import Forward, Prediction, Tree, random_streams
from finetune_jax.training.tuning import FixedRates, Tuner


@dataclasses.dataclass(frozen=True)
class Lora(Method):
    """Low-rank adapters beside the kernels of the blocks are trained, and the head; merged when saved."""

    adapts: ClassVar[str] = LORA
    moves_norms: ClassVar[bool] = False
    """Whether norms that are trained use batch statistics."""

    model: AdaptedNetwork

    @classmethod
    def create(cls, config: FinetuneConfig, base: Base) -> Self:
        """The network, its adapters, and its pretrained parameters frozen; see :meth:`Method.create`."""
        network = base.network
        model = AdaptedNetwork(network, cls.adapts, config.lora_rank, config.lora_alpha, config.lora_targets)
        changing = network.part_names if cls.moves_norms or config.frozen_norm == "train" else ("head",)
        start = model.start(base.variables, base.key)
        return cls(network, model, start, model.trained_parts, adapted_forward(model, changing))

    @property
    def measured(self) -> Model:
        """The plain network."""
        return self.network

    @property
    def composition(self) -> Mapping[str, Any]:
        """Of the adapted network."""
        return self.model.to_json()

    @property
    def makes_compact(self) -> bool:
        """The merged network is saved: prediction, evaluation and export know nothing of adapters."""
        return True

    def result(self, variables: Variables, totals: Mapping[str, float]) -> Variables:
        """Variables of the merged network, with the parts that the task trains beside it."""
        del totals
        names = self.model.part_names
        beside = {name: tree for name, tree in variables["params"].items() if name not in names}
        merged = self.model.merged(
            {**variables, "params": {name: variables["params"][name] for name in names}}
        )
        return {**merged, "params": {**merged["params"], **beside}}


@dataclasses.dataclass(frozen=True)
class Norms(Lora):
    """The parameters of norms are trained, and the head."""

    adapts = NORMS
    moves_norms = True

    def tuner(self, config: FinetuneConfig, trained: tuple[str, ...]) -> Tuner:
        """The schedule's rates; no kernel moves, so no variation is measured."""
        fixed = super().tuner(config, trained)
        assert isinstance(fixed, FixedRates)
        return dataclasses.replace(fixed, blocks=())


@dataclasses.dataclass(frozen=True)
class Biases(Norms):
    """All biases are trained, and the head (BitFit)."""

    adapts = BIASES
    moves_norms = False


def adapted_forward(model: AdaptedNetwork, changing: tuple[str, ...]) -> Forward:
    """The merged network, the parts of ``changing`` in training mode."""
    network = model.network

    def function(
        params: Tree, frozen: Tree, batch_stats: Tree, images: jax.Array, keys: jax.Array
    ) -> Prediction:
        parts = {name: {**frozen, **params}[name] for name in model.part_names}
        merged = model.merged({"params": parts, "batch_stats": batch_stats})
        outputs, updated = network.apply(merged, images, train=changing, rngs=random_streams(keys))
        return Prediction(outputs, {name: updated[name] for name in changing})

    return function
