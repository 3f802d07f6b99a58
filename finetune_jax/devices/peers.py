"""The other processes of a job, watched from threads: lost, failed, asked to stop, or done.

Every process says once a second that it is alive, in the key-value store of JAX's coordination service, and reads what
all others say there. A process that dies closes its connection of the roll call, which is seen at once; one that hangs,
or whose machine is gone, falls silent. Whatever the main thread waits for meanwhile, a collective or a compilation, the
process then ends with one sentence.
"""

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from finetune_jax.devices.roll_call import Attendance, Place
from finetune_jax.devices.stop_agreement import StopAgreement

LOST_STATUS = 75
"""Exit status where another process was lost: to start the job again is all there is to do (EX_TEMPFAIL)."""

STOPPED_STATUS = 143
"""Exit status of a process that was asked to stop (SIGTERM): 128 + 15, as in shells."""

STOPPED = "stopped; start again with the same command to go on"

ROOT = "finetune_jax"
_WATCHED = f"{ROOT}/watched"
_BEAT_SECONDS = 1.0
# For the main thread to come to its own message, where several processes have the same reason to end.
_GRACE_SECONDS = 2.0
_LAST_SECONDS = 10.0
_COUNT_SECONDS = 10.0


class Peers:
    """Watches the other processes of a job, and ends this one when one of them has ended."""

    def __init__(self, place: Place, attendance: Attendance, *, timeout: float, stop_timeout: float) -> None:
        """Begin with the connections of the roll call; :meth:`connected` adds the key-value store.

        Args:
            place: of this process.
            attendance: of the roll call.
            timeout: seconds of silence after which a process is lost.
            stop_timeout: seconds after SIGTERM at which a process ends that has not come to save its state.
        """
        self.place = place
        self.hosts = attendance.hosts
        self.stopping = StopAgreement()
        self.ended: dict[int, dict[str, Any]] = {}
        self.before_leaving: Callable[[], None] = _flush
        self._connections = attendance.connections
        self._timeout = timeout
        self._stop_timeout = stop_timeout
        self._store: Any = None
        self._closed: set[int] = set()
        self._wake = threading.Event()
        self._leaving = threading.Lock()
        self._done = False
        self._heard = {index: ("", time.monotonic()) for index in range(place.count)}
        self._stop_wanted = False
        self._stop_since: float | None = None
        self._count: int | None = None
        self._settled = False
        self._last_contact = time.monotonic()
        self._start(self._listen)
        self._start(self._mind_the_clock)

    def connected(self, store: Any) -> None:
        """JAX has connected the processes.

        Args:
            store: JAX's client of the coordination service.
        """
        self._store = store
        now = time.monotonic()
        self._heard = dict.fromkeys(self._heard, ("", now))
        self._last_contact = now
        self._catch_sigterm()
        self._start(self._talk)

    def name(self, index: int) -> str:
        """A process, in a message."""
        return f"process {index} on host {self.hosts[index]}"

    # --- the end of this process ---

    def leave(
        self, status: int, kind: str, message: str, *, source: int | None = None, printed: bool = False
    ) -> NoReturn:
        """Tell the others why this process ends, and end it, without JAX's barrier at the end of a process.

        Args:
            status: exit status.
            kind: ``failed``, ``stopped`` or ``lost``.
            message: one sentence.
            source: index of the process where it happened, by default this one.
            printed: whether the user has seen it already.
        """
        source = self.place.index if source is None else source
        if not self._leaving.acquire(blocking=False):
            while True:  # another thread ends the process
                time.sleep(60)
        if not printed:
            where = f"{self.name(source)} failed: " if source != self.place.index else ""
            _print(message if kind == "stopped" else f"error: {where}{message}")
        telling = self._start(self._tell, {"kind": kind, "message": message, "source": source})
        telling.join(_GRACE_SECONDS)
        if self.place.index == 0:
            self._outlast_others(time.monotonic() + _LAST_SECONDS)
        last = self._start(self._at_last)
        last.join(_GRACE_SECONDS)
        os._exit(status)

    def finish(self) -> None:
        """Wait until all processes have come to their end without an error."""
        self._tell({"kind": "done"})
        while len(self.ended) < self.place.count:
            time.sleep(0.05)
            self._wake.set()
        self._done = True

    def _at_last(self) -> None:
        with contextlib.suppress(Exception):
            self.before_leaving()
        _flush()

    def _tell(self, ending: Mapping[str, Any]) -> None:
        if self._store is not None:
            with contextlib.suppress(Exception):
                self._store.key_value_set(
                    f"{_WATCHED}/ended/{self.place.index}", json.dumps(ending), allow_overwrite=True
                )

    def _outlast_others(self, deadline: float) -> None:
        """The coordination service ends soon after process 0, and with it whoever still uses it."""
        while self._store is not None and time.monotonic() < deadline:
            time.sleep(0.1)
            with contextlib.suppress(Exception):
                self._read()
            lost = {index for index in self._heard if self._silence(index) > self._timeout}
            if len({*self.ended, *lost, *self._closed, 0}) == self.place.count:
                time.sleep(0.5)
                return

    # --- threads ---

    def _start(self, work: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        return thread

    def _listen(self) -> None:
        """Whose connection is closed has died, or ended with a word in the store."""
        open_ones = {connection.fileno(): index for index, connection in self._connections.items()}
        poll = select.poll()
        for descriptor in open_ones:
            poll.register(descriptor, select.POLLIN)
        while open_ones:
            for descriptor, _ in poll.poll():
                # Nothing is sent over it any more.
                poll.unregister(descriptor)
                self._closed.add(open_ones.pop(descriptor))
                self._wake.set()

    def _mind_the_clock(self) -> None:
        """What the other threads might be too stuck to see."""
        while not self._done:
            time.sleep(0.5)
            now = time.monotonic()
            if self._store is None:
                if self._closed or now - self._last_contact > self._timeout:
                    self._lost(min(self._closed, default=0))
            elif now - self._last_contact > self._timeout:
                # The store is on its host.
                self._lost(0 if self.place.index else min(self._closed, default=0))
            since = self._stop_since
            if since is not None and now - since > self._stop_timeout and not self.stopping.answered:
                self.leave(STOPPED_STATUS, "stopped", STOPPED)

    def _talk(self) -> None:
        beat = 0
        while not self._done:
            beat += 1
            closed = set(self._closed)
            try:
                self._store.key_value_set(
                    f"{_WATCHED}/alive/{self.place.index}", str(beat), allow_overwrite=True
                )
                entries = self._read()
            except Exception:  # the clock decides how long this may go on
                time.sleep(_BEAT_SECONDS)
                continue
            self._last_contact = time.monotonic()
            self._judge(entries, closed)
            self._wake.wait(_BEAT_SECONDS)
            self._wake.clear()

    def _read(self) -> dict[str, str]:
        entries = {
            key.removeprefix(f"{_WATCHED}/"): value for key, value in self._store.key_value_dir_get(_WATCHED)
        }
        now = time.monotonic()
        for index, (beat, _) in self._heard.items():
            if entries.get(f"alive/{index}", "") != beat:
                self._heard[index] = (entries[f"alive/{index}"], now)
            if f"ended/{index}" in entries:
                self.ended.setdefault(index, json.loads(entries[f"ended/{index}"]))
        return entries

    def _silence(self, index: int) -> float:
        return time.monotonic() - self._heard[index][1]

    def _judge(self, entries: Mapping[str, str], closed: set[int]) -> None:
        for index in range(self.place.count):
            if index == self.place.index or index in self.ended:
                continue
            if index in closed or f"lost/{index}" in entries or self._silence(index) > self._timeout:
                self._lost(index)
        for index, ending in self.ended.items():
            if index != self.place.index and ending["kind"] != "done":
                time.sleep(_GRACE_SECONDS)
                self._follow(ending)
        if self._stop_wanted or any(key.startswith("stop/") for key in entries):
            self._stop(entries)

    def _lost(self, index: int) -> NoReturn:
        if self._store is not None:
            telling = self._start(
                lambda: self._store.key_value_set(f"{_WATCHED}/lost/{index}", "", allow_overwrite=True)
            )
            telling.join(_GRACE_SECONDS)
        message = f"{self.name(index)} was lost; start again with the same command to go on"
        self.leave(LOST_STATUS, "lost", message)

    def _follow(self, ending: Mapping[str, Any]) -> NoReturn:
        status = {"stopped": STOPPED_STATUS, "lost": LOST_STATUS}.get(ending["kind"], 1)
        source = ending["source"] if ending["kind"] == "failed" else None
        self.leave(status, ending["kind"], ending["message"], source=source)

    # --- SIGTERM ---

    def _catch_sigterm(self) -> None:
        """Python runs its handlers in the main thread, which may be compiling; the pipe is read by another one."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        # Whoever watched for signals before still does.
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: None)

        def wait() -> None:
            while True:
                signals = os.read(reading, 64)
                if before >= 0:
                    os.write(before, signals)
                if signal.SIGTERM in signals:
                    self._stop_wanted = True
                    self._wake.set()

        self._start(wait)

    def _stop(self, entries: Mapping[str, str]) -> None:
        if self._settled:
            return
        now = time.monotonic()
        if self._stop_since is None:
            self._stop_since = now
            self._store.key_value_set(f"{_WATCHED}/stop/{self.place.index}", "", allow_overwrite=True)
            self._count = self.stopping.hold()
            text = "" if self._count is None else str(self._count)
            self._store.key_value_set(f"{_WATCHED}/count/{self.place.index}", text, allow_overwrite=True)
            self._wake.set()
            return
        counts = [entries.get(f"count/{index}") for index in range(self.place.count)]
        if "" in counts or self.ended or now - self._stop_since > _COUNT_SECONDS:
            # No step has been taken since the last checkpoint that all know of, or one does not answer.
            self.leave(STOPPED_STATUS, "stopped", STOPPED)
        known = [int(count) for count in counts if count is not None]
        if len(known) == self.place.count:
            self._settled = True
            self.stopping.settle(known)
        else:
            time.sleep(0.1)
            self._wake.set()


def _print(message: str) -> None:
    """Without the locks of Python's streams, which the main thread may hold."""
    start = "\r\x1b[K" if os.isatty(2) else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{start}{message}\n".encode(errors="replace"))


def _flush() -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
