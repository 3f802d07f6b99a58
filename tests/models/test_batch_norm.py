"""Batch normalisation with what follows it, against NumPy, differences, and the gradients that JAX derives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from finetune_jax.models.layers import batch_norm

ACTIVATIONS = ["none", "relu", "relu6"]
SHAPE = (6, 3, 4, 5)
EPSILON = 1e-3


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def operands(residual, dtype=np.float64, spread=3.0):
    rng = np.random.default_rng(0)
    x, other = (jnp.asarray(rng.normal(0.5, spread, SHAPE), dtype) for _ in range(2))
    scale, bias = (jnp.asarray(rng.normal(1, 0.5, SHAPE[-1])) for _ in range(2))
    return (x, scale, bias, *([other] if residual else []))


def in_numpy(activation, x, scale, bias, residual=0.0):
    x = np.asarray(x, np.float64)
    rows = x.reshape(-1, x.shape[-1])
    y = (x - rows.mean(0)) / np.sqrt(rows.var(0) + EPSILON) * scale + bias + np.asarray(residual, np.float64)
    return {"none": y, "relu": np.maximum(y, 0), "relu6": np.clip(y, 0, 6)}[activation]


def derived(activation, x, scale, bias, *residual):
    """The same in operations of JAX, which derives their gradient."""
    mean = x.mean((0, 1, 2))
    y = (x - mean) / jnp.sqrt(jnp.square(x - mean).mean((0, 1, 2)) + EPSILON) * scale + bias
    y = sum(residual, start=y)
    return y if activation == "none" else jax.nn.relu(y) if activation == "relu" else jax.nn.relu6(y)


def ours(activation, *given, axis_name=None):
    return batch_norm.normalise(activation, EPSILON, axis_name, *given)[0]


def slopes():
    return jnp.asarray(np.random.default_rng(1).normal(size=SHAPE))


def gradients(function, given):
    @jax.jit
    def pulled_back(slopes, *given):
        y, pullback = jax.vjp(function, *given)
        return pullback(slopes.astype(y.dtype))

    return pulled_back(slopes(), *given)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
def test_values_and_statistics_are_those_of_the_formula(activation, residual):
    given = operands(residual)
    y, (mean, var) = jax.jit(functools.partial(batch_norm.normalise, activation, EPSILON, None))(*given)
    np.testing.assert_allclose(y, in_numpy(activation, *given), rtol=1e-10, atol=1e-10)
    rows = np.asarray(given[0]).reshape(-1, SHAPE[-1])
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-10)
    np.testing.assert_allclose(var, rows.var(0), rtol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
def test_gradients_equal_derived_ones_and_differences(activation, residual):
    given = operands(residual)
    found = gradients(functools.partial(ours, activation), given)
    for own, expected in zip(found, gradients(functools.partial(derived, activation), given), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-8, atol=1e-10)
    rng = np.random.default_rng(2)
    for place, value in enumerate(given):
        direction = 1e-6 * rng.normal(size=value.shape)
        high, low = (
            (
                in_numpy(activation, *given[:place], value + sign * direction, *given[place + 1 :]) * slopes()
            ).sum()
            for sign in (1, -1)
        )
        along = (found[place] * direction).sum()
        np.testing.assert_allclose((high - low) / 2, along, rtol=1e-4)


def test_second_derivatives_equal_derived_ones():
    given, direction = operands(True), operands(True, spread=1.0)

    def along(function, *given):
        scalar = lambda *given: jnp.sin(function(*given)).sum()  # noqa: E731
        return sum(
            (g * d).sum() for g, d in zip(jax.grad(scalar, (0, 1, 2, 3))(*given), direction, strict=True)
        )

    for one, other in zip(
        *(
            jax.jit(jax.grad(functools.partial(along, functools.partial(form, "relu")), (0, 1, 2, 3)))(*given)
            for form in (ours, derived)
        ),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_replicas_that_share_statistics_have_the_gradients_of_the_whole_batch(activation):
    x, scale, bias, residual = operands(True)
    devices = 3
    mesh = Mesh(np.array(jax.devices()[:devices]), ("replicas",))

    def local(x, residual, slope):
        run = functools.partial(ours, activation, axis_name="replicas")
        y, pullback = jax.vjp(run, x, scale, bias, residual)
        by_x, by_scale, by_bias, by_residual = pullback(slope)
        return y, by_x, by_residual, jax.lax.psum((by_scale, by_bias), "replicas")

    split, whole = PartitionSpec("replicas"), PartitionSpec()
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(split, split, split),
        out_specs=(split, split, split, (whole, whole)),
        check_vma=False,
    )
    y, by_x, by_residual, (by_scale, by_bias) = jax.jit(mapped)(x, residual, slopes())
    expected = gradients(functools.partial(derived, activation), (x, scale, bias, residual))
    np.testing.assert_allclose(y, in_numpy(activation, x, scale, bias, residual), rtol=1e-10, atol=1e-10)
    for own, other in zip((by_x, by_scale, by_bias, by_residual), expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bfloat16_rounds_operands_and_results_alone(activation):
    x, scale, bias, residual = operands(True, jnp.bfloat16)
    given = (x, scale.astype(np.float32), bias.astype(np.float32), residual)
    run = jax.jit(functools.partial(ours, activation))
    y = run(*given)
    assert y.dtype == jnp.bfloat16
    exact = [np.asarray(value, np.float64) for value in given]
    np.testing.assert_allclose(np.asarray(y, np.float64), in_numpy(activation, *exact), rtol=2**-7, atol=1e-3)
    found = gradients(run, given)
    assert [value.dtype for value in found] == [jnp.bfloat16, np.float32, np.float32, jnp.bfloat16]
    # The slopes are rounded too, and a result that rounds to 6 has none.
    slope = slopes().astype(jnp.bfloat16).astype(np.float64)
    kept = (np.asarray(y) < 6) | (activation != "relu6")
    _, pullback = jax.vjp(functools.partial(derived, activation), *map(jnp.asarray, exact))
    for own, expected in zip(found, pullback(slope * kept), strict=True):
        np.testing.assert_allclose(np.asarray(own, np.float64), expected, rtol=2**-6, atol=2e-2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, jnp.bfloat16])
def test_gradients_have_the_types_of_their_operands(dtype):
    x, scale, bias, residual = operands(True, dtype)
    given = (x, scale.astype(np.float32), bias.astype(np.float32), residual)
    assert [g.dtype for g in gradients(functools.partial(ours, "relu"), given)] == [g.dtype for g in given]


@pytest.mark.parametrize(("activation", "edges"), [("relu", (0.0,)), ("relu6", (0.0, 6.0))])
def test_at_its_edges_an_activation_has_no_slope_whichever_statistics_are_used(activation, edges):
    for edge in edges:
        x, one = jnp.full((1, 1), edge), jnp.ones(1)
        frozen = jax.grad(lambda x, one=one: batch_norm.finish(activation, x, one, 0 * one).sum())(x)
        assert frozen == 0
        _, pullback = jax.vjp(functools.partial(ours, activation), x, one, one * edge)
        assert all(not gradient.any() for gradient in pullback(x + 1))


def test_a_channel_without_variance_has_finite_gradients():
    x, scale, bias = operands(False)
    x = x.at[..., 0].set(7.0)
    for value in gradients(functools.partial(ours, "relu"), (x, scale, bias)):
        assert np.isfinite(value).all()


def test_in_bfloat16_no_sum_has_its_operands_stored_in_float32():
    """XLA on CPU stores what several programs read, and would convert for all of them at once."""
    shape = (8, 32, 32, 16)
    x = jnp.ones(shape, jnp.bfloat16)
    scale = jnp.ones(16, np.float32)

    def step(x, scale, bias, slope):
        y, pullback = jax.vjp(functools.partial(ours, "relu"), x, scale, bias)
        return y, pullback(slope)

    memory = jax.jit(step).lower(x, scale, scale, x).compile().memory_analysis()
    # Room for the masked slopes; one operand in float32 would be twice as large.
    assert memory.temp_size_in_bytes < 1.5 * x.size * x.dtype.itemsize
