"""The exact GELU, ``x Φ(x)``, with a gradient that needs ``x`` alone and is one pass over it.

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016). What JAX derives keeps three arrays for the
backward pass and reads each of them.
"""

import math

import jax
import jax.numpy as jnp

from finetune_jax.models.layers.batch_norm import at_least_float32


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Like ``x``, computed in at least float32.

    >>> gelu(jnp.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.1587, 0.0, 0.8413]
    """
    wide = x.astype(at_least_float32(x))
    return (wide * _share(wide)).astype(x.dtype)


def gelu_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """``gradient`` by the result, as one by ``x``."""
    wide = x.astype(at_least_float32(x))
    density = jnp.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
    return (gradient.astype(wide.dtype) * (_share(wide) + wide * density)).astype(x.dtype)


def _share(x: jax.Array) -> jax.Array:
    """``Φ(x)``, the distribution function of the standard normal distribution."""
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


gelu.defvjp(lambda x: (gelu(x), x), lambda x, gradient: (gelu_gradient(x, gradient),))
