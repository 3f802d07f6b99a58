"""Files that are written whole or not at all."""

import os
from pathlib import Path

from finetune_jax.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, replacing an earlier one at once; a kill or a full disk leaves the earlier one as it was.

    Raises:
        UserError: it cannot be written.
    """
    # In the same folder: a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
