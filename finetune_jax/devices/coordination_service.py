"""JAX's coordination service, in a process of its own beside process 0.

JAX keeps it inside process 0. When that is killed, every other process is aborted within milliseconds by its own C++
code, before it could say why.
"""

import subprocess
import sys

from finetune_jax.errors import UserError

_SECONDS_AFTER_PROCESS_0 = 5.0


class CoordinationService:
    """The process of the service; it ends a little after this one, however this one ends."""

    def __init__(self, port: int, count: int, heartbeat_seconds: int) -> None:
        """Start it, and wait until it listens.

        Args:
            port: on all addresses of this machine.
            count: number of processes.
            heartbeat_seconds: after which the service gives up a silent process.

        Raises:
            UserError: it cannot listen there.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SCRIPT, f"[::]:{port}", str(count), str(heartbeat_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise UserError(
                f"--coordinator: JAX's coordination service cannot be started on port {port}; choose a free one"
            )

    def close(self) -> None:
        """Let it end, soon after the other processes have taken leave of it."""
        assert self._process.stdin is not None
        self._process.stdin.close()


_SCRIPT = f"""
import os, signal, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
from jaxlib import _jax
address, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
service = _jax.get_distributed_runtime_service(
    address, count, heartbeat_timeout=seconds, shutdown_timeout=60, recoverable=False
)
print("ready", flush=True)
sys.stdin.read()
time.sleep({_SECONDS_AFTER_PROCESS_0})
os._exit(0)
"""
