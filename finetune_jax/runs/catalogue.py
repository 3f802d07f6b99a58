"""What there is below a folder of runs, read again and again while some of them go on."""

import dataclasses
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune_jax.runs import listing
from finetune_jax.runs.listing import RunRow

_SECONDS = 1.0
"""How long a list is taken for fresh."""

SHOWN = {
    ".html": "text/html",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".pdf": "application/pdf",
    ".csv": "text/csv",
    ".tex": "text/plain",
    ".md": "text/plain",
    ".txt": "text/plain",
    ".json": "application/json",
}
"""``{suffix: media type}`` of the files in the directories of runs and studies that are for people."""


@dataclasses.dataclass(frozen=True)
class Study:
    """A directory that keeps runs.

    Attributes:
        key: its path below the folder, parts separated by ``/``.
        runs: of it, how many there are.
        finished: how many of them have ended.
        best: the highest score of those; None without any.
        best_run: key of the run that has it.
        best_score: which score that is.
        has_page: whether the study has written its report.
    """

    key: str
    runs: int
    finished: int
    best: float | None
    best_run: str
    best_score: str
    has_page: bool


class Catalogue:
    """The runs and studies below a folder by their keys; may be asked from several threads.

    A key is the path below the folder, parts separated by ``/``. Only what was found by walking through the folder has
    one: no text from outside ever becomes a part of a path.
    """

    def __init__(self, folder: Path) -> None:
        """Look at a folder; links in it are not followed.

        Raises:
            UserError: there is no such folder.
        """
        self.folder = folder
        self._lock = threading.Lock()
        self._rows: dict[str, RunRow] = {}
        self._ended: dict[Path, tuple[int, float, RunRow]] = {}
        self._read_at = -_SECONDS
        self.runs()

    def runs(self) -> Mapping[str, RunRow]:
        """``{key: run}``, at most a second old, in alphabetical order."""
        with self._lock:
            if time.monotonic() >= self._read_at + _SECONDS:
                self._rows = {
                    path.relative_to(self.folder).as_posix(): self._row(path)
                    for path in listing.run_directories(self.folder)
                }
                self._read_at = time.monotonic()
            return self._rows

    def studies(self) -> Sequence[Study]:
        """The directories that keep some of the runs, in alphabetical order."""
        groups: dict[str, dict[str, RunRow]] = {}
        for key, row in self.runs().items():
            parts = key.split("/")
            if "runs" in parts[:-1]:
                groups.setdefault("/".join(parts[: parts.index("runs")]) or ".", {})[key] = row
        studies = []
        for key, rows in groups.items():
            scored = {name: row.score for name, row in rows.items() if row.finished and row.score is not None}
            best = max(scored, key=lambda name: scored[name], default="")
            page = (self.folder if key == "." else self.folder / key) / "report.html"
            ended = sum(row.finished for row in rows.values())
            which = rows[best].score_name if best else ""
            studies.append(Study(key, len(rows), ended, scored.get(best), best, which, page.is_file()))
        return studies

    def file(self, place: str) -> tuple[Path, str] | None:
        """A file that belongs to a run or a study, and its media type; None where there is no such file.

        Args:
            place: path below the folder, parts separated by ``/``; compared with what is there, never opened.
        """
        directory, _, name = place.rpartition("/")
        directory = directory or "."
        known = {*self.runs(), *(study.key for study in self.studies())}
        if directory not in known or (kind := SHOWN.get(os.path.splitext(name)[1])) is None:
            return None
        path = self.folder if directory == "." else self.folder / directory
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name == name and not name.startswith(".") and entry.is_file(follow_symlinks=False):
                    return Path(entry.path), kind
        return None

    def _row(self, path: Path) -> RunRow:
        """Of a run that has ended what was read before: to sum up the sizes of all its files takes time."""
        try:
            changed = (path / "summary.json").stat().st_mtime_ns
        except OSError:
            return listing.read(path)
        before = self._ended.get(path)
        if before is not None and before[0] == changed:
            return dataclasses.replace(before[2], age=max(0.0, time.time() - before[1]))
        row = listing.read(path)
        self._ended[path] = (changed, time.time() - row.age, row)
        return row
