"""Settings of every test process: eight virtual CPU devices, fast compilation, strict JAX."""

import os

import jax
import pytest
from hypothesis import settings

# Before JAX starts its backend. Twice the devices: collectives would starve XLA's thread pool (devices/replicas.py).
os.environ["NPROC"] = "16"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 "
    # Halves compile time, which is most of what these small networks cost.
    "--xla_backend_optimization_level=0 "
    # A deadlock should fail in seconds, not minutes.
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=10 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=60"
)


settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("repeatable")


class CompileCounter:
    """Counts the programs XLA compiles while it is active."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, event: str, duration: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1


@pytest.fixture
def compilations():
    """Number of XLA compilations since the test began, in ``.count``."""
    counter = CompileCounter()
    jax.monitoring.register_event_duration_secs_listener(counter)
    yield counter
    jax.monitoring.unregister_event_duration_listener(counter)
