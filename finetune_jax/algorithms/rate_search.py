"""Searching a learning rate by short trainings: the range test, and a climb over scales.

All rates are above 0 and are compared on a logarithmic axis.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np


def range_of_rates(lowest: float, highest: float, steps: int) -> list[float]:
    """Rates that rise from step to step by one factor, for the range test.

    Smith, "Cyclical Learning Rates for Training Neural Networks" (2017).

    Args:
        lowest: of the first step.
        highest: of the last one.
        steps: at least 2.

    Raises:
        ValueError: the rates do not rise, or there are too few steps.

    Examples:
        >>> from finetune_jax.algorithms import rate_search
        >>> rate_search.range_of_rates(0.25, 4.0, 5)
        [0.25, 0.5, 1.0, 2.0, 4.0]
    """
    if not 0 < lowest < highest or steps < 2:
        raise ValueError(f"rates must rise in at least two steps, got {lowest} to {highest} in {steps}")
    return [float(rate) for rate in np.geomspace(lowest, highest, steps)]


def smoothed(losses: Sequence[float], decay: float = 0.9) -> list[float]:
    """Exponential mean of the losses so far, corrected for its start at zero.

    Args:
        losses: of each step.
        decay: weight of the past, in [0, 1).

    Examples:
        >>> from finetune_jax.algorithms import rate_search
        >>> rate_search.smoothed([1.0, 4.0], decay=0.5)
        [1.0, 3.0]
    """
    means, mean = [], 0.0
    for number, loss in enumerate(losses, start=1):
        mean = decay * mean + (1 - decay) * loss
        means.append(mean / (1 - decay**number))
    return means


def found_rate(
    rates: Sequence[float], losses: Sequence[float], *, decay: float = 0.9, divisor: float = 10.0
) -> float:
    """The rate that a range test suggests: a share of the one at which the smoothed loss was lowest.

    Where the loss is lowest it is about to rise.

    Args:
        rates: of each step, rising; there may be more of them than losses.
        losses: training loss of each step, up to the last that was taken; not finite where it diverged.
        decay: of :func:`smoothed`.
        divisor: 10 is the rule of fastai's ``lr_find``.

    Raises:
        ValueError: no loss is finite.

    Examples:
        >>> from finetune_jax.algorithms import rate_search
        >>> rates = [0.0003, 0.003, 0.03, 0.3]
        >>> rate_search.found_rate(rates, [2.5, 1.0, 0.5, 9.0], decay=0.0)
        0.003
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        raise ValueError("the loss was not finite at any rate")
    means = smoothed(finite, decay)
    return float(f"{rates[int(np.argmin(means))] / divisor:.3g}")


def climb(loss: Callable[[float], float], start: float, *, factor: float, most: int) -> dict[float, float]:
    """Losses at rates around the best one: from a start downhill, one factor at a time, until both sides are worse.

    Args:
        loss: of a rate, not finite where it diverged; asked once for each.
        start: the first rate.
        factor: between neighbours, above 1.
        most: rates that are asked for at most.

    Returns:
        ``{rate: loss}``, rising rates.

    Raises:
        ValueError: ``factor`` is not above 1.

    Examples:
        >>> from finetune_jax.algorithms import rate_search
        >>> losses = rate_search.climb(lambda rate: abs(rate - 4.0), 1.0, factor=2.0, most=9)
        >>> losses
        {1.0: 3.0, 2.0: 2.0, 4.0: 0.0, 8.0: 4.0}
    """
    if not factor > 1:
        raise ValueError(f"factor must be above 1, got {factor}")
    losses: dict[float, float] = {}
    asked = 0

    def ask(rate: float) -> float:
        nonlocal asked
        # Neighbours reached on two ways are the same rate.
        for near, value in losses.items():
            if math.isclose(near, rate, rel_tol=1e-6):
                return value
        asked += 1
        value = loss(rate)
        losses[rate] = value if math.isfinite(value) else math.inf
        return losses[rate]

    best = start
    while math.isinf(ask(best)) and asked < most:
        best /= factor
    while asked < most:
        moved = False
        for neighbour in (best * factor, best / factor):
            if asked < most and ask(neighbour) < ask(best):
                best, moved = neighbour, True
                break
        if not moved:
            break
    return dict(sorted(losses.items()))


def smallest_within(losses: Mapping[float, float], share: float) -> float:
    """The smallest rate whose loss is nearly the lowest.

    Args:
        losses: ``{rate: loss}``, losses above 0; at least one is finite.
        share: of the lowest loss, by which another may be larger; 0 is the smallest of the best rates.

    Raises:
        ValueError: no loss is finite.

    Examples:
        >>> from finetune_jax.algorithms import rate_search
        >>> rate_search.smallest_within({0.01: 1.2, 0.1: 1.01, 1.0: 1.0}, 0.05)
        0.1
    """
    lowest = min(losses.values())
    if not math.isfinite(lowest):
        raise ValueError("training diverged at every rate")
    return min(rate for rate, loss in losses.items() if loss <= (1 + share) * lowest)
