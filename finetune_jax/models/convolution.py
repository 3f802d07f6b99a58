"""1×1 convolution whose gradients XLA runs fast on CPU.

The gradient that JAX derives for the kernel is a product ``gradientᵀ · x``, transposed afterwards; XLA on CPU
turns all of ``gradient`` round in memory for it and is then several times slower than at ``xᵀ · gradient``
(measured in docs/performance.md). Accelerators get the derived one.
"""

import jax
import jax.numpy as jnp


def pointwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Product over channels of ``x [B, H, W, I]`` and ``kernel [I, O]`` of the same dtype, ``[B, H, W, O]``."""
    if jax.default_backend() == "cpu":
        return _product(x, kernel)
    return jnp.einsum("bhwi,io->bhwo", x, kernel)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    by_kernel = x.reshape(-1, x.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])
    return gradient @ kernel.T, by_kernel


_product.defvjp(_forward, _backward)
