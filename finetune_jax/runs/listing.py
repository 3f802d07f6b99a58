"""The run directories below a folder: what each trained on what, how far it came, how much room it takes."""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_jax.config import recorded
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import RunDirectory

_FLAGS = "flags.json"
_FOLDERS_OF_RUNS = ("checkpoints", "compact", "trials", "tensorboard")
_DEPTH = 6
_TRAINING = "training"


@dataclasses.dataclass(frozen=True)
class RunRow:
    """One run.

    Attributes:
        path: its directory.
        state: ``finished``, ``epoch 3 of 20``, ``not begun``, or ``unreadable``.
        score: of the test images if it has finished, else the latest of the validation images; None without any.
        score_name: which score that is.
        method: as in ``--method``.
        network: architecture; empty follows the pretrained weights.
        pretrained: as in ``--pretrained``.
        dataset: as in ``--dataset``.
        age: seconds since something was written.
        bytes: size of all its files.
    """

    path: Path
    state: str
    score: float | None
    score_name: str
    method: str
    network: str
    pretrained: str
    dataset: str
    age: float
    bytes: int

    @property
    def finished(self) -> bool:
        """Whether it has been trained and tested to the end."""
        return self.state == "finished"


def run_directories(folder: Path) -> list[Path]:
    """Directories of runs at or below a folder, also those that studies keep, in alphabetical order.

    Links are not followed.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder.absolute()}: there is no such folder")
    return list(_walk(folder, _DEPTH))


def read(path: Path) -> RunRow:
    """The row of a run; of a damaged one, what can be read."""
    size, latest = _size(path)
    config = FinetuneConfig()
    state, score, score_name = "unreadable", None, ""
    try:
        config = recorded.config_of(json.loads((path / _FLAGS).read_text()), FinetuneConfig)
        directory = RunDirectory(path)
        summary = directory.summary
        rows = directory.read_metrics()
        if summary is not None:
            state, score_name = "finished", str(summary.get("score", ""))
            score = _number(summary.get(score_name))
        elif rows:
            state = f"epoch {int(rows[-1]['epoch'])} of {config.epochs}"
            score_name = next((name for name in rows[-1] if _is_score(name)), "")
            score = _number(rows[-1].get(score_name))
        else:
            state = "not begun"
    except (OSError, ValueError, TypeError, KeyError, UserError):
        pass
    return RunRow(
        path=path,
        state=state,
        score=score,
        score_name=score_name,
        method=config.method,
        network=config.network,
        pretrained=config.pretrained,
        dataset=config.dataset,
        age=max(0.0, time.time() - latest),
        bytes=size,
    )


def free(path: Path) -> int:
    """Delete what only training needs from the checkpoints of a finished run; returns the bytes.

    Prediction, evaluation and ``--pretrained`` need none of it.

    Raises:
        UserError: the run has not finished.
    """
    if not (path / "summary.json").is_file():
        raise UserError(f"{path.absolute()} has not finished; it needs its optimiser's state to go on")
    freed = 0
    for folder in (path / "checkpoints").glob(f"[0-9]*/{_TRAINING}"):
        freed += _size(folder)[0]
        # Renamed first: a kill leaves no half of it under its name.
        leftover = folder.with_name(f".{_TRAINING}.deleted")
        folder.rename(leftover)
        shutil.rmtree(leftover)
    return freed


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    if any(entry.name == _FLAGS for entry in entries):
        yield folder
    if not depth:
        return
    for entry in entries:
        hidden = entry.name.startswith(".") or entry.name in _FOLDERS_OF_RUNS
        if not hidden and entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, depth - 1)


def _size(path: Path) -> tuple[int, float]:
    """Bytes of all files below a folder, and when the latest of them was written."""
    total, latest = 0, 0.0
    for root, _, names in os.walk(path):
        for name in names:
            try:
                status = os.lstat(os.path.join(root, name))
            except OSError:
                continue
            total += status.st_size
            latest = max(latest, status.st_mtime)
    return total, latest


def _is_score(name: str) -> bool:
    return name.startswith("validation_") and "loss" not in name


def _number(value: Any) -> float | None:
    try:
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return None
