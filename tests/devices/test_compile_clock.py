"""The time of making programs, from the spans that JAX tells of."""

import time

import jax
import jax.numpy as jnp
import pytest

from finetune_jax.devices.compile_clock import CompileClock


def test_spans_within_others_count_once_and_other_events_not():
    now = time.time()
    tell = jax.monitoring.record_event_time_span
    with CompileClock() as clock:
        tell("/jax/core/compile/jaxpr_trace_duration", now + 1, now + 2)  # within the next
        tell("/jax/core/compile/jaxpr_trace_duration", now + 0.5, now + 3)
        tell("/jax/core/compile/backend_compile_duration", now + 3, now + 7)
        tell("/jax/something/else", now + 7, now + 100)
        assert clock.lap() == pytest.approx(6.5)
        assert clock.lap() == 0
    tell("/jax/core/compile/backend_compile_duration", now + 8, now + 9)
    assert clock.lap() == 0


def test_a_new_program_takes_time_and_a_known_one_none():
    function = jax.jit(lambda x: jnp.sin(x) + 1)
    with CompileClock() as clock:
        function(jnp.ones(3)).block_until_ready()
        assert 0 < clock.lap() < 60
        function(jnp.zeros(3)).block_until_ready()
        # That of the zeros is another program, which may be there.
        function(jnp.zeros(3)).block_until_ready()
        clock.lap()
        function(jnp.zeros(3)).block_until_ready()
        assert clock.lap() == 0
