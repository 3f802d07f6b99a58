"""Requests to stop: SIGTERM and SIGINT."""

import signal
from types import FrameType
from typing import Protocol

from finetune_jax.devices import cluster
from finetune_jax.devices.replicas import Replicas


class Stop(Protocol):
    """Whether to save and stop now: called between two dispatches it asks, ``came`` is the last answer."""

    @property
    def came(self) -> bool: ...  # noqa: D102

    def __call__(self) -> bool: ...  # noqa: D102


class StopRequest:
    """Turns SIGTERM into a question the loop asks between two dispatches."""

    def __init__(self, replicas: Replicas) -> None:
        # Several processes agree on when to stop; their job takes the signal.
        self._job = cluster.active() if replicas.process_count > 1 else None
        self.came = False

    def __enter__(self) -> "StopRequest":
        if self._job is None:
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._job is None:
            signal.signal(signal.SIGTERM, self._previous)
        else:
            self._job.loop_ended()

    def __call__(self) -> bool:
        """Whether to save and stop now; all processes of a job, asking equally often, get the same answer."""
        if self._job is not None and not self.came:
            self.came = self._job.stop_requested()
        return self.came

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self.came = True
