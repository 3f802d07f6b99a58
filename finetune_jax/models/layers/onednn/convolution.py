"""Convolution by oneDNN with its gradients, for ``jax.jit``, ``jax.vmap`` and ``jax.grad``."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.custom_batching import custom_vmap

from finetune_jax.models.layers.onednn import descriptions, library, xla_call
from finetune_jax.models.layers.onednn.descriptions import Convolution, Finish, Kind

_Pair = tuple[jax.Array, jax.Array]


def serves(convolution: Convolution, *arrays: jax.Array) -> bool:
    """Whether the library is installed, and fast at this convolution of such arrays and both its gradients."""
    return all(x.dtype == convolution.dtype for x in arrays) and _has(convolution)


@functools.cache
def finishes(convolution: Convolution, finish: Finish) -> bool:
    """Whether the library, which :func:`serves` the convolution, can do what follows in the same call."""
    loaded = library.load()
    if loaded is None:
        return False
    try:
        loaded.description("forward", convolution, finish)
    except descriptions.OneDNNError:
        return False
    return True


@functools.cache
def _has(convolution: Convolution) -> bool:
    loaded = library.load()
    sizes = (*convolution.images, *convolution.kernel, *convolution.outputs)
    if loaded is None or min(sizes) < 1 or min(map(min, convolution.pads)) < 0:
        return False
    if not loaded.has_type(convolution.dtype):
        return False
    try:
        for kind in descriptions.KINDS:
            loaded.description(kind, convolution)
    except descriptions.OneDNNError:
        return False
    return True


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve(convolution: Convolution, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``x [B, H, W, I]`` with ``kernel [h, w, I / groups, O]``, ``[B, H', W', O]``; shapes as described."""
    return _call("forward", convolution, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def by_input(convolution: Convolution, gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """Gradient by the images, from that of the outputs."""
    return _call("by_input", convolution, gradient, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def by_kernel(convolution: Convolution, x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Gradient by the kernel, from that of the outputs."""
    return _call("by_kernel", convolution, x, gradient)


# Each of the three is linear in both of its arguments, and they are each other's gradients.


def _convolve_backward(convolution: Convolution, saved: _Pair, gradient: jax.Array) -> _Pair:
    x, kernel = saved
    return by_input(convolution, gradient, kernel), by_kernel(convolution, x, gradient)


def _by_input_backward(convolution: Convolution, saved: _Pair, x: jax.Array) -> _Pair:
    gradient, kernel = saved
    return convolve(convolution, x, kernel), by_kernel(convolution, x, gradient)


def _by_kernel_backward(convolution: Convolution, saved: _Pair, kernel: jax.Array) -> _Pair:
    x, gradient = saved
    return by_input(convolution, gradient, kernel), convolve(convolution, x, kernel)


convolve.defvjp(lambda c, x, kernel: (convolve(c, x, kernel), (x, kernel)), _convolve_backward)
by_input.defvjp(
    lambda c, gradient, kernel: (by_input(c, gradient, kernel), (gradient, kernel)), _by_input_backward
)
by_kernel.defvjp(lambda c, x, gradient: (by_kernel(c, x, gradient), (x, gradient)), _by_kernel_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def convolve_and_finish(
    convolution: Convolution, finish: Finish, composed: Callable[..., jax.Array], *operands: jax.Array
) -> jax.Array:
    """The convolution and what follows it, in one call.

    Args:
        convolution: shapes.
        finish: what follows.
        composed: the same as operations of JAX, whose gradients this has, and which serves several at once.
        operands: images and kernel, as for :func:`convolve`, factor, offset, and, if there is one, residual.
    """

    @custom_vmap
    def operation(*operands: jax.Array) -> jax.Array:
        return xla_call.call("forward", convolution, *operands, finish=finish)

    @operation.def_vmap
    def mapped(size: int, batched: list[bool], *operands: jax.Array) -> tuple[jax.Array, bool]:
        return jax.vmap(composed, [0 if is_batched else None for is_batched in batched])(*operands), True

    return operation(*operands)


def _finished_forward(
    convolution: Convolution, finish: Finish, composed: Callable[..., jax.Array], *operands: jax.Array
) -> tuple[jax.Array, Any]:
    return jax.vjp(composed, *operands)


def _finished_backward(
    convolution: Convolution,
    finish: Finish,
    composed: Callable[..., jax.Array],
    pullback: Any,
    gradient: jax.Array,
) -> tuple[jax.Array, ...]:
    return pullback(gradient)


convolve_and_finish.defvjp(_finished_forward, _finished_backward)


def _call(kind: Kind, convolution: Convolution, first: jax.Array, second: jax.Array) -> jax.Array:
    @custom_vmap
    def operation(first: jax.Array, second: jax.Array) -> jax.Array:
        return xla_call.call(kind, convolution, first, second)

    @operation.def_vmap
    def mapped(size: int, batched: list[bool], first: jax.Array, second: jax.Array) -> tuple[jax.Array, bool]:
        if kind != "by_kernel" and batched == [True, False]:
            # One kernel for all: more images.
            count, *rest = convolution.images
            larger = dataclasses.replace(convolution, images=(size * count, *rest))
            results = _call(kind, larger, first.reshape(-1, *first.shape[2:]), second)
            return results.reshape(size, count, *results.shape[1:]), True
        axes = [0 if is_batched else None for is_batched in batched]
        return jax.vmap(functools.partial(xla_call.call, kind, convolution), axes)(first, second), True

    return operation(first, second)
