"""Attention between tokens: each takes a weighted mean of the values of all, the weights from queries and keys.

Source: Vaswani et al., "Attention Is All You Need" (NeurIPS 2017). The softmax is in float32 whatever the compute
type. The functions that end in ``layers`` make their layers in the module that calls them.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from finetune_jax.models.layers.basic import Dtype
from finetune_jax.models.layers.batch_norm import at_least_float32
from finetune_jax.models.layers.convolution import runs_on_cpu
from finetune_jax.models.layers.linear import Bias, Linear
from finetune_jax.models.layers.onednn import attention as onednn
from finetune_jax.models.layers.onednn.descriptions import Attention
from finetune_jax.models.layers.positions import Rotation, rotate

# From so many on, oneDNN is worth its calls: a few for each image.
_PRODUCTS_WORTH_A_CALL = 2**23

QueryBias = Literal["all", "none", "query_value"]
"""Which of queries, keys and values have a bias."""


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """``softmax(q kᵀ / √d) v`` for each image and head.

    Args:
        query: ``[B, T, H, d]``.
        key: ``[B, S, H, d]``.
        value: ``[B, S, H, d]``.

    Returns:
        ``[B, T, H, d]`` of the type of ``value``.
    """
    if not runs_on_cpu():
        # cuDNN's fused attention takes half precision alone; its rules on shapes are JAX's to know.
        half = value.dtype in (jnp.bfloat16, jnp.float16)
        fused = (
            jax.default_backend() == "gpu" and half and value.shape[-1] % 8 == 0 and value.shape[-1] <= 128
        )
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn" if fused else None)
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    return _attend(*(x.swapaxes(1, 2) for x in (query, key, value))).swapaxes(1, 2)


@jax.custom_vjp
def _attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """``[B, H, T, d]``, ``[B, H, S, d]``, ``[B, H, S, d] → [B, H, T, d]``, queries scaled already.

    Written down for CPU, with its gradient: the weights are divided by their sums behind the product with the values,
    which has fewer numbers than the weights have, and so in the backward pass.
    """
    return _attend_forward(query, key, value)[0]


def _attend_forward(
    query: jax.Array, key: jax.Array, value: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    wide = at_least_float32(value)
    scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=wide)
    # Any shift gives the same result, so none has a gradient.
    powers = jnp.exp(scores - scores.max(-1, keepdims=True))
    sums = powers.sum(-1, keepdims=True)
    powers = powers.astype(value.dtype)
    y = jnp.einsum("bhts,bhsd->bhtd", powers, value, preferred_element_type=wide) / sums
    y = y.astype(value.dtype)
    return y, (query, key, value, powers, sums, y)


def _attend_backward(saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, ...]:
    query, key, value, powers, sums, y = saved
    shared = (gradient.astype(sums.dtype) / sums).astype(gradient.dtype)
    by_value = jnp.einsum("bhts,bhtd->bhsd", powers, shared)
    # What the sum of a row's weights takes back from each of them.
    common = (shared.astype(sums.dtype) * y.astype(sums.dtype)).sum(-1, keepdims=True)
    by_powers = jnp.einsum("bhtd,bhsd->bhts", shared, value, preferred_element_type=sums.dtype)
    by_scores = (powers * (by_powers - common)).astype(query.dtype)
    return (
        jnp.einsum("bhts,bhsd->bhtd", by_scores, key),
        jnp.einsum("bhts,bhtd->bhsd", by_scores, query),
        by_value,
    )


_attend.defvjp(_attend_forward, _attend_backward)


def attend_among(joint: jax.Array) -> jax.Array:
    """:func:`attend` of tokens among themselves.

    Args:
        joint: queries, keys and values, ``[B, S, 3, H, d]``.

    Returns:
        ``[B, S, H, d]``.
    """
    if runs_on_cpu() and joint.dtype == jnp.float32:
        images, tokens, _, heads, channels = joint.shape
        shapes = Attention(images, tokens, heads, channels)
        products = images * heads * tokens**2 * channels
        if products >= _PRODUCTS_WORTH_A_CALL and onednn.serves(shapes):
            return onednn.attend(shapes, _attend_apart, joint)
    return _attend_apart(joint)


def _attend_apart(joint: jax.Array) -> jax.Array:
    return attend(joint[:, :, 0], joint[:, :, 1], joint[:, :, 2])


def self_attention_layers(
    x: jax.Array,
    heads: int,
    *,
    bias: QueryBias = "all",
    rotation: Rotation | None = None,
    dtype: Dtype = jnp.float32,
    residual: jax.Array | None = None,
) -> jax.Array:
    """Attention of tokens ``x [B, S, C]`` among themselves: one matrix ``qkv`` for all three, then ``proj``.

    ``residual``, like ``x``, is added to the result.
    """
    channels = x.shape[-1]
    joint = Linear(3 * channels, bias == "all", dtype, name="qkv")(x)
    if bias == "query_value":
        added = [
            Bias(channels, name="query_bias")(),
            jnp.zeros(channels),
            Bias(channels, name="value_bias")(),
        ]
        joint = joint + jnp.concatenate(added).astype(dtype)
    joint = joint.reshape(*x.shape[:2], 3, heads, channels // heads)
    if rotation is not None:
        turned = [rotate(joint[:, :, which], rotation)[:, :, None] for which in range(2)]
        joint = jnp.concatenate([*turned, joint[:, :, 2:]], axis=2)
    y = attend_among(joint).reshape(x.shape)
    return Linear(channels, dtype=dtype, name="proj")(y, residual=residual)


def pooling_attention_layers(x: jax.Array, latent: jax.Array, heads: int, dtype: Dtype) -> jax.Array:
    """What one learned token ``latent [1, C]`` finds in tokens ``x [B, S, C]``, ``[B, C]``."""
    channels = x.shape[-1]
    query = Linear(channels, dtype=dtype, name="map_query")(latent.astype(dtype))
    joint = Linear(2 * channels, dtype=dtype, name="map_key_value")(x)
    joint = joint.reshape(*x.shape[:2], 2, heads, channels // heads)
    query = jnp.broadcast_to(query.reshape(1, 1, heads, -1), (x.shape[0], 1, heads, channels // heads))
    y = attend(query, joint[:, :, 0], joint[:, :, 1]).reshape(x.shape[0], channels)
    return Linear(channels, dtype=dtype, name="map_proj")(y)
