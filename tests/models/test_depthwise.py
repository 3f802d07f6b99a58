"""Depthwise convolutions: the forms for CPU against a loop and against XLA's grouped form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax.models.layers.basic import DepthwiseConv
from finetune_jax.models.layers.depthwise import depthwise_conv

CASES = [
    # kernel size, stride, padding, image, batch
    (3, 1, None, (5, 6), 2),
    (3, 2, None, (8, 7), 3),
    (3, 2, "SAME", (8, 7), 4),
    (5, 2, "SAME", (9, 4), 1),
    (5, 1, None, (2, 3), 6),
    # Large kernels over few pixels are products, over more a sum of shifted images.
    (7, 1, None, (4, 4), 3),
    (7, 1, None, (1, 1), 2),
    (7, 2, "SAME", (6, 5), 2),
    (5, 1, None, (9, 8), 2),
]


def layer_and_inputs(case, dtype=jnp.float32):
    size, stride, padding, image, batch = case
    layer = DepthwiseConv(size, stride, padding, dtype)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(batch, *image, 4)), jnp.float32)
    return layer, layer.init(jax.random.key(0), x), x


@pytest.mark.parametrize("case", CASES)
def test_every_output_is_the_weighted_sum_of_its_window(case):
    size, stride, padding, image, _ = case
    layer, variables, x = layer_and_inputs(case)
    y = np.asarray(jax.jit(layer.apply)(variables, x))
    kernel = np.asarray(variables["params"]["kernel"], np.float64)[:, :, 0]
    # TensorFlow's SAME puts an odd pixel of padding behind, and pads only as far as the last window needs.
    before = [
        max((-(-side // stride) - 1) * stride + size - side, 0) // 2 if padding else size // 2
        for side in image
    ]
    padded = np.zeros((len(x), image[0] + 3 * size, image[1] + 3 * size, 4))
    padded[:, before[0] : before[0] + image[0], before[1] : before[1] + image[1]] = x
    assert y.shape == (len(x), -(-image[0] // stride), -(-image[1] // stride), 4)
    for row, column in np.ndindex(y.shape[1:3]):
        window = padded[:, row * stride : row * stride + size, column * stride : column * stride + size]
        np.testing.assert_allclose(y[:, row, column], (window * kernel).sum((1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_form_for_accelerators_has_the_same_values_and_gradients(case, monkeypatch):
    layer, variables, x = layer_and_inputs(case)

    def loss(variables, x):
        y = layer.apply(variables, x)
        return (y * jnp.sin(jnp.arange(y.size).reshape(y.shape))).sum()

    shifted = jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, x)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    grouped = jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, x)
    assert "feature_group_count=4" in str(jax.make_jaxpr(loss)(variables, x))
    for ours, theirs in zip(jax.tree.leaves(shifted), jax.tree.leaves(grouped), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", [CASES[0], CASES[5]], ids=["shifts", "product"])
def test_half_precision_is_rounded_once(case):
    layer, variables, x = layer_and_inputs(case)
    half, _, _ = layer_and_inputs(case, jnp.bfloat16)

    def rounded(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), tree)

    expected = layer.apply(rounded(variables), rounded(x)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(half.apply(variables, x), expected)


def test_a_kernel_larger_than_an_image_without_padding_sees_nothing():
    y = depthwise_conv(jnp.ones((2, 3, 3, 4)), jnp.ones((5, 5, 1, 4)), 1, ((0, 0), (0, 0)))
    assert y.shape == (2, 0, 0, 4)
