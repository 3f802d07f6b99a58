"""3×3 maximum with stride 2, with a gradient that is fast on CPU.

XLA on CPU looks for the largest pixel of each window a second time in the gradient, along with its index, and
scatters; remembering which of the nine it was is several times faster (measured in docs/lab/performance.md).
Accelerators get the gradient that JAX derives. Of equal pixels the first gets all of it, as in PyTorch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.layers.convolution import Pads

_SIZE, _STRIDE = 3, 2
_TAPS = [(row, column) for row in range(_SIZE) for column in range(_SIZE)]


def max_pool(x: jax.Array, pads: Pads) -> jax.Array:
    """Largest value of each 3×3 window, ``[B, H, W, C] → [B, H', W', C]``; padding never wins."""
    if jax.default_backend() != "cpu":
        return _plain(pads, x)
    # XLA on CPU has no fast comparisons of bfloat16.
    return _remembering(pads, x.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(x.dtype)


def _plain(pads: Pads, x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (_SIZE, _SIZE), (_STRIDE, _STRIDE), pads)


_remembering = jax.custom_vjp(_plain, nondiff_argnums=(0,))


def _forward(pads: Pads, x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    rows, columns = ((side - _SIZE) // _STRIDE * _STRIDE + 1 for side in padded.shape[1:3])
    nine = [
        padded[:, row : row + rows : _STRIDE, column : column + columns : _STRIDE] for row, column in _TAPS
    ]
    largest, winner = nine[0], jnp.zeros(nine[0].shape, jnp.int8)
    for tap, pixels in enumerate(nine[1:], start=1):
        winner = jnp.where(pixels > largest, jnp.int8(tap), winner)
        largest = jnp.maximum(largest, pixels)
    # An array of no examples carries the shape of x to the gradient.
    return largest, (winner, x[:0])


def _backward(pads: Pads, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    winner, like_x = saved
    zero = jnp.zeros((), gradient.dtype)
    parts = []
    for tap, taken in enumerate(_TAPS):
        # From each output to the pixel it was taken from; a negative padding cuts off what x was padded with.
        spread = [
            (offset - before, side - (offset - before) - _STRIDE * (outputs - 1) - 1, _STRIDE - 1)
            for offset, (before, _), side, outputs in zip(
                taken, pads, like_x.shape[1:3], winner.shape[1:3], strict=True
            )
        ]
        tap_gradient = jnp.where(winner == tap, gradient, zero)
        parts.append(jax.lax.pad(tap_gradient, zero, [(0, 0, 0), *spread, (0, 0, 0)]))
    return (sum(parts[1:], start=parts[0]),)


_remembering.defvjp(_forward, _backward)
