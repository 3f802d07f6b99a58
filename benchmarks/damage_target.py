"""What is fed to a reader in damaged copies: how it is made, and how it is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


class Target:
    """Something that is read.

    Attributes:
        name: of it.
        make: writes the intact file or folder to a path.
        read: reads it, and returns what was read in a form that can be compared.
        accepts: whether a result of damaged input, other than the intact one, may be; by default any may where the
            format has no digests.
        prepare: called once before the first read, for imports and compilation.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Path], None],
        read: Callable[[Path], Any],
        accepts: Callable[[Any], bool] = lambda result: True,
    ) -> None:
        self.name, self.make, self.read, self.accepts = name, make, read, accepts
