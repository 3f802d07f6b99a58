"""Requests to stop: SIGTERM from a scheduler, Ctrl-C from a person."""

import os
import signal
import threading
from types import FrameType
from typing import Any, Protocol

from finetune_jax.devices import cluster
from finetune_jax.devices.replicas import Replicas

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop(Protocol):
    """Whether to save and stop now: called between two dispatches it asks, ``came`` is the last answer."""

    @property
    def came(self) -> bool: ...  # noqa: D102

    @property
    def signum(self) -> int:
        """The signal that asked."""
        ...

    def __call__(self) -> bool: ...  # noqa: D102


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a question the loop asks between two dispatches.

    Python's own reaction to Ctrl-C, an exception wherever the program happens to be, would lose the steps since the
    last checkpoint, and vanish where it hits a callback of JAX.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._job = cluster.active() if replicas.process_count > 1 else None
        self._previous: dict[int, Any] = {}
        self.came = False
        self.signum: int = signal.SIGTERM

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # no other may
            # The job of several processes watches for SIGTERM, so that all of them hear of it.
            signals = _SIGNALS if self._job is None else (signal.SIGINT,)
            self._previous = {signum: signal.signal(signum, self._ask) for signum in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self._job is not None:
            self._job.loop_ended()

    def __call__(self) -> bool:
        """Whether to save and stop now; all processes of a job, asking equally often, get the same answer."""
        if self._job is not None and not self.came:
            self.came = self._job.stop_requested()
        return self.came

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        del frame
        self.signum = signum
        if self._job is not None:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.came = True
