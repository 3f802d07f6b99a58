"""Auto-SNR: blocks whose gradient is mostly noise stay as they are for an epoch.

Lee et al., "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts" (ICLR 2023): the signal-to-noise ratio of
the gradients of a few batches is measured anew for every epoch and divided by the largest of all; layers below a
threshold are frozen. Here a layer is a block, the threshold is one of our own, and the first epoch trains all blocks.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from finetune_jax.algorithms import autolr, block_rates
from finetune_jax.config.resolution import number
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.training import rates
from finetune_jax.training.methods.auto_rgn import RGNTuner, RGNTuning
from finetune_jax.training.methods.plain import Standard
from finetune_jax.training.tuning import Pass, Tuner, Verdict

THRESHOLD = 0.25
"""Share of the largest ratio below which a block is frozen; the paper leaves it to the user."""


@dataclasses.dataclass(frozen=True)
class AutoSNR(Standard):
    """All parts are trained; blocks whose gradients are mostly noise wait for an epoch in which they are not."""

    asks_signal: ClassVar[bool] = True

    def tuner(self, config: FinetuneConfig, trained: tuple[str, ...]) -> Tuner:
        """Auto-SNR."""
        rate = number(config.learning_rate)
        beside = rates.beside_network(config, trained, self.peak_rates(config))
        if "head" in trained:
            beside["head"] = config.head_learning_rate or rate
        stem = "stem" if "stem" in trained else None
        return SNRTuner(rates.blocks_of(trained), rate, beside, stem, rates.decay(config))


@dataclasses.dataclass(frozen=True)
class SNRTuner(RGNTuner):
    """The rate or none for each block, from the gradients after the epoch before; the rest as of ``RGNTuner``."""

    measure = "mean"

    def judge(self, state: RGNTuning, outcome: Pass) -> tuple[RGNTuning, Verdict]:
        """Accepted; the factors of the next epoch."""
        factors = np.ones(len(self.blocks))
        if outcome.signal is not None:
            factors = block_rates.clear_gradients(outcome.signal, THRESHOLD)
        quality = float(autolr.sorting_quality(outcome.variations)) if len(self.blocks) > 1 else None
        return RGNTuning(factors.astype(np.float32)), Verdict(True, 1, quality, None, {}, "")
