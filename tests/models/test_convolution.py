"""Convolutions with gradients of our own on CPU: against XLA's convolution and its gradients, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax.models.layers.basic import Conv

CASES = [
    # kernel size, stride, image, channels in, channels out, batch
    (1, 1, (5, 4), 3, 6, 2),
    (1, 2, (5, 4), 6, 3, 3),
    (1, 1, (32, 33), 2, 3, 2),
    (3, 1, (5, 4), 2, 3, 2),
    # more examples than one piece holds
    (3, 2, (5, 6), 3, 2, 35),
    (7, 2, (9, 8), 1, 2, 3),
    (7, 2, (4, 9), 1, 2, 3),
    (3, 3, (8, 7), 2, 3, 2),
    # the kernel covers the image, in one direction or both
    (3, 1, (1, 1), 2, 3, 2),
    (3, 1, (2, 2), 2, 3, 2),
    (3, 1, (1, 4), 2, 3, 2),
    (3, 2, (2, 2), 2, 3, 2),
    (3, 2, (3, 3), 2, 3, 2),
    (5, 1, (2, 3), 2, 3, 2),
    (7, 2, (3, 2), 2, 3, 2),
    (3, 4, (2, 9), 2, 3, 2),
    (3, 1, (2, 2), 2, 3, 0),
]


def random(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape))


def layer_and_inputs(case, dtype=jnp.float64):
    size, stride, image, inputs, outputs, batch = case
    layer = Conv(outputs, size, stride, dtype=dtype)
    return layer, random(size, size, inputs, outputs), random(batch, *image, inputs)


def plain(case, kernel, x):
    size, stride = case[:2]
    pads = [(size // 2, size // 2)] * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def weighted(y):
    """A loss whose gradient and curvature differ from output to output."""
    return (jnp.sin(y) * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum()


def assert_same(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_plain_convolution(case):
    with jax.enable_x64(True):
        layer, kernel, x = layer_and_inputs(case)

        def ours(kernel, x):
            return weighted(layer.apply({"params": {"kernel": kernel}}, x))

        def theirs(kernel, x):
            return weighted(plain(case, kernel, x))

        assert_same(*(jax.jit(jax.value_and_grad(loss, (0, 1)))(kernel, x) for loss in (ours, theirs)))


@pytest.mark.parametrize("case", CASES)
def test_second_derivatives_are_those_of_the_plain_convolution(case):
    with jax.enable_x64(True):
        layer, kernel, x = layer_and_inputs(case)

        def slope(loss):
            return jax.grad(lambda *at: sum((g**2).sum() for g in jax.grad(loss, (0, 1))(*at)), (0, 1))

        ours = slope(lambda kernel, x: weighted(layer.apply({"params": {"kernel": kernel}}, x)))
        theirs = slope(lambda kernel, x: weighted(plain(case, kernel, x)))
        assert_same(jax.jit(ours)(kernel, x), jax.jit(theirs)(kernel, x))


@pytest.mark.parametrize("case", CASES)
def test_several_networks_side_by_side_have_the_gradients_of_each(case):
    with jax.enable_x64(True):
        layer, kernel, x = layer_and_inputs(case)
        kernels = jnp.stack([kernel, 2 - kernel])

        def gradients(kernel, x):
            return jax.grad(lambda *at: weighted(layer.apply({"params": {"kernel": at[0]}}, at[1])), (0, 1))(
                kernel, x
            )

        together = jax.jit(jax.vmap(gradients, (0, None)))(kernels, x)
        each = jax.jit(gradients)
        assert_same(together, jax.tree.map(lambda *leaves: np.stack(leaves), *(each(k, x) for k in kernels)))


@pytest.mark.parametrize("case", CASES)
def test_accelerators_get_gradients_that_jax_derives(case, monkeypatch):
    layer, kernel, x = layer_and_inputs(case, jnp.float32)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    program = jax.make_jaxpr(layer.apply)({"params": {"kernel": kernel}}, x)
    assert "custom_vjp" not in str(program)
