"""Networks by name."""

import dataclasses

import jax.numpy as jnp

from finetune_jax.errors import UserError
from finetune_jax.models import heads
from finetune_jax.models.architectures import (
    densenet,
    efficientnet,
    inception,
    mobilenet,
    preactivation,
    resnet,
)
from finetune_jax.models.layers.basic import Dtype, Numerics
from finetune_jax.models.network import Builder, Network

_BUILDERS: dict[str, Builder] = {
    **resnet.BUILDERS,
    **preactivation.BUILDERS,
    **mobilenet.BUILDERS,
    **efficientnet.BUILDERS,
    **densenet.BUILDERS,
    **inception.BUILDERS,
}


def names() -> tuple[str, ...]:
    """Names that :func:`create` knows."""
    return tuple(_BUILDERS)


def create(
    name: str,
    num_classes: int = 1000,
    *,
    head: str = heads.OWN,
    width: float = 1.0,
    dtype: Dtype = jnp.float32,
    norm_momentum: float = 0.9,
    norm_axis: str | None = None,
    rematerialise: bool = False,
) -> Network:
    """A network by name, without parameters.

    Args:
        name: one of :func:`names`.
        num_classes: outputs of the head.
        head: ``classifier`` for the architecture's own, else one of ``models.heads``.
        width: factor on all channel numbers (rounded); 1.0 is the published network.
        dtype: compute type; parameters, norm statistics and logits stay float32.
        norm_momentum: share of the old running statistics kept in each training step.
        norm_axis: mapped axis over which batch statistics are averaged; None keeps them per replica.
        rematerialise: keep only the input of each part for the backward pass and compute the rest again there.

    Raises:
        UserError: no such network, or a setting out of range.
    """
    if name not in _BUILDERS:
        raise UserError(f"--network={name} is not known; choose one of {', '.join(_BUILDERS)}")
    if num_classes < 1:
        raise UserError(f"a network needs at least one class, not {num_classes}")
    if not 0.0 < width <= 8.0:
        raise UserError(f"--width={width:g} is out of range; give a factor in (0, 8]")
    if not 0.0 <= norm_momentum < 1.0:
        raise UserError(f"--norm_momentum={norm_momentum:g} is out of range; give a value in [0, 1)")
    numerics = Numerics(dtype, norm_momentum, norm_axis, rematerialise)
    network = dataclasses.replace(_BUILDERS[name](name, num_classes, width, numerics), numerics=numerics)
    if head == heads.OWN:
        return network
    return dataclasses.replace(
        network,
        head=heads.build(head, num_classes, numerics),
        head_name=head,
        torch_names=dataclasses.replace(
            network.torch_names, head=heads.TORCH_NAMES[head], pointwise_classifier=False
        ),
        other_torch_names=(),
    )


def with_norm_momentum(network: Network, norm_momentum: float) -> Network:
    """The network, pruned as it is, with another batch-norm momentum; errors as of :func:`create`."""
    numerics = network.numerics
    whole = create(
        network.architecture,
        network.num_classes,
        head=network.head_name,
        width=network.width,
        dtype=numerics.dtype,
        norm_momentum=norm_momentum,
        norm_axis=numerics.norm_axis,
    )
    return dataclasses.replace(whole, blocks=whole.blocks[: len(network.blocks)])


def with_head(network: Network, num_classes: int, head: str) -> Network:
    """The network, pruned as it is, with another head; arguments as of :func:`create`."""
    numerics = network.numerics
    whole = create(
        network.architecture,
        num_classes,
        head=head,
        width=network.width,
        dtype=numerics.dtype,
        norm_momentum=numerics.norm_momentum,
        norm_axis=numerics.norm_axis,
        rematerialise=numerics.rematerialise,
    )
    return dataclasses.replace(whole, blocks=network.blocks)
