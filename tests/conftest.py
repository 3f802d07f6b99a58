"""Settings of every test process: eight virtual CPU devices, fast compilation, one cache of compiled programs."""

import gc
import os
from pathlib import Path

import pytest
from child_processes import FAST_COMPILATION
from hypothesis import settings

from finetune_jax.devices import host_memory

# Before JAX is imported, which reads JAX_…, and before it starts its backend. Child processes inherit them.
os.environ["JAX_PLATFORMS"] = "cpu"
# Twice the devices: collectives would starve XLA's thread pool (devices/replicas.py).
os.environ["NPROC"] = "16"
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count=8 {FAST_COMPILATION} "
    # A deadlock should fail, not hang; a busy machine should not look like one.
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=60 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=300"
)
# The same steps are compiled in many tests and processes: the first one to compile a program leaves it for all others,
# and for the next run of the suite. The folder may be removed at any time.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".xla_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Tracing makes millions of objects that live on; looking through them again and again takes a twentieth of the time.
gc.set_threshold(100_000, 50, 100)
# For the same reason: a search takes two seconds here.
host_memory.SECONDS_BETWEEN_SEARCHES = 240.0

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("repeatable")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take long come first, in whatever order they are: at the end one process would wait for another."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class CompileCounter:
    """Counts the programs that XLA compiles, or takes from the cache, while it is active."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, event: str, duration: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1


@pytest.fixture
def compilations():
    """Number of XLA compilations since the test began, in ``.count``."""
    import jax

    counter = CompileCounter()
    jax.monitoring.register_event_duration_secs_listener(counter)
    yield counter
    jax.monitoring.unregister_event_duration_listener(counter)
