"""Attention of tokens among themselves by oneDNN, for ``jax.jit``, ``jax.vmap``, ``jax.grad``."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from finetune_jax.models.layers.onednn import attention_steps, library, xla_call
from finetune_jax.models.layers.onednn.descriptions import Attention, AttentionKind, OneDNNError

Composed = Callable[[jax.Array], jax.Array]
"""``[B, S, 3, H, d] → [B, S, H, d]`` as operations of JAX."""


@functools.cache
def serves(attention: Attention) -> bool:
    """Whether the library is installed, and has these products and their gradients."""
    loaded = library.load()
    if loaded is None or 0 in attention.joint:
        return False
    try:
        for kind in ("attend", "gradient"):
            attention_steps.primitive(loaded, kind, attention)
    except OneDNNError:
        return False
    return True


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(attention: Attention, composed: Composed, joint: jax.Array) -> jax.Array:
    """``softmax(q kᵀ / √d) v`` of ``joint [B, S, 3, H, d]`` float32, ``[B, S, H, d]``.

    Args:
        attention: shapes.
        composed: the same as operations of JAX, for second derivatives.
        joint: queries, keys and values.
    """
    y: jax.Array = _call("attend", attention, joint)
    return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _keep(attention: Attention, composed: Composed, joint: jax.Array) -> tuple[jax.Array, jax.Array]:
    """:func:`attend`, and the shares for its gradient, which count as constants."""
    y, shares = _call("keep", attention, joint)
    return y, shares


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_joint(
    attention: Attention, composed: Composed, joint: jax.Array, shares: jax.Array, gradient: jax.Array
) -> jax.Array:
    slopes: jax.Array = _call("gradient", attention, joint, shares, gradient)
    return slopes


def _forward(attention: Attention, composed: Composed, joint: jax.Array) -> tuple[jax.Array, Any]:
    y, shares = _keep(attention, composed, joint)
    return y, (joint, shares)


def _keep_forward(attention: Attention, composed: Composed, joint: jax.Array) -> tuple[Any, Any]:
    y, shares = _keep(attention, composed, joint)
    return (y, shares), (joint, shares)


def _backward(attention: Attention, composed: Composed, saved: Any, gradient: jax.Array) -> tuple[jax.Array]:
    return (_by_joint(attention, composed, *saved, gradient),)


def _keep_backward(
    attention: Attention, composed: Composed, saved: Any, gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array]:
    return _backward(attention, composed, saved, gradients[0])


def _by_joint_forward(
    attention: Attention, composed: Composed, joint: jax.Array, shares: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, Any]:
    slopes = _by_joint(attention, composed, joint, shares, gradient)
    return slopes, (joint, shares, gradient)


def _by_joint_backward(
    attention: Attention, composed: Composed, saved: Any, slopes: jax.Array
) -> tuple[jax.Array, ...]:
    joint, shares, gradient = saved

    def by_joint(joint: jax.Array, gradient: jax.Array) -> jax.Array:
        (result,) = jax.vjp(composed, joint)[1](gradient)
        return result

    by_itself, by_gradient = jax.vjp(by_joint, joint, gradient)[1](slopes)
    return by_itself, jnp.zeros_like(shares), by_gradient


attend.defvjp(_forward, _backward)
_keep.defvjp(_keep_forward, _keep_backward)
_by_joint.defvjp(_by_joint_forward, _by_joint_backward)


def _call(kind: AttentionKind, attention: Attention, *operands: jax.Array) -> Any:
    @custom_vmap
    def operation(*operands: jax.Array) -> Any:
        return xla_call.call_attention(kind, attention, *operands)

    @operation.def_vmap
    def mapped(size: int, batched: list[bool], *operands: jax.Array) -> Any:
        # There are no weights, so several runs are more images.
        larger = Attention(size * attention.images, attention.tokens, attention.heads, attention.channels)
        several = [
            x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            for x, is_batched in zip(operands, batched, strict=True)
        ]
        results = _call(kind, larger, *[x.reshape(-1, *x.shape[2:]) for x in several])
        apart = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
        return apart, jax.tree.map(lambda _: True, apart)

    return operation(*operands)
