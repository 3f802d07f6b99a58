"""Who decides the learning rates of a pass over the training images, and whether the pass counts.

A tuner is a set of pure functions around a state of host arrays, which the loop keeps in its checkpoints. The
passes of one epoch start from the same weights and batch statistics and see the same images in the same
order; the first one that the tuner accepts makes the epoch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from finetune_jax.algorithms import autolr

TunerState = Any
"""Pytree of host arrays; ``{}`` where a tuner remembers nothing."""


class Pass(NamedTuple):
    """What a pass over the training images came to.

    Attributes:
        epoch: 0-based.
        variations: float32 ``[K]``, weight variation of each trained block (AutoLR, Eq. 1, or the tuner's measure).
        finite: whether its losses and the weights after it are finite.
        signal: float64 ``[K]``, signal-to-noise ratio of the gradient of each trained block after the pass; None where
            nobody asks for it.
    """

    epoch: int
    variations: np.ndarray
    finite: bool
    signal: np.ndarray | None = None


class Verdict(NamedTuple):
    """What a tuner says of a pass.

    Attributes:
        accepted: whether the next epoch starts from its weights; otherwise it is thrown away.
        trial: 1-based number of the pass within its epoch.
        quality: sorting quality of the variations, None where there is nothing to sort.
        threshold: quality from which on it was accepted, None where none is asked for.
        targets: ``{block: variation}`` that the next pass aims at, empty where there is none.
        remark: for the log, empty where there is nothing to say.
    """

    accepted: bool
    trial: int
    quality: float | None
    threshold: float | None
    targets: Mapping[str, float]
    remark: str


class Tuner(Protocol):
    """Rates of passes, and judgement of passes; pure functions of ``state``."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the K blocks whose variations are measured."""

    @property
    def measure(self) -> str:
        """How variations are measured, one of ``weight_variation.MEASURES``."""

    @property
    def can_reject(self) -> bool:
        """Whether passes may be thrown away, each starting without momentum."""

    @property
    def renews(self) -> bool:
        """Whether passes start without momentum even if none is thrown away."""

    def initial(self) -> TunerState:
        """The state before the first pass."""

    def rates(self, state: TunerState, epoch: int) -> dict[str, float]:
        """``{part: learning rate}`` of the next pass, one for every trained part."""

    def judge(self, state: TunerState, outcome: Pass) -> tuple[TunerState, Verdict]:
        """The state for the next pass, and what becomes of this one.

        Raises:
            Diverged: the run cannot go on.
        """


@dataclasses.dataclass(frozen=True)
class FixedRates:
    """Rates that depend on the epoch alone; every pass counts.

    Attributes:
        blocks: names of the trained blocks.
        schedule: epoch to ``{part: learning rate}``.
    """

    blocks: tuple[str, ...]
    schedule: Callable[[int], dict[str, float]]
    measure = "mean"
    can_reject = False
    renews = False

    def initial(self) -> TunerState:
        """Nothing to remember."""
        return {}

    def rates(self, state: TunerState, epoch: int) -> dict[str, float]:
        """The schedule's."""
        return self.schedule(epoch)

    def judge(self, state: TunerState, outcome: Pass) -> tuple[TunerState, Verdict]:
        """Accepted."""
        several = len(self.blocks) > 1
        quality = float(autolr.sorting_quality(outcome.variations)) if several else None
        return state, Verdict(True, 1, quality, None, {}, "")
