"""The directory of a run: its flags, metrics, TensorBoard events and summary.

Checkpoints live in its ``checkpoints/`` folder and are the business of ``finetune_jax.checkpoints``.
"""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_jax.config import DataConfig
from finetune_jax.errors import UserError

# Where a run keeps its things and how it uses the machine may change between two starts.
LOCAL_FLAGS = frozenset({"workdir", "cache_dir", "data_dir", "decode_workers"})


class RunDirectory:
    """Writes the files of one run; with ``primary=False`` (other processes of a job) it only reads."""

    def __init__(self, path: Path, *, primary: bool = True) -> None:
        self.path = path
        self._primary = primary
        self._events: Any = None

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary, if the run has ended."""
        file = self.path / "summary.json"
        return json.loads(file.read_text()) if file.exists() else None

    def claim(self, flags: Mapping[str, Any]) -> None:
        """Make the directory the home of a run with these flags, or go on with the one that lives there.

        Raises:
            UserError: it cannot be written, holds something else, or a run with other flags (named).
        """
        wanted = {name: value for name, value in flags.items() if name not in LOCAL_FLAGS}
        wanted = json.loads(json.dumps(wanted))
        file = self.path / "flags.json"
        if file.exists():
            found = json.loads(file.read_text())
            differing = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
            if differing:
                changes = ", ".join(
                    f"--{name}={wanted.get(name)} (was {found.get(name)})" for name in differing
                )
                raise UserError(
                    f"--workdir={self.path} holds a run with other flags: {changes}; "
                    "give the same flags to go on with it, or another --workdir"
                )
            return
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"--workdir={self.path} exists and is not a run directory; choose another one")
        if self._primary:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._write("flags.json", json.dumps(wanted, indent=2, sort_keys=True) + "\n")
            except OSError as error:
                raise UserError(f"--workdir={self.path} cannot be written: {error.strerror}") from error

    def read_metrics(self) -> list[dict[str, str]]:
        """Rows of ``metrics.csv``, as text."""
        file = self.path / "metrics.csv"
        if not file.exists():
            return []
        with file.open(newline="") as lines:
            return list(csv.DictReader(lines))

    def drop_metrics_after(self, step: int) -> None:
        """Forget rows of epochs that a restored checkpoint does not know."""
        rows = self.read_metrics()
        kept = [row for row in rows if int(row["step"]) <= step]
        if self._primary and len(kept) < len(rows):
            self._write("metrics.csv", _as_csv(kept, list(rows[0])))

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a row to ``metrics.csv`` (columns are those of the first row) and to TensorBoard.

        Args:
            row: ``epoch`` and ``step`` first; numbers, or None for an empty cell.
        """
        if not self._primary:
            return
        file = self.path / "metrics.csv"
        new = not file.exists()
        with file.open("a", newline="") as lines:
            writer = csv.DictWriter(lines, list(row))
            if new:
                writer.writeheader()
            writer.writerow({name: _cell(value) for name, value in row.items()})
        self.add_scalars(row, int(row["epoch"]))

    def add_scalars(self, values: Mapping[str, Any], epoch: int) -> None:
        """Write numbers to TensorBoard only."""
        if not self._primary:
            return
        if self._events is None:
            from tensorboardX import SummaryWriter

            # Events of epochs that are trained again after a kill hide the earlier ones.
            self._events = SummaryWriter(str(self.path / "tensorboard"), purge_step=epoch)
        for name, value in values.items():
            if value is not None and name not in ("epoch", "step"):
                self._events.add_scalar(name, float(value), epoch)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, the sign that the run has ended."""
        self._write("summary.json", json.dumps(summary, indent=2) + "\n")

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        self._write(name, content)

    def close(self) -> None:
        """Flush the events."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _write(self, name: str, content: str | bytes) -> None:
        if not self._primary:
            return
        temporary = self.path / f".{name}.tmp"
        with temporary.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)


def data_config_of(run: Path) -> DataConfig:
    """The data settings a run was trained with.

    Raises:
        UserError: the directory is not of a run.
    """
    try:
        flags = json.loads((run / "flags.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--run={run} is no run directory: flags.json cannot be read ({error})") from error
    return DataConfig(
        **{field.name: flags.get(field.name, field.default) for field in dataclasses.fields(DataConfig)}
    )


def _as_csv(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None else repr(value) if isinstance(value, float) else value
