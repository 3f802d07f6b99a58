"""The trained networks that the app has in use, a few at a time, one request after the other."""

import collections
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from finetune_jax.files import checkpoints
from finetune_jax.runs import label_check
from finetune_jax.runs.label_check import Finding
from finetune_jax.runs.photo import Labelled, Viewer

_VIEWERS, _LISTS = 2, 6


class Mistakes(NamedTuple):
    """What a run says of a split.

    Attributes:
        split: its images.
        findings: those that are taken for another class than their label; none of several labels or numbers.
        distant: of several labels and numbers, see ``label_check.by_distance``.
    """

    split: Labelled
    findings: list[Finding]
    distant: list[tuple[int, list[tuple[str, str]]]]


class Workbench:
    """Networks and what they said, kept until others take their place or a better checkpoint is there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._viewers: collections.OrderedDict[tuple[object, ...], Viewer] = collections.OrderedDict()
        self._mistakes: collections.OrderedDict[tuple[object, ...], Mistakes] = collections.OrderedDict()

    @contextlib.contextmanager
    def viewer(self, run: Path) -> Iterator[Viewer]:
        """The best checkpoint of a run, for the caller alone until the block ends.

        Raises:
            UserError: there is none yet, or it cannot be read.
        """
        with self._lock:
            yield self._viewer(run)

    def mistakes(self, run: Path, split: str) -> tuple[Viewer, Mistakes]:
        """What a run says of a split; errors as of :meth:`viewer` and ``Viewer.labelled``."""
        with self._lock:
            viewer = self._viewer(run)
            key = (*_state(run), split)
            if key not in self._mistakes:
                labelled = viewer.labelled(split)
                self._mistakes[key] = (
                    Mistakes(labelled, [], label_check.by_distance(labelled, viewer.card))
                    if labelled.labels.ndim == 2
                    else Mistakes(labelled, label_check.findings(labelled), [])
                )
            _keep(self._mistakes, key, _LISTS)
            return viewer, self._mistakes[key]

    def _viewer(self, run: Path) -> Viewer:
        key = _state(run)
        if key not in self._viewers:
            self._viewers[key] = Viewer(run)
        _keep(self._viewers, key, _VIEWERS)
        return self._viewers[key]


def _state(run: Path) -> tuple[object, ...]:
    """A run and its best checkpoints."""
    folders = [run / name for name in ("checkpoints", "compact")]
    return (run, *map(checkpoints.best_step, folders))


def _keep(entries: collections.OrderedDict, key: tuple[object, ...], most: int) -> None:
    entries.move_to_end(key)
    while len(entries) > most:
        entries.popitem(last=False)
