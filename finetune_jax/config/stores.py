"""Object stores (``gs://``, ``s3://``, …), opened with fsspec; errors in one sentence that names the flag."""

import contextlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from finetune_jax.errors import UserError, readable


def opened(flag: str, address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there.

    Args:
        flag: with its value, for messages.
        address: such as ``gs://bucket/runs``.

    Raises:
        UserError: its library is not installed, or the store cannot be reached.
    """
    try:
        import fsspec

        with explained(flag):
            system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise UserError(
            f"{flag} needs a library that is not installed: pip install 'finetune-jax[stores]' ({error})"
        ) from error
    return system, str(path).rstrip("/")


@contextlib.contextmanager
def explained(flag: str, what: str = "the store does not give it") -> Iterator[None]:
    """Errors of a store as one sentence.

    Args:
        flag: with its value.
        what: that fails.
    """
    try:
        yield
    except (UserError, ImportError):
        raise
    except Exception as error:  # every store has errors of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{flag}: {what} ({reason}); see the address and the credentials of its own tools"
        ) from error


def relative(flag: str, name: str, above: str) -> str:
    """Name of an object below a folder.

    Args:
        flag: with its value.
        name: of the object, whole.
        above: path of the folder.

    Raises:
        UserError: it is no path below the folder.
    """
    inside = name[len(above) :].lstrip("/") if name.startswith(above) else name
    path = PurePosixPath(inside)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f"{flag}: the object {readable(name)} has a name that is no path below the folder")
    return str(path)
