"""Reading a whole file, unless it is something that never ends or never begins."""

import os
import stat

LARGEST = 2**31
"""Bytes of the largest file that is read as an image."""


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular file; devices, pipes and sockets are not waited for.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than :data:`LARGEST`.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file")
        if status.st_size > LARGEST:
            raise OSError(0, f"{status.st_size / 2**30:.1f} GiB are more than an image may have")
        return file.read()
