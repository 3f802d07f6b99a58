"""Trials of a run on disk: every pass over the training images that a tuner judged.

A record is an Orbax checkpoint of the tuner's state after the trial, with the row that ``passes.csv`` shows of
it and, on request, the weights. A run that is killed reads the records made since its last checkpoint and
trains none of those trials again.
"""

from pathlib import Path
from typing import Any, NamedTuple

from finetune_jax.files import checkpoints


class Trial(NamedTuple):
    """One trial.

    Attributes:
        accepted: whether its weights were taken.
        tuning: pytree of arrays, state of the tuner for the next pass.
        row: of ``passes.csv``.
    """

    accepted: bool
    tuning: Any
    row: dict[str, Any]


class Trials:
    """The ``trials/`` folder of one run, written by process 0 and read by all.

    Records are numbered from 0 in the order of the passes.
    """

    def __init__(self, directory: Path, *, writable: bool) -> None:
        self._directory = directory.absolute()
        self._writer = checkpoints.Checkpoints(self._directory, writable=writable, keep_all=True)

    def add(self, number: int, trial: Trial, variables: Any = None) -> None:
        """Record a trial in the background; one that is there already is left as it is.

        Raises:
            UserError: the disk is full or not writable.
        """
        items = {"tuning": trial.tuning} | ({} if variables is None else {"variables": variables})
        self._writer.save(number, items, {"accepted": trial.accepted, "row": trial.row})

    def read(self, number: int, tuning: Any) -> Trial | None:
        """The record of that number, None where there is none.

        Args:
            number: of the pass.
            tuning: a state of the same tuner.

        Raises:
            UserError: the record cannot be read.
        """
        if number not in checkpoints.whole_steps(self._directory):
            return None
        meta = checkpoints.read_meta(self._directory, number)
        state = checkpoints.restore_item(self._directory, number, "tuning", tuning)
        return Trial(meta["accepted"], state, meta["row"])

    def close(self) -> None:
        """Wait until everything is on disk; errors as of :meth:`add`."""
        self._writer.close()
