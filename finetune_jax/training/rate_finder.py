"""The learning-rate finder, ``--learning_rate=find`` and ``find_blocks``: range tests before training."""

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
HEAD_STEPS, PART_STEPS = 20, 40
"""Of the head alone before parts are tested one by one, and of the test of each part."""
_RANGES = {"sgd": (1e-5, 10.0)}
_RANGE = (1e-7, 0.1)  # of optimisers whose steps have the length of the rate
# The tenth of fastai's rule was too little for SGD under rates that fall to zero, wherever this was developed.
_DIVISORS = {"sgd": 3.0}
_DIVISOR = 10.0
_HOPELESS = 4.0  # times the lowest loss
_DECAY, _PART_DECAY = 0.9, 0.75  # the fewer the steps, the fewer are averaged
_AROUND = 100.0


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
    losses = rehearsals.losses([rates_at(config, tuner, rate) for rate in tested], _hopeless(_DECAY, STEPS))
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


def find_factors(
    config: FinetuneConfig, tuner: Callable[[FinetuneConfig], Tuner], rehearsals: Rehearsals, rate: float
) -> tuple[dict[str, float], str]:
    """What each part of the network but the head wants of the rate of all, and why.

    The head learns alone for :data:`HEAD_STEPS` steps. From there one part after the other takes :data:`PART_STEPS`
    steps with the head, from a hundredth to a hundred times the rate, all other parts standing still. Its rate is the
    share of that with the lowest loss which :func:`find` takes too.

    Args:
        config: of the run.
        tuner: of a config.
        rehearsals: of the run.
        rate: of :func:`find`.

    Returns:
        ``{part: factor}`` of the stem and the blocks that are trained, and a clause for people.
    """
    whole = rates_at(config, tuner, rate)
    parts = [name for name in whole if name.startswith(("stem", "block_"))]
    head = {name: 0.0 if name in parts else value for name, value in whole.items()}
    with_head = rehearsals.after(head, HEAD_STEPS)
    tested = rate_search.range_of_rates(rate / _AROUND, rate * _AROUND, PART_STEPS)
    divisor = _DIVISORS.get(config.optimizer, _DIVISOR)
    factors = {}
    for part in parts:
        losses = with_head.losses(
            [{**head, part: value} for value in tested], _hopeless(_PART_DECAY, PART_STEPS)
        )
        part_rate = rate_search.found_rate(tested, losses, decay=_PART_DECAY, divisor=divisor)
        factors[part] = float(f"{part_rate / rate:.2g}")
        rehearsals.say(f"{part}: rate {part_rate:g}, {factors[part]:g} of that of the head")
    low, high = min(factors.values()), max(factors.values())
    return factors, f"each part by a test of its own, from {low:g} to {high:g} times that"


def _hopeless(decay: float, steps: int) -> Callable[[list[float]], bool]:
    def hopeless(losses: list[float]) -> bool:
        means = rate_search.smoothed(losses, decay)
        return len(means) > steps // 10 and means[-1] > _HOPELESS * min(means)

    return hopeless


def rates_at(config: FinetuneConfig, tuner: Callable[[FinetuneConfig], Tuner], rate: float) -> Rates:
    """``{part: rate}`` at which a run with this learning rate begins, without its schedule."""
    changed = dataclasses.replace(config, learning_rate=rate)
    of_run = tuner(changed)
    factor = rates.decay(changed)(0)
    return {name: value / factor for name, value in of_run.rates(of_run.initial(), 0).items()}
