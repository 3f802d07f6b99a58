"""The processes of a job find each other before JAX connects them.

JAX waits minutes for a process that does not come, names none and ends with a dump of its stack. Here process 0
listens at the coordinator's address until every process has said who it is; all of them then know the hosts, or what
is wrong, in one sentence. The connections stay open: the system closes them when a process dies, whatever killed it.
"""

import contextlib
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from finetune_jax.errors import UserError

_TRY_SECONDS = 2.0
_SILENT_SECONDS = 10.0
# The coordination service of a process 0 that was killed holds its port for five seconds.
_LEFT_OVER_SECONDS = 8.0
# Names of pods may become known after the pods have started.
_UNKNOWN_HOST_SECONDS = 30.0
_LONGEST_MESSAGE = 1 << 20
_PROGRAM = "finetune_jax"


@dataclass(frozen=True)
class Place:
    """A process in its job.

    Attributes:
        coordinator: ``host:port`` of process 0.
        count: number of processes.
        index: of this process, from 0.
        host: what messages call the machine it runs on.
    """

    coordinator: str
    count: int
    index: int
    host: str


@dataclass
class Attendance:
    """All processes of a job, present.

    Attributes:
        hosts: of each process.
        connections: by index of the process at the other end: process 0 has one to each other process, which have one
            to process 0.
    """

    hosts: tuple[str, ...]
    connections: dict[int, socket.socket] = field(default_factory=dict)

    def go(self) -> None:
        """Tell the others that JAX's service is there; of process 0."""
        for connection in self.connections.values():
            _send(connection, {"hosts": self.hosts})

    def refuse(self, message: str) -> None:
        """Tell the others that there is no job; of process 0."""
        for connection in self.connections.values():
            with contextlib.suppress(OSError):
                _send(connection, {"error": message})
            connection.close()


def address(coordinator: str) -> tuple[str, int]:
    """Host and port of ``--coordinator=host:port``.

    Raises:
        UserError: it is no such address.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(
            f"--coordinator={coordinator} is no address; give host:port of process 0, such as 10.0.0.1:12345"
        )
    return host.strip("[]"), int(port)


def gather(place: Place, seconds: float) -> Attendance:
    """As process 0, wait for all others; then call :meth:`Attendance.go` or :meth:`Attendance.refuse`.

    Args:
        place: of this process.
        seconds: how long the others may take.

    Raises:
        UserError: one has not come, two have the same index, or they count differently; the others learn it too.
    """
    host, port = address(place.coordinator)
    nonce = secrets.token_hex(8)
    dual = socket.has_dualstack_ipv6()
    deadline = time.monotonic() + min(_LEFT_OVER_SECONDS, seconds)
    while True:
        try:
            listener = socket.create_server(
                ("", port),
                family=socket.AF_INET6 if dual else socket.AF_INET,
                dualstack_ipv6=dual,
                backlog=1024,
            )
            break
        except OSError as error:
            answer = _probe(host, port, nonce, place.host)
            if answer:
                raise UserError(answer) from error
            if time.monotonic() > deadline:
                raise UserError(
                    f"--coordinator={place.coordinator}: process 0 cannot listen on port {port} of {place.host} "
                    f"({os.strerror(error.errno or 0)}); another program uses it: choose a free one"
                ) from error
        time.sleep(0.2)
    attendance = Attendance((place.host,))
    hosts = {0: place.host}
    with listener, contextlib.ExitStack() as on_error:
        probe = threading.Thread(target=_end_if_another, args=(host, port, nonce, place.host), daemon=True)
        probe.start()
        problem = _listen(listener, place, nonce, hosts, attendance, seconds)
        if problem:
            on_error.callback(attendance.refuse, problem)
            raise UserError(problem)
    attendance.hosts = tuple(hosts[index] for index in range(place.count))
    return attendance


def _listen(
    listener: socket.socket,
    place: Place,
    nonce: str,
    hosts: dict[int, str],
    attendance: Attendance,
    seconds: float,
) -> str:
    """Take in the processes that come; returns what is wrong with them, or nothing once all are there."""
    deadline = time.monotonic() + seconds
    note = _Note(f"waiting for {place.count - 1} more of {place.count} processes")
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while len(hosts) < place.count:
            left = deadline - time.monotonic()
            if left <= 0:
                missing = [index for index in range(place.count) if index not in hosts]
                return (
                    f"{_processes(missing)} of {place.count} did not come to {place.coordinator} within "
                    f"{seconds:.0f} s; see the output of {'it' if len(missing) == 1 else 'them'}, and start every "
                    "process with its own --process_index"
                )
            note.after_a_while()
            for key, _ in selector.select(min(left, 1.0)):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    connection.settimeout(_SILENT_SECONDS)
                    problem = _take_in(connection, place, nonce, hosts, attendance)
                    if problem:
                        return problem
                    for index in attendance.connections:
                        if attendance.connections[index] is connection:
                            selector.register(connection, selectors.EVENT_READ, index)
                elif _closed(key.fileobj):
                    # It ended while it waited; the scheduler may start it again.
                    selector.unregister(key.fileobj)
                    del hosts[key.data], attendance.connections[key.data]
    return ""


def _take_in(
    connection: socket.socket, place: Place, nonce: str, hosts: dict[int, str], attendance: Attendance
) -> str:
    message = _receive(connection)
    if message is None or message.get("program") != _PROGRAM:
        connection.close()  # a port scanner
        return ""
    index, count, host = message["index"], message["count"], message["host"]
    if message.get("nonce") == nonce:
        connection.close()
        return ""
    problem = ""
    if index in hosts:
        problem = (
            f"--process_index={index} was given twice, to a process on host {hosts[index]} and to one on host "
            f"{host}; give every process its own index from 0"
        )
    elif count != place.count:
        problem = (
            f"--process_count={count} for process {index} on host {host} and {place.count} for process 0 on host "
            f"{place.host}; give all processes the same number"
        )
    if problem:
        with contextlib.suppress(OSError):
            _send(connection, {"error": problem})
        connection.close()
        return problem
    hosts[index] = host
    attendance.connections[index] = connection
    return ""


def _probe(host: str, port: int, nonce: str, name: str) -> str:
    """As process 0, call at the coordinator's address: elsewhere another process 0 would answer, with this error."""
    with (
        contextlib.suppress(OSError, ValueError),
        socket.create_connection((host, port), _TRY_SECONDS) as probe,
    ):
        _send(probe, {"program": _PROGRAM, "index": 0, "count": 0, "host": name, "nonce": nonce})
        probe.settimeout(_SILENT_SECONDS)
        answer = _receive(probe)
        return "" if answer is None else str(answer.get("error", ""))
    return ""


def _end_if_another(host: str, port: int, nonce: str, name: str) -> None:
    problem = _probe(host, port, nonce, name)
    if problem:
        os.write(2, f"error: {problem}\n".encode())
        os._exit(1)


def report(place: Place, seconds: float) -> Attendance:
    """As another process than 0, tell process 0 of this one, and wait until it says that all are there.

    Raises:
        UserError: process 0 cannot be reached, or says what is wrong.
    """
    host, port = address(place.coordinator)
    began = time.monotonic()
    deadline = began + seconds
    note = _Note(f"waiting for process 0 at {place.coordinator}")
    reason = ""
    while time.monotonic() < deadline:
        note.after_a_while()
        try:
            left = deadline - time.monotonic()
            connection = socket.create_connection((host, port), min(_TRY_SECONDS, max(left, 0.1)))
        except socket.gaierror as error:
            reason = f"host {host} is unknown ({error.strerror})"
            deadline = min(deadline, began + _UNKNOWN_HOST_SECONDS)
        except OSError as error:
            reason = error.strerror or "it does not answer"
        else:
            try:
                _send(
                    connection,
                    {"program": _PROGRAM, "index": place.index, "count": place.count, "host": place.host},
                )
                # Process 0 waits for the last process as long as this one waits for process 0.
                connection.settimeout(seconds + _SILENT_SECONDS)
                answer = _receive(connection)
            except (OSError, ValueError) as error:
                answer, reason = None, f"what answers is no process of this program ({error})"
            if answer is not None and "error" in answer:
                raise UserError(answer["error"])
            if answer is not None and "hosts" in answer:
                return Attendance(tuple(answer["hosts"]), {0: connection})
            connection.close()
            reason = reason or "it closed the connection"
        time.sleep(0.2)
    raise UserError(
        f"--coordinator={place.coordinator}: process {place.index} on host {place.host} could not reach process 0 "
        f"within {time.monotonic() - began:.0f} s: {reason}; start process 0 on that host, or correct the address"
    )


class _Note:
    """A line for whoever watches a start that takes long."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._due: float | None = time.monotonic() + 5

    def after_a_while(self) -> None:
        if self._due is not None and time.monotonic() > self._due:
            print(f"{self._text} …", file=sys.stderr, flush=True)
            self._due = None


def _processes(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:10])) + (
        f" and {len(indices) - 10} more" if len(indices) > 10 else ""
    )
    return f"process {shown}" if len(indices) == 1 else f"processes {shown}"


def _closed(connection: Any) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def _send(connection: socket.socket, message: Any) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    """One message; None where the other end is closed.

    Raises:
        OSError: nothing came in time.
        ValueError: it is no message.
    """
    data = b""
    while not data.endswith(b"\n"):
        # One byte more could belong to nothing: the other end waits for the answer to each message.
        part = connection.recv(4096)
        if not part:
            return None
        data += part
        if len(data) > _LONGEST_MESSAGE:
            raise ValueError("a message without end")
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("no message")
    return message
