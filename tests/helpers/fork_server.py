"""Processes that start in a tenth of a second: forks of one that has imported the libraries and not yet started JAX.

:func:`start` and :func:`run` are like ``subprocess.Popen`` and ``subprocess.run`` for ``python -m MODULE ARGUMENTS``,
or ``python FILE.py ARGUMENTS``.
What a process does from then on is its own: backend, flags, signals, exit. Tests of how a program starts, or of what
it imports, need a real one.

Run as a program it is the process that is forked; it serves the one that started it and ends with it.
"""

import array
import atexit
import contextlib
import dataclasses
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

HEAVY = (
    "finetune_jax.runs.finetune",
    "finetune_jax.runs.predict",
    "finetune_jax.runs.evaluate",
    "finetune_jax.studies.runs",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "orbax.checkpoint",
    "scipy.optimize",
    "tensorboardX",
)
READ_AT_IMPORT = ("JAX_", "PYTHON", "TF_")
"""How the variables begin that count when libraries are imported: for others there is another server."""
_servers: dict[tuple[tuple[str, str], ...], tuple[socket.socket, subprocess.Popen[bytes]]] = {}


class Process:
    """What tests use of ``subprocess.Popen``.

    Attributes:
        pid: of the process.
        returncode: its exit status, minus the signal that ended it, or None as long as it has not been waited for.
        stdout: what it prints.
        stderr: its errors.
    """

    def __init__(self, status: int, stdout: TextIO, stderr: TextIO) -> None:
        self._status = os.fdopen(status, "r")
        self.stdout, self.stderr = stdout, stderr
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def __del__(self) -> None:
        """What nobody read is closed without a word, as of a process that was killed."""
        for stream in (self._status, self.stdout, self.stderr):
            stream.close()

    def poll(self) -> int | None:
        """Its exit status, if it has ended."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, when it has ended."""
        if self.returncode is None:
            with selectors.DefaultSelector() as ready:
                ready.register(self._status, selectors.EVENT_READ)
                if not ready.select(timeout):
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is left of its output and errors, when it has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        texts: dict[TextIO, str] = {}
        # As daemons, which do not keep the tests from ending where a grandchild holds a pipe open.
        readers = [
            threading.Thread(target=lambda stream=stream: texts.update({stream: stream.read()}), daemon=True)
            for stream in (self.stdout, self.stderr)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if len(texts) < len(readers):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        self.stdout.close()
        self.stderr.close()
        return texts[self.stdout], texts[self.stderr]

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def start(
    module: str, *arguments: object, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Process:
    """Start ``python -m MODULE ARGUMENTS``; without an environment, with that of this process."""
    environment = dict(os.environ if environment is None else environment)
    outputs, errors, statuses = os.pipe(), os.pipe(), os.pipe()
    request = [module, list(map(str, arguments)), environment, str(cwd or Path.cwd())]
    message = json.dumps(request).encode()
    server = _server(environment)
    handed = [outputs[1], errors[1], statuses[1]]
    server.sendmsg(
        [len(message).to_bytes(4, "big")],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handed))],
    )
    server.sendall(message)
    for descriptor in handed:
        os.close(descriptor)
    return Process(statuses[0], os.fdopen(outputs[0], "r"), os.fdopen(errors[0], "r"))


def run(
    module: str,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """:func:`start` it and wait for its end."""
    process = start(module, *arguments, environment=environment, cwd=cwd)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess([module, *map(str, arguments)], process.returncode, out, err)


def _server(environment: Mapping[str, str]) -> socket.socket:
    counts = {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}
    key = tuple(sorted(counts.items()))
    if key not in _servers:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            cwd=Path(__file__).parents[2],
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **counts},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        _servers[key] = ours, process
    return _servers[key][0]


@atexit.register
def _stop_servers() -> None:
    for client, process in _servers.values():
        client.close()
        process.kill()  # it has nothing to lose, and some other process may hold the connection open
        process.wait()


@dataclasses.dataclass(frozen=True)
class _Request:
    """What :func:`start` asks for."""

    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    cwd: str
    descriptors: Sequence[int]


def _receive(client: socket.socket) -> _Request | None:
    length, descriptors, _, _ = socket.recv_fds(client, 4, 3)
    if not length:
        return None
    size, message = int.from_bytes(length, "big"), b""
    while len(message) < size:
        message += client.recv(size - len(message))
    return _Request(*json.loads(message), descriptors)


def _become(request: _Request) -> None:
    """Make this fork what was asked for, and run it; returns or raises as the module does."""
    outputs, errors, _ = request.descriptors
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (outputs, 1), (errors, 2)):
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.cwd)
    sys.argv = [request.module, *request.arguments]
    sys.path[0] = request.cwd
    if request.module.endswith(".py"):
        runpy.run_path(request.module, run_name="__main__")
    else:
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)


def _serve(client: socket.socket) -> _Request | None:
    """Fork for every request; returns in each fork what it is asked to be, and None when nobody asks any more."""
    while request := _receive(client):
        keeper = os.fork()
        if keeper == 0:
            client.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            process = os.fork()
            if process == 0:
                os.close(request.descriptors[2])
                return request
            # Waits for the process, which is nobody else's child, and says how it ended.
            os.close(request.descriptors[0])
            os.close(request.descriptors[1])
            os.write(request.descriptors[2], f"{process}\n".encode())
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            with contextlib.suppress(BrokenPipeError):  # where nobody waits any more
                os.write(request.descriptors[2], f"{status}\n".encode())
            os._exit(0)
        for descriptor in request.descriptors:
            os.close(descriptor)
    return None


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that keep processes are not waited for
    for name in HEAVY:
        importlib.import_module(name)
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if asked:
        _become(asked)
