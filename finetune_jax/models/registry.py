"""Networks by name."""

import jax.numpy as jnp

from finetune_jax.errors import UserError
from finetune_jax.models import densenet, efficientnet, inception, mobilenet, preactivation, resnet
from finetune_jax.models.layers import Dtype, Numerics
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
    width: float = 1.0,
    dtype: Dtype = jnp.float32,
    norm_momentum: float = 0.9,
    norm_axis: str | None = None,
) -> Network:
    """A network by name, without parameters.

    Args:
        name: one of :func:`names`.
        num_classes: outputs of the head.
        width: factor on all channel numbers (rounded); 1.0 is the published network.
        dtype: compute type; parameters, norm statistics and logits stay float32.
        norm_momentum: share of the old running statistics kept in each training step.
        norm_axis: mapped axis over which batch statistics are averaged; None keeps them per replica.

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
    return _BUILDERS[name](name, num_classes, width, Numerics(dtype, norm_momentum, norm_axis))
