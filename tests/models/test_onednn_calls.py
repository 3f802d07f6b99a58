"""Calls of oneDNN: second derivatives, maps, devices, threads, processes, and what stays with XLA."""

import functools
import importlib.metadata
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from child_processes import SECONDS
from jax.sharding import Mesh, PartitionSpec
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

from finetune_jax import models
from finetune_jax.models import costs
from finetune_jax.models.layers import convolution as forms
from finetune_jax.models.layers import depthwise
from finetune_jax.models.layers.onednn import convolution as onednn
from finetune_jax.models.layers.onednn import library, xla_call
from finetune_jax.models.layers.onednn.descriptions import Convolution


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
def test_operations_are_counted_whatever_runs_them():
    network = models.create("mobilenet_v2", 7, width=0.35)
    usual = costs.of_network(network, 64).flops
    variables, x = network.shapes(), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    with calls_for_everything():
        # Counted in between, for a part that was traced for one of the two must not serve the other.
        assert uses_library(lambda v, x: network.apply(v, x), variables, x)
        assert costs.of_network(network, 64).flops == usual
        assert uses_library(lambda v, x: network.apply(v, x), variables, x)


def in_another_process(code, **environment):
    values = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=values | environment, timeout=SECONDS
    ).stdout


@needs_library
@pytest.mark.parametrize("given", [None, "77"])
def test_loading_leaves_the_environment_as_it_was(given):
    code = (
        "import os; from finetune_jax.models.layers.onednn import library; library.load(); "
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    environment = {} if given is None else {"GOMP_SPINCOUNT": given}
    assert in_another_process(code, **environment).strip() == str(given)


PROGRAM = """
import jax, numpy as np
from finetune_jax.models.layers.onednn import convolution as onednn
from finetune_jax.models.layers.onednn.descriptions import Convolution
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
from finetune_jax.models.layers.onednn import convolution as onednn
from finetune_jax.models.layers.onednn.descriptions import Convolution
case = Convolution((32, 32, 32, 32), (3, 3, 32, 32), 1, ((1, 1), (1, 1)))
def many(x, k):
    return jax.lax.fori_loop(0, 100, lambda _, x: onednn.convolve(case, x, k), x)
x, k = jnp.ones(case.images), jnp.zeros(case.kernel)
jax.block_until_ready(jax.jit(lambda x, k: onednn.convolve(case, x, k))(x, k))
jax.jit(many)(x, k)
print("dispatched")
"""
    assert in_another_process(code).strip() == "dispatched"
