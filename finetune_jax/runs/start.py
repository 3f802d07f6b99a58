"""The network that a run starts from."""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from finetune_jax.devices.replicas import AXIS
from finetune_jax.errors import UserError
from finetune_jax.models import registry
from finetune_jax.models.weights import pretrained


def load_origin(config: Any) -> pretrained.Pretrained:
    """The network a run starts from, with the origin's head; without weights for ``--pretrained=none``.

    Its batch-norm momentum is the default; that of a run may depend on its data.

    Raises:
        UserError: the weights are not to be had or do not fit.
    """
    settings = {
        "dtype": jnp.bfloat16 if config.bfloat16 else jnp.float32,
        "norm_axis": AXIS if config.sync_batch_norm else None,
        "rematerialise": config.rematerialise,
        "width": config.width,
        "pool": config.pool,
        "drop_path": config.drop_path,
        "dropout": config.dropout,
    }
    if config.pretrained == "none":
        network = registry.create(config.network or "resnet26", **settings)
        return pretrained.Pretrained(network, {})
    origin = pretrained.resolve(config.pretrained, architecture=config.network or None, **settings)
    if config.width not in (1.0, origin.network.width):
        raise UserError(
            f"--width={config.width:g} contradicts --pretrained={config.pretrained}, "
            f"which has width {origin.network.width:g}"
        )
    if config.network and origin.network.architecture != config.network:
        raise UserError(
            f"--network={config.network} contradicts --pretrained={config.pretrained}, "
            f"which is a {origin.network.architecture}"
        )
    if config.image_size and origin.network.tokens is not None:
        # A size that the patches do not divide is found now, and not when the images have been read.
        registry.with_settings(origin.network, image_size=config.image_size)
    if origin.description and jax.process_index() == 0:
        print(f"--pretrained={origin.description}", file=sys.stderr)
    return origin
