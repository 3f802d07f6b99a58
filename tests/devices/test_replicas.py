"""What is set before JAX starts its backend."""

import importlib.util
import os

import jax
import jaxlib
import numpy as np
import pytest

from finetune_jax.devices import host_memory
from finetune_jax.devices.replicas import CONVOLUTION_FLAG, Replicas, prepare_backend


@pytest.mark.parametrize(
    ("version", "is_tpu", "given", "expected"),
    [
        ("0.10.2", False, None, CONVOLUTION_FLAG),
        ("0.10.2", False, "--xla_cpu_use_onednn", f"--xla_cpu_use_onednn {CONVOLUTION_FLAG}"),
        # the user's choice
        (
            "0.10.2",
            False,
            "--xla_cpu_experimental_ynn_fusion_type=",
            "--xla_cpu_experimental_ynn_fusion_type=",
        ),
        # a process would end at a flag that it does not know
        ("0.10.2", True, None, None),
        ("0.11.0", False, None, None),
    ],
)
def test_convolutions_get_all_cores_where_the_flag_is_known(version, is_tpu, given, expected, monkeypatch):
    monkeypatch.setattr(jaxlib, "__version__", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_tpu else None)
    monkeypatch.setattr(host_memory, "keep_freed_memory", lambda: True)
    monkeypatch.delenv("XLA_FLAGS")
    if given is not None:
        monkeypatch.setenv("XLA_FLAGS", given)
    prepare_backend()
    assert os.environ.get("XLA_FLAGS") == expected


@pytest.mark.parametrize(
    ("is_tpu", "has_gpu", "tunables", "expected"),
    [
        (False, False, None, True),
        (False, False, "glibc.cpu.hwcaps=-AVX512F", True),
        # the user's choice
        (False, False, "glibc.malloc.hugetlb=1", False),
        # hosts of accelerators decode in many threads, and hold no steps in their memory
        (True, False, None, False),
        (False, True, None, False),
    ],
)
def test_freed_memory_is_kept_on_hosts_that_train_on_the_cpu(
    is_tpu, has_gpu, tunables, expected, monkeypatch
):
    calls = []
    monkeypatch.setattr(host_memory, "keep_freed_memory", lambda: calls.append(True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_tpu else None)
    monkeypatch.setattr("finetune_jax.devices.replicas._has_gpu", lambda: has_gpu)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if tunables is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    prepare_backend()
    assert bool(calls) == expected


def test_devices_may_be_a_list():
    assert {Replicas(jax.devices()[:2]): 1} == {Replicas(tuple(jax.devices()[:2])): 1}


def test_what_hosts_compute_is_taken_from_the_first_process() -> None:
    devices = tuple(jax.devices())
    values = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    tree = {"kernel": values, "steps": np.int32(7)}
    first, second = (Replicas(devices, index, 2).from_primary(tree) for index in range(2))
    for ours, value in zip(jax.tree.leaves(first), jax.tree.leaves(tree), strict=True):
        np.testing.assert_array_equal(ours, value)
    # Alone in this process the second one of the job hears of no value, and gives none of its own.
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(second))
    assert Replicas(devices).from_primary(tree) is tree
