"""The maximum with a gradient of our own on CPU, against XLA's and the definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax.models.layers.basic import symmetric
from finetune_jax.models.layers.pooling import max_pool

# Few different values, so that most windows have several largest pixels.
IMAGES = [np.random.default_rng(side).integers(-2, 3, (2, side, side + 1, 3)) * 1.0 for side in (5, 6)]


def by_definition(x, slope, padding):
    """Values, and the gradient for ``x`` given that of the values; a loop over windows."""
    batch, height, width, channels = x.shape
    rows, columns = ((side + 2 * padding - 3) // 2 + 1 for side in (height, width))
    y, by_x = np.zeros((batch, rows, columns, channels)), np.zeros_like(x)
    for b, i, j, c in np.ndindex(y.shape):
        at = [
            (row, column)
            for row in range(2 * i - padding, 2 * i - padding + 3)
            for column in range(2 * j - padding, 2 * j - padding + 3)
            if 0 <= row < height and 0 <= column < width
        ]
        first = max(at, key=lambda place: x[b, *place, c])
        y[b, i, j, c] = x[b, *first, c]
        by_x[b, *first, c] += slope(i, j)
    return y, by_x


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("x", IMAGES, ids=["odd", "even"])
def test_the_first_of_the_largest_pixels_gets_the_gradient(x, padding):
    @jax.jit
    def values_and_gradient(x):
        y, pull_back = jax.vjp(lambda x: max_pool(x, symmetric(padding)), x)
        _, rows, columns, _ = y.shape
        slopes = 1 + jnp.arange(rows)[:, None] + 10.0 * jnp.arange(columns)
        return y, pull_back(jnp.broadcast_to(slopes[..., None], y.shape))[0]

    expected, by_x = by_definition(x, lambda i, j: 1 + i + 10 * j, padding)
    y, gradient = values_and_gradient(jnp.asarray(x, jnp.float32))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(gradient, by_x)


def test_second_derivatives_and_several_networks_side_by_side_agree_with_the_plain_form():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 6, 5, 2)), jnp.float32)

    def slope(pool):
        def loss(x):
            return jnp.sin(pool(x)).sum()

        return jax.jit(jax.vmap(jax.grad(lambda x: (jax.grad(loss)(x) ** 2).sum())))(x)

    plain = slope(lambda x: nn.max_pool(x, (3, 3), (2, 2), symmetric(1)))
    np.testing.assert_allclose(slope(lambda x: max_pool(x, symmetric(1))), plain, rtol=1e-5, atol=1e-6)


def test_a_value_that_is_not_a_number_stays_visible():
    x = jnp.zeros((1, 5, 5, 1)).at[0, 3, 3, 0].set(jnp.nan)
    y, _ = jax.vjp(lambda x: max_pool(x, symmetric(1)), x)
    assert jnp.isnan(y).sum() == 4
