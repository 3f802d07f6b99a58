"""What an experiment tracker is to a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Beginning:
    """What a tracker is told at every start of a run.

    Attributes:
        directory: of the run.
        project: that groups runs.
        flags: of the run, plain JSON.
        known_as: the id that the tracker gave to the run at an earlier start; empty at the first.
    """

    directory: Path
    project: str
    flags: Mapping[str, Any]
    known_as: str = ""

    @property
    def name(self) -> str:
        """Of the run, for people."""
        return self.directory.absolute().name


class Logger(Protocol):
    """A run in a tracker."""

    @property
    def id(self) -> str:
        """By which the same run is found at the next start."""

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Numbers of an epoch, by name."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run has ended with this summary."""

    def close(self, *, failed: bool) -> None:
        """The process goes on without the run, which has perhaps not ended; ``failed`` by an error."""


def scalars(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a summary."""
    return {
        name: float(value)
        for name, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
