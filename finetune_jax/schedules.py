"""Learning rates as functions of the epoch (0-based)."""

import math
from collections.abc import Callable, Collection

Schedule = Callable[[int], float]


def constant(peak: float) -> Schedule:
    """Always ``peak``."""
    return lambda epoch: peak


def multi_step(peak: float, drop_epochs: Collection[int], gamma: float) -> Schedule:
    """``peak``, multiplied by ``gamma`` from each of ``drop_epochs`` on."""
    return lambda epoch: peak * gamma ** sum(epoch >= drop for drop in drop_epochs)


def cosine(peak: float, epochs: int) -> Schedule:
    """Half a cosine from ``peak`` in epoch 0 towards 0, which epoch ``epochs`` would reach."""
    return lambda epoch: peak * 0.5 * (1 + math.cos(math.pi * min(epoch, epochs) / epochs))
