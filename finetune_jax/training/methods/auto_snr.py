"""Auto-SNR: blocks whose gradient is mostly noise stay as they are for an epoch.

Lee et al., "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts" (ICLR 2023): the signal-to-noise ratio of
the gradients of a few batches is measured anew for every epoch and divided by the largest of all; layers below a
threshold are frozen. Here a layer is a block, the threshold is one of our own, and the first epoch trains all blocks.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from finetune_jax.algorithms import block_rates
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.training.methods.auto_rgn import AutoRGN, RGNTuner, RGNTuning
from finetune_jax.training.tuning import Pass, Tuner

THRESHOLD = 0.25
"""Share of the largest ratio below which a block is frozen; the paper leaves it to the user."""


@dataclasses.dataclass(frozen=True)
class AutoSNR(AutoRGN):
    """All parts are trained; blocks whose gradients are mostly noise wait for an epoch in which they are not."""

    asks_signal: ClassVar[bool] = True

    def tuner(self, config: FinetuneConfig, trained: tuple[str, ...]) -> Tuner:
        """Auto-SNR."""
        return self.tuner_of(SNRTuner, config, trained)


@dataclasses.dataclass(frozen=True)
class SNRTuner(RGNTuner):
    """The rate or none for each block, from the gradients after the epoch before; the rest as of ``RGNTuner``."""

    measure = "mean"

    def next_factors(self, state: RGNTuning, outcome: Pass) -> np.ndarray:
        """1 or 0 for each block; 1 where no gradients were looked at."""
        if outcome.signal is None:
            return np.ones(len(self.blocks))
        return block_rates.clear_gradients(outcome.signal, THRESHOLD)
