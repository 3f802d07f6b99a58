"""Trackio, whose files lie in ``TRACKIO_DIR`` on this machine."""

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from finetune_jax.files.loggers.protocol import Beginning, scalars


class Trackio:
    """See ``protocol.Logger``. The name of a run is what it is known by, so it has a part of its own."""

    def __init__(self, beginning: Beginning) -> None:
        import secrets

        import trackio

        self.id = beginning.known_as or f"{beginning.name}-{secrets.token_hex(3)}"
        with contextlib.redirect_stdout(sys.stderr):  # where results do not go
            self._run = trackio.init(
                project=beginning.project,
                name=self.id,
                config=dict(beginning.flags),
                resume="allow",
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """See the protocol."""
        self._run.log(dict(values), step=epoch)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See the protocol."""
        self._run.log({f"summary/{name}": value for name, value in scalars(summary).items()})

    def close(self, *, failed: bool) -> None:
        """See the protocol."""
        del failed
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()
