"""Files that are written whole or not at all."""

import contextlib
import os
import secrets
from pathlib import Path

from finetune_jax.errors import UserError


def replace_whole(path: Path, content: bytes, temporary: Path | None = None) -> None:
    """Write a file, replacing an earlier one at once; a kill or a full disk leaves the earlier one as it was.

    Args:
        path: of the file.
        content: of it.
        temporary: what is written first; must be in the same folder, because a rename is atomic only within one file
            system. By default a name of this process alone.

    Raises:
        OSError: it cannot be written; the earlier file is as it was.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # an interrupt, too
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """:func:`replace_whole`, with the folder of the file where there is none, and an error that speaks to users.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
