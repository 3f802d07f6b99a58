"""The list of run directories as a table and as CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from finetune_jax.reports import tables


class Row(Protocol):
    """What the list needs of a run; see ``runs.listing.RunRow``."""

    @property
    def path(self) -> Path:
        """Directory."""

    @property
    def state(self) -> str:
        """How far it came."""

    @property
    def score(self) -> float | None:
        """Latest score, a share."""

    @property
    def score_name(self) -> str:
        """Which score."""

    @property
    def method(self) -> str:
        """What was trained."""

    @property
    def network(self) -> str:
        """Architecture."""

    @property
    def pretrained(self) -> str:
        """Weights."""

    @property
    def dataset(self) -> str:
        """Images."""

    @property
    def age(self) -> float:
        """Seconds."""

    @property
    def bytes(self) -> int:
        """Size."""


COLUMNS = ("run", "state", "score", "of", "method", "network", "data", "age", "size")


def selected(rows: Sequence[Row], folder: Path, *, sort: str, text: str = "") -> list[Mapping[str, Any]]:
    """Cells of the runs that hold a text, in order.

    Args:
        rows: of all runs.
        folder: that paths are shown relative to.
        sort: ``age`` (newest first), ``score`` (best first, those without one last), ``size`` or ``name``.
        text: what the path, method, network, data or state must hold; empty takes all.
    """
    keys: dict[str, Any] = {
        "age": lambda row: row.age,
        "score": lambda row: (row.score is None, -(row.score or 0.0)),
        "size": lambda row: -row.bytes,
        "name": lambda row: str(row.path),
    }
    cells = [(row, _cells(row, folder)) for row in sorted(rows, key=keys[sort])]
    searched = ("run", "state", "method", "network", "data")
    return [of for _, of in cells if any(text in str(of[column]) for column in searched)]


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Aligned text; scores in percent."""
    shown = [
        [
            row["run"],
            row["state"],
            "–" if row["score"] is None else tables.score_text(row["of"], row["score"]),
            tables.spoken(row["of"]),
            row["method"],
            row["network"],
            row["data"],
            duration(row["age"]),
            f"{row['size'] / 1e6:.1f} MB",
        ]
        for row in cells
    ]
    return tables.table(COLUMNS, shown)


def csv(cells: Sequence[Mapping[str, Any]]) -> str:
    """One line per run; scores as shares, ages in seconds, sizes in bytes."""
    rows = [["" if row[column] is None else row[column] for column in COLUMNS] for row in cells]
    return tables.csv_text([COLUMNS, *rows])


def duration(seconds: float) -> str:
    """A time in its largest whole unit.

    >>> duration(7300)
    '2 h'
    """
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def _cells(row: Row, folder: Path) -> dict[str, Any]:
    name = str(row.path.relative_to(folder)) if row.path != folder else row.path.name
    return {
        "run": name,
        "state": row.state,
        "score": row.score,
        "of": row.score_name,
        "method": row.method,
        "network": row.network or row.pretrained,
        "data": row.dataset,
        "age": round(row.age, 1),
        "size": row.bytes,
    }
