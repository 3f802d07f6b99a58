"""What is set before JAX starts its backend."""

import importlib.util
import os

import jaxlib
import pytest

from finetune_jax.parallel import CONVOLUTION_FLAG, prepare_backend


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
    monkeypatch.delenv("XLA_FLAGS")
    if given is not None:
        monkeypatch.setenv("XLA_FLAGS", given)
    prepare_backend()
    assert os.environ.get("XLA_FLAGS") == expected
