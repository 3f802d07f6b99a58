"""The learning-rate finder, ``--learning_rate=find``: a range test before training."""

import dataclasses
import math
from collections.abc import Callable

from finetune_jax.algorithms import rate_search
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.training import rates
from finetune_jax.training.rehearsal import Rates, Rehearsals
from finetune_jax.training.tuning import Tuner

STEPS = 100
_RANGES = {"sgd": (1e-5, 10.0)}
_RANGE = (1e-7, 0.1)  # of optimisers whose steps have the length of the rate
# The tenth of fastai's rule was too little for SGD under rates that fall to zero, wherever this was developed.
_DIVISORS = {"sgd": 3.0}
_DIVISOR = 10.0
_HOPELESS = 4.0  # times the lowest loss
_DECAY = 0.9


def find(
    config: FinetuneConfig, tuner: Callable[[FinetuneConfig], Tuner], rehearsals: Rehearsals
) -> tuple[float, str]:
    """The learning rate that a range test suggests, and why.

    The test takes :data:`STEPS` steps, fewer where the loss rises far before, and starts from the run's start. Parts
    keep the proportions of their rates; rates with a flag of their own keep these.

    Args:
        config: of the run, with any number as learning rate.
        tuner: of a config.
        rehearsals: of the run.

    Raises:
        UserError: the loss is not finite even at the lowest rate.
    """
    tested = rate_search.range_of_rates(*_RANGES.get(config.optimizer, _RANGE), STEPS)

    def hopeless(losses: list[float]) -> bool:
        means = rate_search.smoothed(losses, _DECAY)
        return len(means) > STEPS // 10 and means[-1] > _HOPELESS * min(means)

    losses = rehearsals.losses([rates_at(config, tuner, rate) for rate in tested], hopeless)
    if not math.isfinite(losses[0]):
        raise UserError(
            f"--learning_rate=find: the loss is not finite at {tested[0]:g}; check the images with "
            "finetune-jax check_data, or give a number"
        )
    divisor = _DIVISORS.get(config.optimizer, _DIVISOR)
    rate = rate_search.found_rate(tested, losses, decay=_DECAY, divisor=divisor)
    reason = (
        f"{rate:g}, 1/{divisor:g} of the rate at which the loss was lowest in {len(losses)} steps from "
        f"{tested[0]:g} to {tested[len(losses) - 1]:.3g}"
    )
    return rate, reason


def rates_at(config: FinetuneConfig, tuner: Callable[[FinetuneConfig], Tuner], rate: float) -> Rates:
    """``{part: rate}`` at which a run with this learning rate begins, without its schedule."""
    changed = dataclasses.replace(config, learning_rate=rate)
    of_run = tuner(changed)
    factor = rates.decay(changed)(0)
    return {name: value / factor for name, value in of_run.rates(of_run.initial(), 0).items()}
