"""Convolutions of oneDNN: values and gradients are sums over the taps, in one call with what follows."""

import dataclasses
import functools
import platform
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onednn_cases import (
    CASE,
    DEPTHWISE,
    assert_close,
    calls_for_everything,
    needs_library,
    numbers,
    plain,
    reference,
    tensors,
)
from weights import random_variables

from finetune_jax import models
from finetune_jax.models.layers.basic import BatchNorm, Conv, conv_norm
from finetune_jax.models.layers.onednn import convolution as onednn
from finetune_jax.models.layers.onednn import descriptions, library, xla_call
from finetune_jax.models.layers.onednn.descriptions import Convolution, Finish

# Large enough to be a product of matrices.
PRODUCT = Convolution((3, 4, 5, 512), (1, 1, 512, 272), 1, ((0, 0), (0, 0)))
STRIDED_DEPTHWISE = dataclasses.replace(DEPTHWISE, stride=2)


# Of even sides, for which the library multiplies small matrices in gradients of strides.
STRIDED = Convolution((2, 8, 6, 80), (3, 3, 80, 72), 2, ((1, 1), (1, 1)))
WIDE = dataclasses.replace(STRIDED, images=(2, 8, 6, 144), kernel=(3, 3, 144, 72))


AVX512_BFLOAT16 = 0xE7  # of dnnl_types.h: avx512_core_bf16 without AMX


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the wheel is for Linux on x86-64"
)
def test_the_library_is_found_where_its_wheel_is_for():
    assert library.load() is not None


@st.composite
def convolutions(draw):
    size = functools.partial(st.integers, 1)
    rows, columns = draw(st.sampled_from([(1, 1), (3, 3), (1, 7), (5, 3)]))
    stride = draw(size(3))
    pads = tuple((draw(st.integers(0, rows // 2)), draw(st.integers(0, rows // 2))) for _ in range(2))
    shape = (draw(size(4)), draw(st.integers(7, 12)), draw(st.integers(7, 12)))
    if draw(st.booleans()):
        channels = draw(st.integers(2, 40))
        return Convolution((*shape, channels), (rows, columns, 1, channels), stride, pads, groups=channels)
    inputs, outputs = draw(size(70)), draw(size(70))
    return Convolution((*shape, inputs), (rows, columns, inputs, outputs), stride, pads)


@needs_library
@given(convolutions())
@example(WIDE)
@example(STRIDED)
@example(STRIDED_DEPTHWISE)
def test_values_and_gradients_are_sums_over_the_taps(convolution):
    x, kernel, gradient = tensors(convolution)
    assert onednn.serves(convolution, x, kernel)
    outputs, pullback = jax.vjp(functools.partial(onednn.convolve, convolution), x, kernel)
    for ours, theirs in zip(
        (outputs, *pullback(gradient)), reference(convolution, x, kernel, gradient), strict=True
    ):
        assert_close(ours, theirs)


@needs_library
def test_large_1x1_kernels_are_products_of_matrices():
    assert descriptions.is_product(PRODUCT)
    x, kernel, gradient = tensors(PRODUCT)
    outputs, pullback = jax.vjp(functools.partial(onednn.convolve, PRODUCT), x, kernel)
    for ours, theirs in zip(
        (outputs, *pullback(gradient)), reference(PRODUCT, x, kernel, gradient), strict=True
    ):
        assert_close(ours, theirs)
    for other in (
        dataclasses.replace(PRODUCT, stride=2),
        dataclasses.replace(PRODUCT, pads=((0, 1), (0, 0))),
        dataclasses.replace(PRODUCT, kernel=(1, 1, 512, 255)),
    ):
        assert not descriptions.is_product(other)


def finished(y, activation, factor, offset, residual=0.0):
    y = y * factor + offset + residual
    ceiling = {"none": np.inf, "relu": np.inf, "relu6": 6}[activation]
    return y if activation == "none" else np.clip(y, 0, ceiling)


def in_one_call(convolution, activation, with_residual):
    """What finishes a convolution, composed of JAX's operations, and both in one call."""

    def composed(x, kernel, factor, offset, *residual):
        y = plain(convolution, x, kernel) * factor + offset + sum(residual)
        y = jax.nn.relu(y) if activation != "none" else y
        return jnp.minimum(y, 6) if activation == "relu6" else y

    finish = Finish(activation, with_residual)
    return composed, functools.partial(onednn.convolve_and_finish, convolution, finish, composed)


def operands_of(convolution, with_residual):
    x, kernel, residual = tensors(convolution)
    x /= np.sqrt(np.prod(convolution.kernel[:3]))  # sums around 1
    factor, offset = (numbers(convolution.kernel[3], seed=seed) for seed in (5, 6))
    return [x, kernel, factor, offset, *([3 * residual] if with_residual else [])]


@needs_library
@given(convolutions(), st.sampled_from(["none", "relu", "relu6"]), st.booleans())
def test_factor_offset_residual_and_activation_follow_in_the_same_call(convolution, activation, residual):
    operands = operands_of(convolution, residual)
    _, fused = in_one_call(convolution, activation, residual)
    sums = reference(convolution, *operands[:2], np.zeros(convolution.outputs))[0]
    assert_close(fused(*operands), finished(sums, activation, *operands[2:]), 1e-5)
    assert str(jax.make_jaxpr(fused)(*operands)).count("ffi_call") == 1


@needs_library
@pytest.mark.parametrize("convolution", [CASE, DEPTHWISE, PRODUCT])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
def test_one_call_has_the_gradients_of_its_parts_and_serves_several_at_once(convolution, activation):
    operands = operands_of(convolution, True)
    composed, fused = in_one_call(convolution, activation, True)
    everything = tuple(range(len(operands)))
    ours, theirs = (
        jax.grad(lambda *values, of=of: jnp.sin(of(*values)).sum(), everything)(*operands)
        for of in (fused, composed)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, 1e-5)
    several = [np.stack([operand, -operand]) for operand in operands]
    for one, other in zip(
        jax.vmap(fused)(*several), (fused(*operands), fused(*(-x for x in operands))), strict=True
    ):
        assert_close(one, other, 1e-5)


@needs_library
@pytest.mark.parametrize("convolution", [CASE, DEPTHWISE, STRIDED_DEPTHWISE, STRIDED, WIDE, PRODUCT])
def test_bfloat16_rounds_operands_and_results_alone(convolution):
    convolution = dataclasses.replace(convolution, dtype="bfloat16")
    x, kernel, gradient = (value.astype(jnp.bfloat16) for value in tensors(convolution))
    if not library.load().has_type("bfloat16"):
        assert not onednn.serves(convolution, x, kernel)
        pytest.skip("this processor has no instructions for bfloat16")
    assert onednn.serves(convolution, x, kernel)
    outputs, pullback = jax.vjp(functools.partial(onednn.convolve, convolution), x, kernel)
    exact = reference(convolution, *(np.asarray(v, np.float64) for v in (x, kernel, gradient)))
    for ours, theirs in zip((outputs, *pullback(gradient)), exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=2**-7, atol=1e-2)


def implementations(kind, convolution):
    """Names of what the library has, in its order."""
    loaded = library.load()
    description = loaded._window(kind, convolution, loaded._attributes(convolution, None))
    names = [loaded.name(description)]
    while not loaded.functions.dnnl_primitive_desc_next_impl(description):
        names.append(loaded.name(description))
    return names


@needs_library
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_few_channels_are_not_multiplied_as_matrices_where_there_is_a_direct_kernel(dtype):
    loaded = library.load()
    if not loaded.has_type(dtype):
        pytest.skip("this processor has no instructions for it")
    changed = []
    for convolution in (CASE, DEPTHWISE, STRIDED_DEPTHWISE, STRIDED, WIDE):
        for kind in descriptions.KINDS:
            described = dataclasses.replace(convolution, dtype=dtype)
            names = implementations(kind, described)
            first = names[0]
            other = next(name for name in names if not name.startswith(("brgconv", "brg_fwd")))
            alike = library._instructions(first) == library._instructions(other)
            few = convolution in (CASE, DEPTHWISE, STRIDED_DEPTHWISE) or (convolution, kind) == (
                STRIDED,
                "by_input",
            )
            expected = other if few and alike and other.startswith("jit") else first
            assert loaded.name(loaded.description(kind, described)) == expected
            if expected != first:
                changed.append((convolution, kind))
    if loaded.functions.dnnl_get_effective_cpu_isa() == AVX512_BFLOAT16:
        assert (STRIDED, "by_input") in changed
        assert ((STRIDED_DEPTHWISE, "by_input") in changed) == (dtype == "bfloat16")


@needs_library
@pytest.mark.parametrize("instructions", [0x7, 0x27, 0x67])
def test_bfloat16_stays_with_xla_where_the_processor_lacks_it(instructions, monkeypatch):
    loaded = library.load()
    monkeypatch.setattr(
        loaded, "functions", types.SimpleNamespace(dnnl_get_effective_cpu_isa=lambda: instructions)
    )
    assert loaded.has_type("float32")
    assert not loaded.has_type("bfloat16")
    assert not loaded.has_type("float64")


@needs_library
@pytest.mark.parametrize("name", ["resnet26", "resnet50", "mobilenet_v2"])
def test_networks_predict_the_same_with_and_without_calls(name):
    network = models.create(name, 5, width=0.25)
    x = numbers(2, 32, 32, 3)
    variables = random_variables(
        network
    )  # also statistics, factors and offsets, which norms do not start with
    without = jax.jit(network.apply)(variables, x)
    assert np.isfinite(without).all()
    with calls_for_everything():
        predict = jax.jit(lambda variables, x: network.apply(variables, x))
        assert predict.lower(variables, x).as_text().count(f"@{xla_call.TARGET}(") > 5
        assert_close(predict(variables, x), np.asarray(without), 1e-5)


@needs_library
def test_what_the_library_cannot_finish_in_one_call_is_composed(monkeypatch):
    x = numbers(16, 32, 32, 64)

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return conv_norm(Conv(64, 3, name="conv"), BatchNorm(name="norm"), x, False, "relu", residual=x)

    def calls(text):
        return "".join(line for line in text.splitlines() if xla_call.TARGET in line)

    variables = Layer().init(jax.random.key(0), x)
    apply = jax.jit(Layer().apply)
    assert "relu" in calls(apply.lower(variables, x).as_text())
    in_one = apply(variables, x)
    describe = library.load().description

    def refusing(kind, convolution, finish=None):
        if finish is not None:
            raise descriptions.OneDNNError("not in one call")
        return describe(kind, convolution)

    monkeypatch.setattr(library.load(), "description", refusing)
    onednn.finishes.cache_clear()
    try:
        composed = jax.jit(lambda v, x: Layer().apply(v, x))
        text = composed.lower(variables, x).as_text()
        assert calls(text)
        assert "relu" not in calls(text)
        assert_close(composed(variables, x), np.asarray(in_one), 1e-5)
    finally:
        onednn.finishes.cache_clear()
