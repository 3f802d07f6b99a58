"""Rates that nobody has to choose: the scale and the proportions of the blocks are found in rehearsals before training.

Our own. A rehearsal is the run in small: a few steps from its start under a cosine of their own, measured on training
images that were left out. A constant rate would be judged too high or too low, since what the fall of the rates brings
at the end of a run would be missing.

1. Scale: a climb over rates that all parts share, half a decade apart, from ``--learning_rate``.
2. Proportions: at the best of them, whether the run is better where all blocks move alike, relative to their weights
   (the measure of AutoLR that does not depend on the size of a block), and whether a head that learns faster helps.
"""

import dataclasses
import math
from collections.abc import Mapping

from finetune_jax.algorithms import block_rates, rate_search
from finetune_jax.config.resolution import number
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.training import rate_finder
from finetune_jax.training.methods.method import Found
from finetune_jax.training.methods.plain import Standard
from finetune_jax.training.rehearsal import Rehearsals, Rehearsed

_FACTOR = math.sqrt(10)
_SHARE = 0.6  # of the steps of the run, which all rehearsals together may take
_MOST_SCALES, _MOST_PROPORTIONS = 6, 2
_FEWEST_STEPS, _MOST_STEPS = 8, 100
_BETTER = 0.98  # of the loss, from which on proportions other than equal rates are taken
_HEAD_FACTOR = 3.0


@dataclasses.dataclass(frozen=True)
class Auto(Standard):
    """All parts are trained, at rates found before training."""

    def find(self, config: FinetuneConfig, rehearsals: Rehearsals) -> Found:
        """Scale first, then proportions.

        Raises:
            UserError: training diverged at every rate.
        """
        trained = tuple(rehearsals.state.params)
        share = _SHARE * rehearsals.steps_of_run / (_MOST_SCALES + _MOST_PROPORTIONS)
        steps = int(min(max(share, _FEWEST_STEPS), _MOST_STEPS))

        def rehearse(rate: float, factors: Mapping[str, float]) -> Rehearsed:
            changed = dataclasses.replace(config, rate_factors=_as_setting(factors))
            peaks = rate_finder.rates_at(changed, lambda config: self.tuner(config, trained), rate)
            return rehearsals.run(peaks, steps)

        start = number(config.learning_rate)
        losses = rate_search.climb(
            lambda rate: rehearse(rate, {}).loss, start, factor=_FACTOR, most=_MOST_SCALES
        )
        if not any(map(math.isfinite, losses.values())):
            raise UserError(
                f"--method=auto: training diverged at all rates from {min(losses):g} to {max(losses):g}; give a lower "
                "--learning_rate to start from, or check the images with finetune-jax check_data"
            )
        rate = rate_search.lowest_between(losses)
        best = min(rehearsals.log, key=lambda rehearsed: rehearsed.loss)
        alike = block_rates.alike(best.movements)
        if "stem" in trained:
            alike["stem"] = alike[rehearsals.blocks[0]]
        proportions: dict[str, Mapping[str, float]] = {
            "blocks that move alike": alike,
            f"{_HEAD_FACTOR:g} times as much for the head": {"head": _HEAD_FACTOR},
        }
        chosen, factors, lowest = "the same for all parts", dict[str, float](), best.loss
        for name, tried in proportions.items():
            loss = rehearse(rate, tried).loss
            if loss < _BETTER * lowest:
                chosen, factors, lowest = name, dict(tried), loss
        reason = (
            f"{rate:g}, {chosen}; the best of {len(rehearsals.log)} trials of {steps} steps, on "
            f"{len(rehearsals.held_out)} training images that these left out"
        )
        return Found({"learning_rate": rate, "rate_factors": _as_setting(factors)}, reason)


def _as_setting(factors: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(f"{name}={factor:.4g}" for name, factor in factors.items())
