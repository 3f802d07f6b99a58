"""Dense layers, GELU, layer norm and attention with gradients of their own, against what NumPy and JAX derive."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onednn_cases import needs_library
from scipy import special

from finetune_jax.models.layers.attention import attend, attend_among
from finetune_jax.models.layers.dense import affine
from finetune_jax.models.layers.gelu import gelu
from finetune_jax.models.layers.layer_norm import layer_norm
from finetune_jax.models.layers.onednn import attention as onednn_attention
from finetune_jax.models.layers.onednn import xla_call
from finetune_jax.models.layers.onednn.descriptions import Attention

# Large enough to be worth a call, one as a product of matrices and one as a convolution of single pixels.
SHAPES = [(600, 384, 400), (4000, 96, 104)]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_near(found, expected) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_gelu_is_x_times_the_normal_distribution_function():
    x = np.linspace(-8, 8, 401)
    distribution = 0.5 * special.erfc(-x / math.sqrt(2))
    assert_near(gelu(jnp.asarray(x, jnp.float32)), x * distribution)
    slopes = jax.grad(lambda x: gelu(x).sum())(jnp.asarray(x, jnp.float32))
    assert_near(slopes, distribution + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))


def test_layer_norm_and_its_gradients_are_those_of_its_formula():
    x, scale, bias, weights = normal(0, 3, 5, 7) + 2, normal(1, 7), normal(2, 7), normal(3, 3, 5, 7)

    def by_formula(x, scale, bias):
        centred = x - x.mean(-1, keepdims=True)
        y = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias
        return (weights * y).sum()

    def own(x, scale, bias):
        return (weights * layer_norm(1e-5, x, scale, bias)).sum()

    with jax.enable_x64(True):
        wide = [jnp.asarray(a, jnp.float64) for a in (x, scale, bias)]
        expected = jax.jit(jax.value_and_grad(by_formula, argnums=(0, 1, 2)))(*wide)
        found = jax.jit(jax.value_and_grad(own, argnums=(0, 1, 2)))(*wide)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), found, expected)


def test_attention_and_its_gradients_are_those_of_the_softmax():
    query, key, value, weights = (normal(seed, 2, 6, 3, 4) for seed in range(4))
    key, value = key[:, :5], value[:, :5]

    def by_softmax(query, key, value):
        scores = jnp.einsum("bthd,bshd->bhts", query, key) / 2
        y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), value)
        return (weights * y).sum()

    with jax.enable_x64(True):
        wide = [jnp.asarray(a, jnp.float64) for a in (query, key, value)]
        expected = jax.jit(jax.value_and_grad(by_softmax, argnums=(0, 1, 2)))(*wide)
        own = jax.jit(jax.value_and_grad(lambda *x: (weights * attend(*x)).sum(), argnums=(0, 1, 2)))
        found = own(*wide)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), found, expected)


def test_attention_of_large_scores_is_finite():
    x = jnp.full((1, 4, 1, 8), 100.0)
    assert bool(jnp.isfinite(attend(x, x, x)).all())


def attention_by_formula(joint):
    query, key, value = (joint[:, :, which] for which in range(3))
    scores = jnp.einsum("bthd,bshd->bhts", query, key) / math.sqrt(query.shape[-1])
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), value)


@needs_library
def test_attention_of_tokens_among_themselves_is_one_call_each_way():
    joint, weights = normal(0, 3, 110, 3, 4, 64), normal(1, 3, 110, 4, 64)
    own, formula = (
        jax.jit(jax.value_and_grad(lambda x, f=f: (f(x) * weights).sum()))
        for f in (attend_among, attention_by_formula)
    )
    with jax.enable_x64(True):
        expected = formula(jnp.asarray(joint, jnp.float64))
    for found, right in zip(own(joint), expected, strict=True):
        assert_near(found, right)
    assert own.lower(joint).as_text().count(f"@{xla_call.TARGET}") == 2
    alone = jax.jit(attend_among)
    assert_near(alone(joint), attention_by_formula(joint))
    assert alone.lower(joint).as_text().count(f"@{xla_call.TARGET}") == 1


@needs_library
def test_attention_of_several_runs_and_its_second_derivatives_are_those_of_the_formula():
    shapes = Attention(2, 5, 3, 8)
    own = functools.partial(onednn_attention.attend, shapes, attention_by_formula)
    several = normal(0, 2, *shapes.joint)

    def slopes(attention):
        return jax.grad(lambda x: jnp.sin(attention(x)).sum())

    found, expected = (jax.jit(jax.vmap(slopes(f)))(several) for f in (own, attention_by_formula))
    assert_near(found, expected)
    bends = [
        jax.jit(jax.grad(lambda x, f=f: jnp.sin(slopes(f)(x)).sum())) for f in (own, attention_by_formula)
    ]
    assert_near(bends[0](several[0]), bends[1](several[0]))


def reference(activation, x, kernel, bias, *residual):
    y = x.astype(np.float64) @ kernel.astype(np.float64) + bias + sum(residual)
    return 0.5 * y * special.erfc(-y / math.sqrt(2)) if activation == "gelu" else y


@pytest.fixture
def calls(monkeypatch):
    """What is called of oneDNN while programs are traced."""
    made = []

    def call(kind, convolution, *operands, finish=None):
        made.append((kind, finish))
        return of_library(kind, convolution, *operands, finish=finish)

    of_library = xla_call.call
    monkeypatch.setattr(xla_call, "call", call)
    return made


@needs_library
@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_a_dense_layer_is_one_call_with_what_follows(calls, activation, with_residual, rows, inputs, outputs):
    x, kernel, bias = normal(0, rows, inputs), normal(1, inputs, outputs) / 10, normal(2, outputs)
    residual = (normal(3, rows, outputs),) if with_residual else ()
    found = jax.jit(functools.partial(affine, activation))(x, kernel, bias, *residual)
    assert_near(found, reference(activation, x, kernel, bias, *residual))
    ((kind, finish),) = calls
    assert (kind, finish.activation, finish.residual) == ("forward", activation, with_residual)


@needs_library
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_gradients_of_a_dense_layer(calls, activation):
    rows, inputs, outputs = SHAPES[0]
    x, kernel, bias = normal(0, rows, inputs), normal(1, inputs, outputs) / 10, normal(2, outputs)
    residual, weights = normal(3, rows, outputs), normal(4, rows, outputs)

    def plain(x, kernel, bias, residual):
        y = x @ kernel + bias + residual
        return (weights * (jax.nn.gelu(y, approximate=False) if activation == "gelu" else y)).sum()

    def own(*operands):
        return (weights * affine(activation, *operands)).sum()

    operands = (x, kernel, bias, residual)
    expected = jax.grad(plain, argnums=(0, 1, 2, 3))(*operands)
    found = jax.jit(jax.grad(own, argnums=(0, 1, 2, 3)))(*operands)
    jax.tree.map(assert_near, found, expected)
    assert {kind for kind, _ in calls} == {"forward", "by_input", "by_kernel"}


@needs_library
def test_dense_layers_of_several_runs_are_those_of_each():
    rows, inputs, outputs = SHAPES[0]
    x, kernels, bias = normal(0, 2, rows, inputs), normal(1, 2, inputs, outputs), normal(2, 2, outputs)
    layer = functools.partial(affine, "gelu")
    found = jax.jit(jax.vmap(layer))(x, kernels, bias)
    for one, *operands in zip(found, x, kernels, bias, strict=True):
        assert_near(one, reference("gelu", *operands))
