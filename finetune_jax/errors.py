"""What ends a run without being a defect of the program: bad input, being pruned, being asked to stop."""

import csv
import signal
import struct
import tokenize
import zipfile
import zlib

DAMAGE: tuple[type[Exception], ...] = (
    ArithmeticError,  # OverflowError: a size above 2**63
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,  # zip archives that ask for a later version of the format
    RecursionError,
    RuntimeError,  # encrypted members of a zip archive
    StopIteration,
    SyntaxError,  # headers of NumPy arrays are Python literals
    TypeError,
    ValueError,  # JSON and Unicode errors among them
    csv.Error,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What parsers of JSON, CSV, NumPy arrays, zip archives and pickles raise for damaged input."""

MESSAGE_LENGTH = 2000
"""Characters of a message that are shown."""


class UserError(Exception):
    """Bad input: a flag, a file, a data set or a checkpoint.

    The message is one sentence or a short list that names the flag or file and says what to do. Binaries
    print it without a traceback and exit with status 1.
    """


class Diverged(UserError):
    """Losses or weights are no longer finite: the learning rates were too high, or the images are bad."""


class Pruned(Exception):
    """A sweep has ended the run, which does worse than others did; its state is saved."""


class Stopped(Exception):
    """The run was asked to stop and has saved its state; the same flags go on with it.

    Attributes:
        status: exit status of a binary that ends for this reason: 128 and the number of the signal.
    """

    def __init__(self, message: str, *, signum: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.status = 128 + signum


def readable(text: object, limit: int = 300) -> str:
    r"""A text from elsewhere (a file name, a parser's reason) as one line that a terminal can show.

    Args:
        text: anything; ``str`` of it is shown.
        limit: characters to show. The middle of a longer text is left out: paths tell most at their end.

    Returns:
        The text with control characters and undecodable bytes escaped as in Python.

    >>> readable("new\nline\x1b[2J")
    'new\\nline\\x1b[2J'
    >>> readable("name of a long file.png", 12)
    'name of….png'
    """
    shown = str(text)
    if len(shown) > limit:
        end = limit // 3
        shown = f"{shown[: limit - end - 1]}…{shown[len(shown) - end :]}"
    return "".join(character if character.isprintable() else _escaped(character) for character in shown)


def message(error: BaseException) -> str:
    """The text of an error as it is printed: :func:`readable` line by line, cut to :data:`MESSAGE_LENGTH`."""
    lines = (str(error).strip() or type(error).__name__).split("\n")
    text = "\n".join(readable(line, MESSAGE_LENGTH) for line in lines)
    return text if len(text) <= MESSAGE_LENGTH else f"{text[: MESSAGE_LENGTH - 1]}…"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
