"""The directory of a run: its flags, metrics, log, TensorBoard events and summary.

Checkpoints live in its ``checkpoints/`` folder and are the business of ``finetune_jax.files.checkpoints``. While a
process trains in it, it is locked (``finetune_jax.files.lock``).
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from finetune_jax.config import recorded
from finetune_jax.config.choices import TASKS
from finetune_jax.config.declaration import declared
from finetune_jax.config.settings import DataConfig
from finetune_jax.errors import Stopped, UserError, message, readable
from finetune_jax.files import causes, lock, readers, run_places
from finetune_jax.files.event_log import EventLog
from finetune_jax.files.loggers.opened import Loggers
from finetune_jax.files.whole_file import replace_whole

Config = TypeVar("Config")

_FLAGS = "flags.json"
_LOG = "run.log"
_RESOLVED = "resolved"
STARTING_VERSION = "starting_version"
"""Among what the flags came to: version of the values that they started from."""
# How long a process waits to see the directory that process 0 has made; network file systems show it late.
_CLAIM_SECONDS = 10.0


class RunDirectory:
    """Writes the files of one run; with ``primary=False`` (other processes of a job) it only reads.

    As a context manager it is locked against other processes, from :meth:`claim` on to the end of the block.
    """

    def __init__(self, path: Path, *, primary: bool = True) -> None:
        self.path = path
        self._primary = primary
        self._events = EventLog(path / "tensorboard")
        self._locking = False
        self._lock: lock.Lock | None = None
        self._loggers: Loggers | None = None

    def __enter__(self) -> "RunDirectory":
        self._locking = self._primary
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with contextlib.suppress(UserError):
            if error is not None and self._lock is not None:
                self.note(message(error))
        if self._loggers is not None:
            self._loggers.close(failed=kind not in (None, Stopped))
            self._loggers = None
        held, self._lock = self._lock, None
        self._locking = False
        if held is not None:
            held.release()

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def compact(self) -> Path:
        """The folder of the checkpoint that prediction prefers to all others; most methods make none."""
        return self.path / "compact"

    @property
    def trials(self) -> Path:
        """The folder of recorded trials."""
        return self.path / "trials"

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary, if the run has ended."""
        file = self.path / "summary.json"
        if not file.exists():
            return None
        return readers.json_object(
            file, "delete it, and the same command writes it anew from the checkpoints"
        )

    @property
    def resolved(self) -> dict[str, Any] | None:
        """What :meth:`claim` was told that the flags came to; None where no run has begun, or an older one."""
        run_flags = self._flags()
        return None if run_flags is None else run_flags.get(_RESOLVED)

    @property
    def starting_version(self) -> int | None:
        """Version of the values that the run's flags started from; None where no run has begun."""
        run_flags = self._flags()
        return None if run_flags is None else int((run_flags.get(_RESOLVED) or {}).get(STARTING_VERSION, 1))

    def as_begun(self, config: Config) -> Config:
        """The config for going on with the run that lives here, see ``recorded.as_begun``; else as it is."""
        run_flags = self._flags()
        return config if run_flags is None else recorded.as_begun(config, run_flags)

    def claim(self, flags: Mapping[str, Any], resolved: Mapping[str, Any] | None = None) -> None:
        """Make the directory the home of a run with these flags, or go on with the one that lives there.

        Other processes of a job wait here for process 0, which locks it for all of them.

        Args:
            flags: as given.
            resolved: what they came to with the data of the run, kept beside them, JSON.

        Raises:
            UserError: it cannot be written, holds something else, a run with other flags (named), or another process
                trains in it (named with its host).
        """
        if self._primary:
            self.check(flags)
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"--workdir={readable(self.path)} cannot be created: {error.strerror}"
                ) from error
            if self._locking and self._lock is None:
                self._lock = lock.acquire(self.path)
        run_flags = self._flags() if self._primary else self._wait_for_flags()
        if run_flags is not None:
            self._check_same(run_flags, flags)
            return
        content = recorded.lasting(flags) | ({} if resolved is None else {_RESOLVED: dict(resolved)})
        self._write(_FLAGS, json.dumps(content, indent=2, sort_keys=True) + "\n")

    def check(self, flags: Mapping[str, Any]) -> None:
        """Whether :meth:`claim` would find a free directory or a run with these flags; changes nothing.

        Raises:
            UserError: the directory holds something else, a run with other flags (named), or another process trains in
                it (named with its host).
        """
        if self._primary:
            lock.refuse_if_held(self.path)
        run_flags = self._flags()
        if run_flags is not None:
            self._check_same(run_flags, flags)

    def open_loggers(self, names: Sequence[str], project: str, flags: Mapping[str, Any]) -> None:
        """Tell trackers of the run from now on, those too that it began with; they are closed with the block.

        Args:
            names: of the trackers, see ``finetune_jax.files.loggers``.
            project: that groups runs there.
            flags: of the run.

        Raises:
            UserError: one cannot be reached or is not installed.
        """
        if self._primary:
            self._loggers = Loggers(names, project, self.path, recorded.lasting(flags), self._write)

    def note(self, text: str) -> None:
        """Append lines with the time to ``run.log``, for people.

        Raises:
            UserError: it cannot be written.
        """
        if not self._primary:
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with (
            self._explained(_LOG),
            (self.path / _LOG).open("a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write("".join(f"{now}  {line}\n" for line in text.splitlines()))

    def _check_same(self, run_flags: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
        now = recorded.lasting(flags)
        run_flags = {name: value for name, value in run_flags.items() if name != _RESOLVED}
        before = recorded.lasting(recorded.completed(run_flags))
        differing = sorted(name for name in {*now, *run_flags} if now.get(name) != before.get(name))
        if (
            differing == ["epochs"]
            and (self.path / "summary.json").exists()
            and now["epochs"] > before["epochs"]
        ):
            raise UserError(
                f"--workdir={readable(self.path)} holds a run that has finished its {before['epochs']} epochs, and its "
                f"schedule with them; to train it further: finetune-jax resume {readable(self.path)} "
                f"--epochs={now['epochs']}"
            )
        if differing:
            changes = ", ".join(f"--{name}={now.get(name)} (was {before.get(name)})" for name in differing)
            raise UserError(
                f"--workdir={self.path} holds a run with other flags: {changes}; "
                f"give the same flags to go on with it (finetune-jax resume {readable(self.path)} does), or another "
                "--workdir"
            )

    def _flags(self) -> dict[str, Any] | None:
        """Flags of the run that lives here; None for a directory that is free to take."""
        try:
            # One look: between two, process 0 may move in.
            names = {entry.name for entry in self.path.iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(
                f"--workdir={readable(self.path)} cannot be read: {causes.reason(error)}"
            ) from error
        if _FLAGS in names:
            try:
                return readers.json_object(
                    self.path / _FLAGS, "bring it back from a copy, or choose another --workdir"
                )
            except UserError as error:
                raise UserError(f"--workdir={readable(self.path)} cannot be read: {error}") from error
        # A kill while the flags were written leaves their temporary file, and one at any time the lock.
        if any(name != _temporary(_FLAGS) and not name.startswith(lock.NAME) for name in names):
            raise UserError(
                f"--workdir={readable(self.path)} exists and is not a run directory; choose another one"
            )
        return None

    def _wait_for_flags(self) -> dict[str, Any]:
        deadline = time.monotonic() + _CLAIM_SECONDS
        while (run_flags := self._flags()) is None:
            if time.monotonic() > deadline:
                raise UserError(
                    f"--workdir={self.path} was not set up by process 0; see its output, "
                    "and give a directory that all processes share"
                )
            with contextlib.suppress(OSError):
                os.listdir(self.path.parent)  # makes a network file system look again
            time.sleep(0.1)
        return run_flags

    def read_metrics(self) -> list[dict[str, str]]:
        """Rows of ``metrics.csv``, one per epoch, as text."""
        return self._rows("metrics.csv")

    def read_passes(self) -> list[dict[str, str]]:
        """Rows of ``passes.csv``, one per pass over the training images, as text."""
        return self._rows("passes.csv")

    def drop_rows_after(self, step: int) -> None:
        """Forget rows of epochs and passes that a restored checkpoint does not know, and rows cut short."""
        for name in ("metrics.csv", "passes.csv"):
            rows = self._rows(name)
            kept = [row for row in rows if None not in row.values() and int(row["step"]) <= step]
            if self._primary and len(kept) < len(rows):
                self._write(name, _as_csv(kept, list(rows[0])))

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a row to ``metrics.csv`` and to TensorBoard.

        Args:
            row: ``epoch`` and ``step`` first; numbers, or None for an empty cell. The same names every time.

        Raises:
            UserError: a file cannot be written.
        """
        self._append("metrics.csv", row)
        self.add_scalars(row, int(row["epoch"]))

    def add_pass(self, row: Mapping[str, Any]) -> None:
        """Append a row to ``passes.csv``; arguments and errors as of :meth:`add_metrics`."""
        self._append("passes.csv", row)

    def _rows(self, name: str) -> list[dict[str, str]]:
        advice = (
            "delete it, and the run goes on without the rows of earlier epochs, or bring it back from a copy"
        )
        return readers.table(self.path / name, advice, whole_numbers=("epoch", "step"))

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        cells = {name: _cell(value) for name, value in row.items()}
        # All of it, so that a kill or a full disk leaves the old file or the new one.
        self._write(name, _as_csv([*self._rows(name), cells], list(row)))

    def add_scalars(self, values: Mapping[str, Any], epoch: int) -> None:
        """Write numbers to TensorBoard only.

        Raises:
            UserError: the file cannot be written.
        """
        if not self._primary:
            return
        numbers = {name: value for name, value in values.items() if name not in ("epoch", "step")}
        with self._explained("tensorboard"):
            self._events.add(numbers, epoch)
        if self._loggers is not None:
            self._loggers.log(numbers, epoch)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, the sign that the run has ended."""
        if self._loggers is not None:
            self._loggers.finish(summary)
        self._write("summary.json", json.dumps(summary, indent=2) + "\n")

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        self._write(name, content)

    def close(self) -> None:
        """Close the events.

        Raises:
            UserError: they cannot be written.
        """
        with self._explained("tensorboard"):
            self._events.close()

    def _write(self, name: str, content: str | bytes) -> None:
        if not self._primary:
            return
        if self._lock is not None:
            self._lock.check()
        temporary = self.path / _temporary(name)
        with self._explained(name):
            replace_whole(
                self.path / name, content if isinstance(content, bytes) else content.encode(), temporary
            )

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{readable(self.path / name)} cannot be written: {causes.reason(error)}; what was saved before is "
                f"intact; {causes.remedy(error, self.path / name)}"
            ) from error


def data_config_of(run: Path) -> DataConfig:
    """The data settings a run was trained with, and as what it took the labels; errors as of :func:`config_of_run`."""
    config = config_of_run(run, DataConfig)
    resolved = readers.json_object(run / _FLAGS, "name the directory of a run").get(_RESOLVED)
    # Runs from before there were other tasks took labels for classes.
    task = resolved.get("task", "classification") if isinstance(resolved, dict) else "classification"
    if config.task != "auto" or config.protocol == "retrieval" or task not in TASKS:
        return config
    return dataclasses.replace(config, task=task)


def config_of_run(run: Path, config_class: type[Config]) -> Config:
    """The settings a run was trained with, those of a config class.

    Raises:
        UserError: the directory is not of a run.
    """
    if not (run / _FLAGS).exists():
        raise UserError(run_places.why_unusable(run))
    try:
        flags = readers.json_object(run / _FLAGS, "name the directory of a run")
    except UserError as error:
        raise UserError(f"--run={readable(run)} is no run directory: {error}") from error
    _check_kinds(run, flags)
    return recorded.config_of(flags, config_class)


def _check_kinds(run: Path, flags: Mapping[str, Any]) -> None:
    """Refuse flags of other types than the settings have."""
    for name, setting in declared(DataConfig).items():
        like = setting.default
        if name not in flags or like is None:
            continue
        value = flags[name]
        kinds = (int, float) if type(like) is float else (list, tuple) if type(like) is tuple else type(like)
        if not isinstance(value, kinds):
            raise UserError(
                f"--run={readable(run)} is no intact run directory: {_FLAGS} has "
                f"{name}={readable(repr(value), 40)}"
            )


def _temporary(name: str) -> str:
    return f".{name}.tmp"


def _as_csv(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None else repr(value) if isinstance(value, float) else value
