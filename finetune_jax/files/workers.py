"""Who works on something on disk: processes among all machines, and whether one of them has surely ended."""

import contextlib
import os
import socket
from pathlib import Path
from typing import NamedTuple


class Worker(NamedTuple):
    """A process among all machines.

    Attributes:
        place: where process numbers mean the same: the machine since its start, and the container.
        process: its number there.
        started: when, in a unit of the system; empty where that cannot be known.
    """

    place: str
    process: int
    started: str

    @property
    def host(self) -> str:
        """Name of the machine."""
        return self.place.split(" ", 1)[0]

    @classmethod
    def here(cls) -> "Worker":
        """This process."""
        return cls(_place(), os.getpid(), _started(os.getpid()))

    def has_ended(self) -> bool:
        """Whether it surely does not run any more; False where that cannot be seen from here."""
        if self.place != _place():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it runs, as somebody else
            pass
        return bool(self.started) and _started(self.process) not in ("", self.started)


def _place() -> str:
    # A container may share the machine's name and number its processes anew.
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(process: int) -> str:
    """Start time of a process, by which it differs from a later one with its number; empty where it is not told."""
    try:
        # After the name, which may contain anything, the first field is the state.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended, not yet buried" if fields[0] == "Z" else fields[19]
