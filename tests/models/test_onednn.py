"""Convolutions by oneDNN: against sums over taps in NumPy, under JAX's transformations, in threads and processes."""

import dataclasses
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from finetune_jax import models
from finetune_jax.models import costs
from finetune_jax.models.layers import convolution as forms
from finetune_jax.models.layers import depthwise
from finetune_jax.models.layers.basic import BatchNorm, Conv, conv_norm
from finetune_jax.models.layers.onednn import convolution as onednn
from finetune_jax.models.layers.onednn import descriptions, library, xla_call
from finetune_jax.models.layers.onednn.descriptions import Convolution, Finish

needs_library = pytest.mark.skipif(library.load() is None, reason="no wheel of oneDNN for this machine")

CASE = Convolution((4, 9, 8, 5), (3, 3, 5, 6), 2, ((1, 1), (1, 0)))
# Large enough to be a product of matrices.
PRODUCT = Convolution((3, 4, 5, 512), (1, 1, 512, 272), 1, ((0, 0), (0, 0)))
DEPTHWISE = Convolution((3, 6, 8, 24), (3, 3, 1, 24), 1, ((1, 1), (1, 1)), groups=24)
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


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def tensors(convolution):
    shapes = convolution.images, convolution.kernel, convolution.outputs
    return [numbers(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def taps(convolution):
    """For each tap, its place in the kernel and the pixels of the padded images that outputs see through it."""
    _, height, width, _ = convolution.outputs
    step = convolution.stride
    for row in range(convolution.kernel[0]):
        for column in range(convolution.kernel[1]):
            rows = slice(row, row + (height - 1) * step + 1, step)
            columns = slice(column, column + (width - 1) * step + 1, step)
            yield (row, column), (slice(None), rows, columns)


def reference(convolution, x, kernel, gradient):
    """Outputs and both gradients, in float64, as sums over the taps of the kernel."""
    (top, bottom), (left, right) = convolution.pads
    padded = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    outputs, by_padded = np.zeros(convolution.outputs), np.zeros_like(padded)
    by_kernel = np.zeros(convolution.kernel)
    for tap, seen in taps(convolution):
        if convolution.groups == 1:
            outputs += padded[seen] @ kernel[tap]
            by_padded[seen] += gradient @ kernel[tap].T
            by_kernel[tap] = np.einsum("bhwi,bhwo->io", padded[seen], gradient)
        else:
            outputs += padded[seen] * kernel[tap][0]
            by_padded[seen] += gradient * kernel[tap][0]
            by_kernel[tap][0] = (padded[seen] * gradient).sum((0, 1, 2))
    height, width = convolution.images[1:3]
    return outputs, by_padded[:, top : top + height, left : left + width], by_kernel


def assert_close(ours, theirs, tolerance=2e-6):
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max() + 1e-30
    np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, atol=tolerance, rtol=0)


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
    names = [loaded._name(description)]
    while not loaded._functions.dnnl_primitive_desc_next_impl(description):
        names.append(loaded._name(description))
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
            assert loaded._name(loaded.description(kind, described)) == expected
            if expected != first:
                changed.append((convolution, kind))
    if loaded._functions.dnnl_get_effective_cpu_isa() == AVX512_BFLOAT16:
        assert (STRIDED, "by_input") in changed
        assert ((STRIDED_DEPTHWISE, "by_input") in changed) == (dtype == "bfloat16")


@needs_library
@pytest.mark.parametrize("instructions", [0x7, 0x27, 0x67])
def test_bfloat16_stays_with_xla_where_the_processor_lacks_it(instructions, monkeypatch):
    loaded = library.load()
    monkeypatch.setattr(
        loaded, "_functions", types.SimpleNamespace(dnnl_get_effective_cpu_isa=lambda: instructions)
    )
    assert loaded.has_type("float32")
    assert not loaded.has_type("bfloat16")
    assert not loaded.has_type("float64")


@needs_library
@pytest.mark.parametrize("name", ["resnet26", "resnet50", "mobilenet_v2"])
def test_networks_predict_the_same_with_and_without_calls(name, monkeypatch):
    network = models.create(name, 5, width=0.25)
    x = numbers(2, 32, 32, 3)
    variables = network.init(jax.random.key(0), x)
    keys = iter(jax.random.split(jax.random.key(1), 999))
    # Running statistics, factors and offsets that norms do not start with.
    variables = jax.tree.map(
        lambda v: v + 0.2 * jax.random.uniform(next(keys), v.shape) * (v.ndim == 1), variables
    )
    without = jax.jit(network.apply)(variables, x)
    assert np.isfinite(without).all()
    for module in (forms, depthwise):
        monkeypatch.setattr(module, "PRODUCTS_WORTH_A_CALL", 0)
    monkeypatch.setattr(forms, "PIXELS_WORTH_A_CALL", 0)
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


def plain(convolution, x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (convolution.stride,) * 2,
        convolution.pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=convolution.groups,
    )


@needs_library
@pytest.mark.parametrize("convolution", [CASE, DEPTHWISE])
def test_second_derivatives_are_those_of_the_plain_convolution(convolution):
    x, kernel, gradient = tensors(convolution)
    weights = np.cos(np.arange(x.size + kernel.size, dtype=np.float32))

    def of_gradients(convolve, x, kernel):
        by_x, by_kernel = jax.grad(
            lambda x, k: (jnp.sin(convolve(convolution, x, k)) * gradient).sum(), (0, 1)
        )(x, kernel)
        return weights @ jnp.concatenate([by_x.ravel(), by_kernel.ravel()])

    ours, theirs = (
        jax.grad(functools.partial(of_gradients, convolve), (0, 1))(x, kernel)
        for convolve in (onednn.convolve, plain)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, 1e-5)


@needs_library
@pytest.mark.parametrize("convolution", [CASE, DEPTHWISE])
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, None)])
def test_several_at_once_have_the_values_and_gradients_of_each(convolution, axes):
    several = [tensors(convolution), [-2 * x for x in tensors(convolution)]]
    x, kernel = (
        one[0] if axis is None else np.stack(one, axis)
        for axis, one in zip(axes, list(zip(*several, strict=True))[:2], strict=True)
    )

    def with_gradients(convolve, x, kernel):
        return jax.value_and_grad(lambda x, k: jnp.sin(convolve(convolution, x, k)).sum(), (0, 1))(x, kernel)

    ours, theirs = (
        jax.jit(jax.vmap(functools.partial(with_gradients, convolve), axes))(x, kernel)
        for convolve in (onednn.convolve, plain)
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert_close(one, other, 1e-5)


@needs_library
def test_more_images_of_one_kernel_are_one_call():
    x, kernel, _ = tensors(CASE)
    mapped = jax.vmap(functools.partial(onednn.convolve, CASE), (0, None))
    text = jax.jit(mapped).lower(np.stack([x, x]), kernel).as_text()
    assert text.count(f"@{xla_call.TARGET}") == 1
    assert "while" not in text


@needs_library
def test_the_result_is_the_same_to_the_bit_on_every_device_in_a_loop_and_again():
    x, kernel, gradient = tensors(Convolution((8, 16, 16, 24), (3, 3, 24, 40), 1, ((1, 1), (1, 1))))
    convolution = Convolution(x.shape, kernel.shape, 1, ((1, 1), (1, 1)))

    def kernel_gradient(x, kernel, gradient):
        return jax.vjp(functools.partial(onednn.convolve, convolution), x, kernel)[1](gradient)[1]

    expected = np.asarray(jax.jit(kernel_gradient)(x, kernel, gradient))
    eight = [np.stack([value] * 8) for value in (x, kernel, gradient)]
    mesh = Mesh(np.array(jax.devices()[:8]), ("batch",))
    split = PartitionSpec("batch")
    sharded = jax.shard_map(
        lambda *values: kernel_gradient(*(value[0] for value in values))[None],
        mesh=mesh,
        in_specs=(split,) * 3,
        out_specs=split,
        check_vma=False,
    )

    def looped(x, kernel, gradient):
        return jax.lax.scan(lambda none, _: (none, kernel_gradient(x, kernel, gradient)), None, length=8)[1]

    for results in (
        jax.pmap(kernel_gradient)(*eight),
        jax.jit(sharded)(*eight),
        jax.jit(looped)(x, kernel, gradient),
        np.stack([jax.jit(kernel_gradient)(x, kernel, gradient) for _ in range(8)]),
    ):
        np.testing.assert_array_equal(np.asarray(results), np.stack([expected] * 8))


def of_many_threads(function, arguments, times=40):
    with ThreadPoolExecutor(8) as pool:
        return [np.asarray(y) for y in pool.map(lambda _: function(*arguments), range(times))]


@needs_library
def test_threads_may_call_it_at_the_same_time():
    x, kernel, gradient = tensors(CASE)
    expected = reference(CASE, x, kernel, gradient)[0]
    for y in of_many_threads(jax.jit(functools.partial(onednn.convolve, CASE)), (x, kernel)):
        assert_close(y, expected)


@needs_library
def test_on_large_machines_one_thread_makes_all_calls(monkeypatch):
    monkeypatch.setattr(xla_call, "MOST_CALLING_THREADS", 0)
    xla_call._caller.cache_clear()
    try:
        callers = set()
        run = xla_call._primitive(xla_call._write("forward", CASE).encode())

        def remembering(*addresses):
            callers.add(threading.get_ident())
            run(*addresses)

        monkeypatch.setattr(xla_call, "_primitive", lambda text: remembering)
        x, kernel, gradient = tensors(CASE)
        expected = reference(CASE, x, kernel, gradient)[0]
        for y in of_many_threads(jax.jit(functools.partial(onednn.convolve, CASE)), (x, kernel)):
            assert_close(y, expected)
        assert len(callers) == 1
    finally:
        xla_call._caller.cache_clear()


@needs_library
def test_a_call_that_fails_is_an_exception_of_the_program():
    x, kernel, _ = tensors(CASE)
    onednn.convolve(CASE, x, kernel)  # registers the target
    call = jax.ffi.ffi_call(xla_call.TARGET, jax.ShapeDtypeStruct((1,), np.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError"):
        jax.jit(lambda x, kernel: call(x, kernel, convolution="nonsense"))(x, kernel).block_until_ready()
    impossible = xla_call._write("forward", Convolution((1, 2, 2, 1), (5, 5, 1, 1), 1, ((0, 0), (0, 0))))
    with pytest.raises(jax.errors.JaxRuntimeError, match="oneDNN answered with status"):
        jax.jit(lambda x, kernel: call(x, kernel, convolution=impossible))(x, kernel).block_until_ready()


@needs_library
def test_other_types_empty_batches_and_cropping_stay_with_xla():
    x, kernel, _ = tensors(CASE)
    assert onednn.serves(CASE, x, kernel)
    assert not onednn.serves(CASE, x.astype(np.float64), kernel.astype(np.float64))
    assert not onednn.serves(CASE, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert not onednn.serves(Convolution((0, 9, 8, 5), CASE.kernel, 1, CASE.pads), x, kernel)
    assert not onednn.serves(Convolution(CASE.images, CASE.kernel, 1, ((-1, 1), (0, 0))), x, kernel)


def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)


class Distribution:
    """A wheel with one file."""

    def __init__(self, file):
        self.files = [type("Path", (), {"name": "libdnnl.so.3", "locate": lambda _: file})()]


@pytest.mark.parametrize("broken", [False, True])
def test_without_the_library_the_same_values_come_from_xla(broken, monkeypatch, tmp_path):
    file = tmp_path / "libdnnl.so.3"
    file.write_bytes(b"no library")
    found = (lambda name: Distribution(file)) if broken else missing
    monkeypatch.setattr(importlib.metadata, "distribution", found)
    monkeypatch.setattr(forms, "PRODUCTS_WORTH_A_CALL", 0)
    monkeypatch.setattr(forms, "PIXELS_WORTH_A_CALL", 0)
    pads = ((1, 1), (1, 1))
    x, kernel = numbers(2, 8, 8, 3), numbers(3, 3, 3, 4)
    with_library = forms.conv(x, kernel, 1, pads)
    library.load.cache_clear()
    onednn._has.cache_clear()
    try:
        assert library.load() is None
        text = jax.jit(lambda x, kernel: forms.conv(x, kernel, 1, pads)).lower(x, kernel).as_text()
        assert xla_call.TARGET not in text
        assert_close(forms.conv(x, kernel, 1, pads), np.asarray(with_library))
    finally:
        library.load.cache_clear()
        onednn._has.cache_clear()


def uses_library(function, *arrays):
    return xla_call.TARGET in jax.jit(function).lower(*arrays).as_text()


@needs_library
def test_only_convolutions_that_are_worth_a_call_get_one():
    pads = ((1, 1), (1, 1))
    large, small = jnp.zeros((16, 32, 32, 64)), jnp.zeros((1, 8, 8, 8))
    assert uses_library(lambda x: forms.conv(x, jnp.zeros((3, 3, 64, 64)), 1, pads), large)
    assert not uses_library(lambda x: forms.conv(x, jnp.zeros((3, 3, 8, 8)), 1, pads), small)
    assert uses_library(lambda x: forms.conv(x, jnp.zeros((1, 1, 64, 64)), 1, forms.NO_PADS), large)
    assert not uses_library(lambda x: forms.conv(x, jnp.zeros((1, 1, 8, 8)), 1, forms.NO_PADS), small)
    assert uses_library(lambda x: depthwise.depthwise_conv(x, jnp.zeros((3, 3, 1, 64)), 1, pads), large)
    assert not uses_library(lambda x: depthwise.depthwise_conv(x, jnp.zeros((3, 3, 1, 8)), 1, pads), small)
    covered = jnp.zeros((128, 2, 2, 512))
    assert not uses_library(lambda x: forms.conv(x, jnp.zeros((3, 3, 512, 512)), 1, pads), covered)


@needs_library
def test_operations_are_counted_whatever_runs_them(monkeypatch):
    network = models.create("mobilenet_v2", 7, width=0.35)
    usual = costs.of_network(network, 64).flops
    for module in (forms, depthwise):
        monkeypatch.setattr(module, "PRODUCTS_WORTH_A_CALL", 0)
    monkeypatch.setattr(forms, "PIXELS_WORTH_A_CALL", 0)
    variables, x = network.shapes(), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    assert uses_library(lambda v, x: network.apply(v, x), variables, x)
    assert costs.of_network(network, 64).flops == usual


def in_another_process(code, **environment):
    values = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=values | environment, timeout=120
    ).stdout


@needs_library
@pytest.mark.parametrize("given", [None, "77"])
def test_loading_leaves_the_environment_as_it_was(given):
    code = "import os; from finetune_jax.onednn import library; library.load(); print(os.environ.get('GOMP_SPINCOUNT'))"
    environment = {} if given is None else {"GOMP_SPINCOUNT": given}
    assert in_another_process(code, **environment).strip() == str(given)


PROGRAM = """
import jax, numpy as np
from finetune_jax.onednn import convolution as onednn
from finetune_jax.onednn.library import Convolution
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("compilation_cache/cache_hits")))
case = Convolution((4, 9, 8, 5), (3, 3, 5, 6), 2, ((1, 1), (1, 0)))
x, kernel = (np.random.default_rng(0).normal(size=s).astype("f") for s in (case.images, case.kernel))
y = jax.jit(lambda x, k: onednn.convolve(case, x, k))(x, kernel)
print(sum(hits), np.asarray(y).tobytes().hex())
"""


@needs_library
def test_a_compiled_program_of_another_process_means_the_same(tmp_path):
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    first, second = (in_another_process(PROGRAM, **environment).split() for _ in range(2))
    assert int(first[0]) == 0
    assert int(second[0]) > 0
    assert first[1] == second[1]


@needs_library
def test_a_process_may_end_while_a_program_runs():
    code = """
import jax, jax.numpy as jnp
from finetune_jax.onednn import convolution as onednn
from finetune_jax.onednn.library import Convolution
case = Convolution((32, 32, 32, 32), (3, 3, 32, 32), 1, ((1, 1), (1, 1)))
def many(x, k):
    return jax.lax.fori_loop(0, 100, lambda _, x: onednn.convolve(case, x, k), x)
x, k = jnp.ones(case.images), jnp.zeros(case.kernel)
jax.block_until_ready(jax.jit(lambda x, k: onednn.convolve(case, x, k))(x, k))
jax.jit(many)(x, k)
print("dispatched")
"""
    assert in_another_process(code).strip() == "dispatched"
