"""One owner of a directory on an object store: an object that only one process can create, renewed while it lives.

Stores rename nothing and lock nothing, but create an object only where there is none. Who finds one looks whether its
number goes on; one that stands still was left by a process that has ended.
"""

import contextlib
import json
import sys
import time
import uuid
from typing import Any

from finetune_jax.errors import UserError
from finetune_jax.files.workers import Worker

BEAT_SECONDS = 15.0
"""How often an owner renews the object."""
WATCH_SECONDS = 60.0
"""An owner elsewhere whose number stands still for so long has ended."""


class StoreLock:
    """The lock of a directory, held until :meth:`release`."""

    def __init__(self, system: Any, path: str, flag: str, watch_seconds: float = WATCH_SECONDS) -> None:
        """Acquire it; that of a process which has ended is taken over, with a note.

        Args:
            system: of fsspec.
            path: of the object.
            flag: with its value, for messages.
            watch_seconds: see :data:`WATCH_SECONDS`.

        Raises:
            UserError: another process has it; names its host.
        """
        self._system, self._path, self._flag = system, path, flag
        self._worker, self._token = Worker.here(), uuid.uuid4().hex
        self._beat = 0
        while not self._create():
            seen = self._read()
            if seen is None:
                continue  # released in this moment
            if not self._has_ended(seen, watch_seconds):
                raise UserError(
                    f"{flag} is in use by {_who(seen)}; wait for it, end it, or give another --workdir"
                )
            print(
                f"note: {flag} was in use by {_who(seen)}, which has ended without giving it back; going on with it",
                file=sys.stderr,
            )
            if self._read() == seen:
                with contextlib.suppress(FileNotFoundError):
                    system.rm_file(path)

    def renew(self) -> None:
        """Show that this process lives.

        Raises:
            UserError: another process has taken it over.
        """
        self.check()
        self._beat += 1
        self._system.pipe_file(self._path, self._content())

    def check(self) -> None:
        """Whether it is still this process's.

        Raises:
            UserError: another process has taken it over.
        """
        seen = self._read()
        if seen is None or seen.get("token") != self._token:
            other = "another process" if seen is None else _who(seen)
            raise UserError(
                f"{self._flag} was taken over by {other} while this process gave no sign of life; this one ends, the "
                "other goes on"
            )

    def release(self) -> None:
        """Let others have it."""
        with contextlib.suppress(Exception):
            seen = self._read()
            if seen is not None and seen.get("token") == self._token:
                self._system.rm_file(self._path)

    def _create(self) -> bool:
        try:
            try:
                self._system.pipe_file(self._path, self._content(), mode="create")
            except (TypeError, NotImplementedError, ValueError):
                # A file system that cannot create exclusively.
                if self._system.exists(self._path):
                    return False
                self._system.pipe_file(self._path, self._content())
        except FileExistsError:
            return False
        seen = self._read()
        return seen is not None and seen.get("token") == self._token

    def _content(self) -> bytes:
        return json.dumps({**self._worker._asdict(), "token": self._token, "beat": self._beat}).encode()

    def _read(self) -> dict[str, Any] | None:
        self._system.invalidate_cache()
        try:
            content = json.loads(self._system.cat_file(self._path))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _has_ended(self, seen: dict[str, Any], watch_seconds: float) -> bool:
        worker = _worker(seen)
        if worker is not None and worker.place == self._worker.place:
            return worker.has_ended()
        print(
            f"{self._flag} belongs to {_who(seen)}: looking for {watch_seconds:.0f} s whether it lives …",
            file=sys.stderr,
            flush=True,
        )
        deadline = time.monotonic() + watch_seconds
        while time.monotonic() < deadline:
            time.sleep(min(1.0, watch_seconds / 10))
            if self._read() != seen:
                return False
        return True


def _worker(seen: dict[str, Any]) -> Worker | None:
    try:
        return Worker(str(seen["place"]), int(seen["process"]), str(seen["started"]))
    except (KeyError, TypeError, ValueError):
        return None


def _who(seen: dict[str, Any]) -> str:
    worker = _worker(seen)
    return "a process that cannot be told" if worker is None else f"process {worker.process} on {worker.host}"
