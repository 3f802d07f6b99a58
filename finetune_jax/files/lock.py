"""One directory, one owner: who trains in a directory, told by a file in it.

The lock is a file that names the process and its host, so it works on network file systems and says who it is.
On one host an owner is dead when its process is. Elsewhere the file's time stamp decides, which the owner renews:
it is compared with the clock of the file system, so that the clocks of the hosts need not agree.

No file lock of the operating system is used: on network file systems these are off, local, or survive their
owner, and none says who holds it.
"""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from finetune_jax.errors import DAMAGE, UserError, readable
from finetune_jax.files import causes
from finetune_jax.files.workers import Worker

NAME = ".lock"
"""The file, in the directory it is about."""
BEAT_SECONDS = 20.0
"""How often an owner renews the time stamp."""
GRACE_SECONDS = 180.0
"""Without a renewal for so long an owner on another host is dead. Network file systems show times a minute late."""
_POLL_SECONDS = 0.01

_held: dict[str, "Lock"] = {}  # of this process, by path


class _Owner(NamedTuple):
    """What the file says: a process, since when (seconds since 1970), and a token of this very lock."""

    worker: Worker
    since: float
    token: str


class Lock:
    """A lock that this process holds until :meth:`release`."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._content = content
        self._holders = 1
        self._released = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._pulse.start()

    def check(self) -> None:
        """Whether it is still this process's.

        Raises:
            UserError: another process has taken it over, because this one gave no sign of life for too long.
        """
        content = _content(self._path)
        if content is not None and content != self._content:
            owner = _owner(content)
            raise UserError(
                f"{readable(self._path.parent)} was taken over by {_who(owner)} while this process gave no sign of "
                "life; this one ends, the other goes on"
            )

    def release(self) -> None:
        """Let others have it, once everybody in this process has released it who has acquired it."""
        self._holders -= 1
        if self._holders:
            return
        self._released.set()
        _held.pop(str(self._path), None)
        with contextlib.suppress(OSError):
            if _content(self._path) == self._content:
                self._path.unlink()

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                if _content(self._path) == self._content:
                    os.utime(self._path)  # without times: those of the file system's own clock


def acquire(directory: Path, flag: str = "--workdir") -> Lock:
    """Make this process the only one that trains in a directory, which must exist.

    The lock of a dead process is taken over, with a note on standard error. A process may have it several times.

    Args:
        directory: of a run or study.
        flag: by which the user named it.

    Raises:
        UserError: another process has it; names the process and its host. Or the directory cannot be written.
    """
    path = directory.absolute() / NAME
    if (held := _held.get(str(path))) is not None:
        held._holders += 1
        return held
    content = json.dumps(
        {**Worker.here()._asdict(), "since": time.time(), "token": uuid.uuid4().hex}
    ).encode()
    try:
        while not _create(path, content):
            refuse_if_held(directory, flag)
            seen = _content(path)
            if seen is None:
                continue  # released in this moment
            if _take_away(path, seen, content):
                print(
                    f"note: {flag}={readable(directory)} was in use by {_who(_owner(seen))}, which has ended without "
                    "giving it back; going on with it",
                    file=sys.stderr,
                )
    except OSError as error:
        raise UserError(
            f"{flag}={readable(directory)} cannot be locked: {causes.reason(error)}; "
            f"{causes.remedy(error, path)}"
        ) from error
    lock = _held[str(path)] = Lock(path, content)
    return lock


def refuse_if_held(directory: Path, flag: str = "--workdir") -> None:
    """Whether :func:`acquire` would succeed now; changes nothing.

    Raises:
        UserError: another process has it; names the process and its host.
    """
    path = directory.absolute() / NAME
    content = _content(path)
    if content is None or str(path) in _held:
        return
    owner, age = _owner(content), _age(path)
    if owner is not None and owner.worker.has_ended():
        return
    here = owner is not None and owner.worker.place == Worker.here().place
    if not here and age > GRACE_SECONDS:
        return
    since = "" if owner is None else time.strftime(", since %Y-%m-%d %H:%M:%S", time.localtime(owner.since))
    elsewhere = (
        ""
        if here
        else f" (last sign of life {age:.0f} s ago; after {GRACE_SECONDS:.0f} s without one it counts as dead)"
    )
    raise UserError(
        f"{flag}={readable(directory)} is in use by {_who(owner)}{since}{elsewhere}; "
        "wait until it has ended, stop it, or choose another directory"
    )


def release_all() -> None:
    """Give back all directories that this process has, at an end that unwinds no ``with``."""
    for held in list(_held.values()):
        held._holders = 1
        held.release()


@contextlib.contextmanager
def locked(directory: Path, flag: str = "--workdir") -> Iterator[None]:
    """:func:`acquire` a directory for as long as the block lasts.

    A missing one is made; if nothing was written into it, it goes again.

    Args:
        directory: of a run or study.
        flag: by which the user named it.

    Raises:
        UserError: as :func:`acquire`.
    """
    made = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag}={readable(directory)} cannot be created: {causes.reason(error)}") from error
    lock = acquire(directory, flag)
    try:
        yield
    finally:
        lock.release()
        if made:
            with contextlib.suppress(OSError):  # not empty
                directory.rmdir()


def _create(path: Path, content: bytes) -> bool:
    """Make the file whole and at once; False where there is one."""
    descriptor, temporary = tempfile.mkstemp(prefix=f"{NAME}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with path.open("xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
    finally:
        os.unlink(temporary)
    return True


def _take_away(path: Path, seen: bytes, content: bytes) -> bool:
    """Remove a dead owner's lock, which said ``seen``; False where another process was faster.

    Of several that saw it, the one that makes a file beside it may: another one, late, would move aside the lock that
    was made meanwhile, and a third would find none.

    Args:
        path: of the lock.
        seen: its content.
        content: which names this process.
    """
    guard = path.with_name(f"{NAME}.{hashlib.sha256(seen).hexdigest()[:16]}")
    if not _create(guard, content):
        with contextlib.suppress(FileNotFoundError):
            owner = _owner(_content(guard) or b"")
            ended = owner is not None and owner.worker.has_ended()
            if ended or _age(guard) > GRACE_SECONDS:
                guard.unlink()  # of a process that was killed at this point
        time.sleep(_POLL_SECONDS)
        return False
    try:
        return _content(path) == seen and _moved_away(path, seen)
    finally:
        guard.unlink(missing_ok=True)


def _moved_away(path: Path, seen: bytes) -> bool:
    aside = path.with_name(f"{NAME}.{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    taken = _content(aside)
    if taken != seen:  # its owner lived, gave it back, and somebody else has it: so must they again
        with contextlib.suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
    return taken == seen


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _owner(content: bytes) -> _Owner | None:
    """None where the file is no lock, or not wholly written."""
    try:
        values = json.loads(content)
        worker = Worker(str(values["place"]), int(values["process"]), str(values["started"]))
        return _Owner(worker, float(values["since"]), str(values["token"]))
    except DAMAGE:
        return None


def _who(owner: _Owner | None) -> str:
    if owner is None:
        return "an unknown process"
    return f"process {owner.worker.process} on {readable(owner.worker.host)}"


def _age(path: Path) -> float:
    """Seconds since the last renewal, by the clock of the file system."""
    try:
        with tempfile.NamedTemporaryFile(prefix=f"{NAME}.", dir=path.parent) as now:
            return max(0.0, os.stat(now.name).st_mtime - path.stat().st_mtime)
    except OSError:
        return 0.0
