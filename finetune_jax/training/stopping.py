"""Requests to stop: SIGTERM and SIGINT."""

import signal
from types import FrameType
from typing import Protocol

from finetune_jax.devices.replicas import Replicas


class Stop(Protocol):
    """Whether to save and stop now: called between two dispatches it asks, ``came`` is the last answer."""

    @property
    def came(self) -> bool: ...  # noqa: D102

    def __call__(self) -> bool: ...  # noqa: D102


class StopRequest:
    """Turns SIGTERM into a question the loop asks between two dispatches."""

    def __init__(self, replicas: Replicas) -> None:
        self._several = replicas.process_count > 1
        self._asked = 0
        self.came = False

    def __enter__(self) -> "StopRequest":
        if not self._several:
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._several:
            signal.signal(signal.SIGTERM, self._previous)

    def __call__(self) -> bool:
        """Whether to save and stop now; all processes of a job, asking equally often, get the same answer."""
        if self._several and not self.came:
            from jax.experimental import multihost_utils

            # The processes agree on the number after the largest one asked so far, so none may be left out.
            self._asked += 1
            self.came = multihost_utils.reached_preemption_sync_point(self._asked)
        return self.came

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self.came = True
