"""Networks by name."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from finetune_jax.data.decode import MAX_CHANNELS
from finetune_jax.errors import UserError
from finetune_jax.models import heads
from finetune_jax.models.architectures import (
    convnext,
    densenet,
    efficientnet,
    efficientnet_b,
    inception,
    mobilenet,
    mobilenet_v3,
    preactivation,
    regnet,
    resnet,
    resnet_d,
    vision_transformer,
)
from finetune_jax.models.layers.basic import Dtype, Numerics
from finetune_jax.models.network import Builder, Network, PlainBuilder
from finetune_jax.models.options import Options


def _with_options(builders: Mapping[str, PlainBuilder]) -> dict[str, Builder]:
    """The same builders, which have none of the options."""

    def accepting(build: PlainBuilder) -> Builder:
        return lambda name, num_classes, width, numerics, options: build(name, num_classes, width, numerics)

    return {name: accepting(build) for name, build in builders.items()}


_BUILDERS: dict[str, Builder] = {
    **_with_options(resnet.BUILDERS),
    **_with_options(preactivation.BUILDERS),
    **_with_options(mobilenet.BUILDERS),
    **_with_options(efficientnet.BUILDERS),
    **_with_options(densenet.BUILDERS),
    **_with_options(inception.BUILDERS),
    **vision_transformer.BUILDERS,
    **convnext.BUILDERS,
    **resnet_d.BUILDERS,
    **efficientnet_b.BUILDERS,
    **mobilenet_v3.BUILDERS,
    **regnet.BUILDERS,
}


def names() -> tuple[str, ...]:
    """Names that :func:`create` knows.

    Examples:
        >>> from finetune_jax import models
        >>> "resnet50" in models.names()
        True
    """
    return tuple(_BUILDERS)


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, _BUILDERS, 5, 0.5)
    families = "resnet50, mobilenet_v2, efficientnet_b0, vit_small_patch16_224, convnext_tiny"
    return (
        f"near are {', '.join(near)}" if near else f"names are timm's, such as {families} (docs/networks.md)"
    )


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
    parameter_axis: str | None = None,
    image_size: int | None = None,
    pool: str = "",
    drop_path: float = 0.0,
    dropout: float = 0.0,
    channels: int = 3,
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
        parameter_axis: mapped axis over whose replicas the parameters are in shares (``devices.shares``); a part's are
            brought together just before it runs, and again for its gradient, as if ``rematerialise`` were set.
        image_size: side of the images, only needed where parameters depend on it; None is that of the published
            weights.
        pool: how tokens become an embedding (``token``, ``mean``, ``both``, ``map``); empty is what the weights were
            trained with.
        drop_path: rate of stochastic depth in the last block, to which it rises linearly; needs the random stream
            of that name in training mode.
        dropout: before the classifier; needs the random stream of that name in training mode.
        channels: of the images, 1 to 13.

    Raises:
        UserError: no such network, a setting out of range, or one that the network does not have.

    Examples:
        >>> from finetune_jax import models
        >>> network = models.create("vit_tiny_patch16_224", num_classes=10, image_size=96)
        >>> len(network.block_names), network.tokens.side
        (12, 6)
    """
    if name not in _BUILDERS:
        raise UserError(f"--network={name} is not known; {_near(name)}")
    if num_classes < 1:
        raise UserError(f"a network needs at least one class, not {num_classes}")
    if not 0.0 < width <= 8.0:
        raise UserError(f"--width={width:g} is out of range; give a factor in (0, 8]")
    if not 0.0 <= norm_momentum < 1.0:
        raise UserError(f"--norm_momentum={norm_momentum:g} is out of range; give a value in [0, 1)")
    for flag, value in (("drop_path", drop_path), ("dropout", dropout)):
        if not 0.0 <= value < 1.0:
            raise UserError(f"--{flag}={value:g} is out of range; give a value in [0, 1)")
    if not 1 <= channels <= MAX_CHANNELS:
        raise UserError(
            f"--channels={channels} is out of range; give a whole number from 1 to {MAX_CHANNELS}"
        )
    if image_size is not None and image_size < 1:
        raise UserError(f"--image_size={image_size} is out of range; give a number of pixels")
    numerics = Numerics(dtype, norm_momentum, norm_axis, rematerialise, parameter_axis)
    options = Options(image_size, pool, drop_path, dropout)
    network = _BUILDERS[name](name, num_classes, width, numerics, options)
    for flag in ("pool", "drop_path", "dropout"):
        if getattr(options, flag) not in (Options.__dict__[flag], getattr(network.options, flag)):
            raise UserError(f"--{flag}={getattr(options, flag)} is not for {name}, which has no such thing")
    network = dataclasses.replace(network, numerics=numerics, channels=channels)
    if head == heads.OWN:
        return network
    return dataclasses.replace(
        network,
        head=heads.build(head, num_classes, numerics, network.pooling),
        head_name=head,
        torch_names=dataclasses.replace(
            network.torch_names, head=heads.TORCH_NAMES[head], pointwise_classifier=False
        ),
        other_torch_names=(),
    )


def with_norm_momentum(network: Network, norm_momentum: float) -> Network:
    """The network, pruned as it is, with another batch-norm momentum; errors as of :func:`create`."""
    return with_settings(network, norm_momentum=norm_momentum)


def with_head(network: Network, num_classes: int, head: str) -> Network:
    """The network, pruned as it is, with another head; arguments as of :func:`create`."""
    return with_settings(network, num_classes=num_classes, head=head)


def with_settings(network: Network, **changes: Any) -> Network:
    """The network, pruned as it is, with some settings of :func:`create` changed; errors as there.

    An image size says nothing to a network whose parameters do not depend on it.
    """
    numerics = dataclasses.asdict(network.numerics)
    options = {**dataclasses.asdict(network.options), "image_size": network.image_size}
    network_settings = {"head": network.head_name, "width": network.width, "channels": network.channels}
    settings = {**network_settings, **numerics, **options, **changes}
    whole = create(network.architecture, settings.pop("num_classes", network.num_classes), **settings)
    return dataclasses.replace(whole, blocks=whole.blocks[: len(network.blocks)])
