"""Aim, whose runs lie in the nearest folder ``.aim`` from the current directory upwards, else in a new one there."""

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from finetune_jax.files.loggers.protocol import Beginning, scalars


class Aim:
    """See ``protocol.Logger``."""

    def __init__(self, beginning: Beginning) -> None:
        import aim
        from aim.sdk.errors import RunLockingError

        def opened(**more: bool) -> Any:
            return aim.Run(
                beginning.known_as or None,
                experiment=beginning.project,
                system_tracking_interval=None,
                capture_terminal_logs=False,
                **more,
            )

        with contextlib.redirect_stdout(sys.stderr):  # where results do not go
            try:
                self._run = opened()
            except RunLockingError:
                # Of a process that was killed on another machine; the run directory has a lock of its own.
                self._run = opened(force_resume=True)
        self.id = str(self._run.hash)
        if not beginning.known_as:
            self._run.name = beginning.name
            self._run["flags"] = {name: _plain(value) for name, value in beginning.flags.items()}

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """See the protocol."""
        for name, value in values.items():
            self._run.track(value, name=name, step=epoch, epoch=epoch)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See the protocol."""
        self._run["summary"] = scalars(summary)

    def close(self, *, failed: bool) -> None:
        """See the protocol."""
        if failed:
            self._run.add_tag("failed")
        with contextlib.redirect_stdout(sys.stderr):
            self._run.close()


def _plain(value: Any) -> Any:
    """Aim keeps no None."""
    return "" if value is None else value
