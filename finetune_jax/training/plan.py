"""The plan of a training: what the loop needs to know."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from finetune_jax.training.state import TrainState
from finetune_jax.training.tuning import Tuner

AfterEpoch = Callable[[Mapping[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one run does in its epochs.

    Attributes:
        epochs: at most this many.
        batch_size: images per step over all replicas.
        order: epoch to index array ``[steps, batch_size]``, the same number of steps every epoch.
        tuner: decides the learning rates of each pass, and whether it counts.
        evaluate: state to measured numbers, None where one is not measured yet; the one named ``score`` decides.
        score: name of the number that chooses the best checkpoint (larger is better); empty takes the last.
        patience: stop after this many epochs without a better score; 0 never.
        checkpoint_steps: also save every this many steps; 0 only after epochs.
        keep_best: so many of the best epochs keep their checkpoints.
        in_shares: whether the parameters are in shares over the devices, see ``devices.shares``.
        keep_trials: also record the weights of every pass that a tuner may reject.
        tables: epoch to the tables of the state, see ``TrainState``.
        signal: state after a pass to the signal-to-noise ratios ``[K]`` of gradients there; None where nobody asks.
        average: ``(state, epoch) → state`` after the steps of an epoch, with the averages of epochs brought up to date.
        after_epoch: called with the row of ``metrics.csv`` of an epoch once all is saved; what it raises ends the run.
        card: what prediction needs beside the variables, JSON.
    """

    epochs: int
    batch_size: int
    order: Callable[[int], np.ndarray]
    tuner: Tuner
    evaluate: Callable[[TrainState], Mapping[str, float | None]]
    score: str
    patience: int
    checkpoint_steps: int
    card: Mapping[str, Any]
    keep_best: int = 1
    in_shares: bool = False
    keep_trials: bool = False
    tables: Callable[[int], dict[str, Any]] = lambda epoch: {}
    signal: Callable[[TrainState], np.ndarray] | None = None
    average: Callable[[TrainState, int], TrainState] | None = None
    after_epoch: AfterEpoch | None = None


class Start(NamedTuple):
    """Where the passes of an epoch start: what the steps change and a tuner may want back."""

    params: Any
    batch_stats: Any


class Steps(NamedTuple):
    """Steps that a run asks for.

    Attributes:
        epoch: 0-based.
        step_in_epoch: of the first one, 0-based.
        state: before it; may be used up.
        order: int ``[steps, batch_size]``, the batches.
    """

    epoch: int
    step_in_epoch: int
    state: TrainState
    order: np.ndarray
