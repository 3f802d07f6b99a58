"""How long JAX has spent on making programs, which is no part of what the steps cost."""

import threading

import jax

_EVENTS = "/jax/core/compile/"


class CompileClock:
    """Counts seconds of tracing, lowering and compiling, those of any thread, while it is in use as a context.

    A program that is taken from the compilation cache counts with the time that this takes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[tuple[float, float]] = []

    def __enter__(self) -> "CompileClock":
        jax.monitoring.register_event_time_span_listener(self._take)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_time_span_listener(self._take)

    def lap(self) -> float:
        """Seconds since the last lap, or the beginning."""
        with self._lock:
            spans, self._spans = self._spans, []
        return sum(end - start for start, end in spans)

    def _take(self, event: str, start_time: float, end_time: float, **_: str | int) -> None:
        if not event.startswith(_EVENTS):
            return
        with self._lock:
            # A function that is traced within another one is told before it, and is in its time already.
            while self._spans and self._spans[-1][0] >= start_time:
                self._spans.pop()
            before = self._spans[-1][1] if self._spans else start_time
            if end_time > before:
                self._spans.append((max(start_time, before), end_time))
