"""Why something could not be written, and what to do about it: the true cause in a user's words."""

import errno
from pathlib import Path

from finetune_jax.errors import readable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


def reason(error: BaseException) -> str:
    """The first line of an error, without what storage libraries append to it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    if not lines:
        return type(error).__name__
    # Tensorstore appends its settings; Orbax puts the names that differ on the lines after a colon.
    first = lines[0].split(" [tensorstore_spec")[0]
    return readable(f"{first} {lines[1].strip(' :')}" if first.endswith(":") and lines[1:] else first)


def remedy(error: BaseException, directory: Path) -> str:
    """What to do when a file below a directory could not be written.

    Args:
        error: as raised; storage libraries hide the error of the system in its causes, or in its text.
        directory: of the run or study.
    """
    number = _error_number(error)
    if number in _FULL:
        return "make room or choose another --workdir, then start again"
    if number in _TOO_MANY_FILES:
        return "this process has too many files open: raise the limit (ulimit -n), then start again"
    if not directory.parent.is_dir():
        return f"{readable(directory.parent)} is no longer there: it was deleted or moved; start again to begin anew"
    if number in _FORBIDDEN:
        return "make the directory writable or choose another --workdir, then start again"
    return "mend this or choose another --workdir, then start again"


def _error_number(error: BaseException | None) -> int | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        for text, number in (
            ("No space left", errno.ENOSPC),
            ("quota exceeded", errno.EDQUOT),
            ("File too large", errno.EFBIG),
            ("Too many open files", errno.EMFILE),
            ("Permission denied", errno.EACCES),
        ):
            if text.lower() in str(error).lower():
                return number
        error = error.__cause__ or error.__context__
    return None
