"""L2-SP (Li et al., 2018): standard fine-tuning with a pull towards the pretrained weights."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax

from finetune_jax.algorithms import regularizers
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.models import heads
from finetune_jax.training import objectives
from finetune_jax.training.methods.method import Base, Method
from finetune_jax.training.objectives import Forward, Prediction, Tree

REFERENCE = "reference_"
"""How the names of parts begin that hold pretrained weights, which the penalty compares with."""


@dataclasses.dataclass(frozen=True)
class L2SP(Method):
    """All parts are trained, and pulled towards where they started."""

    @classmethod
    def create(cls, config: FinetuneConfig, base: Base) -> Self:
        """The network, and its pretrained parts once more as frozen references; see :meth:`Method.create`."""
        network, variables = base.network, base.variables
        shared = shared_with_origin(variables["params"], own_head=network.head_name == heads.OWN)
        references = {REFERENCE + name: tree for name, tree in shared.items()}
        return cls(
            network,
            network,
            {**variables, "params": {**variables["params"], **references}},
            network.part_names,
            penalised(
                objectives.forward(network, network.part_names),
                l2_sp_penalty(config.lambda_shared, config.lambda_novel),
            ),
            references=tuple(references),
        )


def shared_with_origin(params: Mapping[str, Any], *, own_head: bool) -> dict[str, Any]:
    """The parts that a pretrained network brings, of its own head all but the classifier.

    Args:
        params: ``{part: tree}`` of the network.
        own_head: whether the head is the architecture's own; any other is new as a whole.
    """
    shared = {name: tree for name, tree in params.items() if name != "head"}
    kept = {name: tree for name, tree in params["head"].items() if name != "classifier"}
    return {**shared, "head": kept} if own_head and kept else shared


def l2_sp_penalty(lambda_shared: float, lambda_novel: float) -> Callable[[Any, Any], jax.Array]:
    """``(params, frozen) → penalty`` of L2-SP; ``frozen`` holds the pretrained parts as ``reference_PART``."""

    def penalty(params: Any, frozen: Any) -> jax.Array:
        reference = {
            name.removeprefix(REFERENCE): tree for name, tree in frozen.items() if name.startswith(REFERENCE)
        }
        shared = {name: params[name] for name in reference}
        novel = {name: tree for name, tree in params.items() if name not in reference}
        if "head" in reference:
            # One part, of which the pretrained network brings some layers.
            shared["head"] = {name: params["head"][name] for name in reference["head"]}
            novel["new of head"] = {
                name: tree for name, tree in params["head"].items() if name not in reference["head"]
            }
        return regularizers.l2_sp({**shared, **novel}, reference, tuple(shared), lambda_shared, lambda_novel)

    return penalty


def penalised(forward: Forward, penalty: Callable[[Tree, Tree], jax.Array]) -> Forward:
    """``forward`` with a penalty of ``(params, frozen)`` beside its own."""

    def function(
        params: Tree, frozen: Tree, batch_stats: Tree, images: jax.Array, keys: jax.Array
    ) -> Prediction:
        prediction = forward(params, frozen, batch_stats, images, keys)
        return prediction._replace(penalty=prediction.penalty + penalty(params, frozen))

    return function
