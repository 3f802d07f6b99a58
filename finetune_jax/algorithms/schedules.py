"""Learning rates as functions of the epoch (0-based), and their changes within an epoch.

Fractions of an epoch are fine, and so are arrays: the same function gives a number for a number, and an array
for an array, a JAX one under ``jax.jit`` and ``jax.vmap`` too.

    >>> from finetune_jax import schedules
    >>> squeezed = schedules.floored(schedules.cosine(1.0, epochs=2), lowest=0.1)
    >>> schedule, warm = schedules.by_step(squeezed, steps_per_epoch=2), schedules.warmup(2)
    >>> [round(warm(step) * schedule(step), 3) for step in range(4)]
    [0.5, 0.868, 0.55, 0.232]
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

Schedule = Callable[[Any], Any]


def constant(peak: float) -> Schedule:
    """Always ``peak``.

    Examples:
        >>> from finetune_jax import schedules
        >>> schedule = schedules.constant(0.1)
        >>> [round(schedule(epoch), 4) for epoch in range(3)]
        [0.1, 0.1, 0.1]
    """
    return lambda epoch: peak


def multi_step(peak: float, drop_epochs: Collection[int], gamma: float) -> Schedule:
    """``peak``, multiplied by ``gamma`` from each of ``drop_epochs`` on.

    Examples:
        >>> from finetune_jax import schedules
        >>> schedule = schedules.multi_step(1.0, drop_epochs=(2, 4), gamma=0.1)
        >>> [round(schedule(epoch), 4) for epoch in range(5)]
        [1.0, 1.0, 0.1, 0.1, 0.01]
    """
    return lambda epoch: peak * gamma ** sum(epoch >= drop for drop in drop_epochs)


def step_decay(peak: float, drop_epoch: int, gamma: float) -> Schedule:
    """``peak``, multiplied by ``gamma`` from ``drop_epoch`` on ("Step-decay" in Table 5 of AutoLR).

    Examples:
        >>> from finetune_jax import schedules
        >>> schedule = schedules.step_decay(1.0, drop_epoch=2, gamma=0.1)
        >>> [round(schedule(epoch), 4) for epoch in range(4)]
        [1.0, 1.0, 0.1, 0.1]
    """
    return multi_step(peak, (drop_epoch,), gamma)


def cosine(peak: float, epochs: int) -> Schedule:
    """Half a cosine from ``peak`` in epoch 0 towards 0, which epoch ``epochs`` would reach.

    Examples:
        >>> from finetune_jax import schedules
        >>> schedule = schedules.cosine(1.0, epochs=4)
        >>> [round(schedule(epoch), 4) for epoch in range(5)]
        [1.0, 0.8536, 0.5, 0.1464, 0.0]
    """
    return lambda epoch: peak * 0.5 * (1 + _cos(math.pi * _until(epoch, epochs) / epochs))


def cyclic(low: float, high: float, cycles: int, epochs: int) -> Schedule:
    """Triangles from ``low`` straight up to ``high`` and back.

    "Triangular" policy of Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017).

    Args:
        low: rate in epoch 0 and between two cycles, and from epoch ``epochs`` on.
        high: rate in the middle of each cycle.
        cycles: their number, at least 1, all of the length ``epochs / cycles``.
        epochs: length of the training.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> from finetune_jax import schedules
        >>> schedule = schedules.cyclic(0.0, 1.0, cycles=2, epochs=8)
        >>> [round(schedule(epoch), 4) for epoch in range(9)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.5, 1.0, 0.5, 0.0]
    """
    _check_range(low, high, epochs)
    if cycles < 1:
        raise ValueError(f"cycles must be at least 1, got {cycles}")

    def schedule(epoch: Any) -> Any:
        progress = _progress(epoch, cycles, epochs)
        return low + (high - low) * (1 - abs(2 * progress - 1))

    return schedule


def sgdr(low: float, high: float, resets: int, epochs: int) -> Schedule:
    """Half cosines from ``high`` down to ``low``, each starting again at ``high``.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (ICLR 2017), Eq. 5, with
    periods of equal length.

    Args:
        low: what each period ends towards, and the rate from epoch ``epochs`` on.
        high: rate in epoch 0 and after each reset.
        resets: warm restarts; there is one period more, each of the length ``epochs / (resets + 1)``.
        epochs: length of the training.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> from finetune_jax import schedules
        >>> schedule = schedules.sgdr(0.0, 1.0, resets=1, epochs=4)
        >>> [round(schedule(epoch), 4) for epoch in range(5)]
        [1.0, 0.5, 1.0, 0.5, 0.0]
    """
    _check_range(low, high, epochs)
    if resets < 0:
        raise ValueError(f"resets must be at least 0, got {resets}")

    def schedule(epoch: Any) -> Any:
        progress = _progress(epoch, resets + 1, epochs)
        return low + (high - low) * 0.5 * (1 + _cos(math.pi * progress))

    return schedule


def warmup(steps: float) -> Schedule:
    """A factor of learning rates that rises linearly to 1 over the first steps: ``min(1, (step + 1) / steps)``.

    The first step has ``1 / steps`` and not 0, the last one of the warm-up the full rate; Goyal et al.,
    "Accurate, Large Minibatch SGD" (2017), section 2.2. It multiplies any schedule.

    Args:
        steps: length of the warm-up, fractions allowed; at most 1 is none.

    Returns:
        Step (0-based) to the factor.

    Raises:
        ValueError: ``steps`` is negative.

    Examples:
        >>> from finetune_jax import schedules
        >>> factor = schedules.warmup(4)
        >>> [factor(step) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    length = max(steps, 1)

    def factor(step: Any) -> Any:
        risen = (step + 1) / length
        return risen + (1 - risen) * (risen > 1)

    return factor


def floored(schedule: Schedule, lowest: float) -> Schedule:
    """A schedule of factors in [0, 1], squeezed into ``[lowest, 1]``: ``lowest + (1 - lowest) · factor``.

    A cosine with a floor is Eq. 5 of SGDR with one period, as ``optax.cosine_decay_schedule(alpha=lowest)``.

    Raises:
        ValueError: ``lowest`` is not in [0, 1].

    Examples:
        >>> from finetune_jax import schedules
        >>> schedule = schedules.floored(schedules.cosine(1.0, epochs=4), lowest=0.2)
        >>> [round(schedule(epoch), 4) for epoch in range(5)]
        [1.0, 0.8828, 0.6, 0.3172, 0.2]
    """
    if not 0 <= lowest <= 1:
        raise ValueError(f"lowest must be in [0, 1], got {lowest}")
    return lambda epoch: lowest + (1 - lowest) * schedule(epoch)


def period(epoch: float, epochs: int, restarts: Sequence[int]) -> tuple[int, int]:
    """First epoch of the period that an epoch lies in, and the number of epochs of that period.

    Args:
        epoch: 0-based, fractions allowed.
        epochs: length of the training.
        restarts: whole epochs after which a period ends and the next one begins, ascending, below ``epochs``.

    Examples:
        >>> from finetune_jax import schedules
        >>> [schedules.period(epoch, 30, restarts=(20,)) for epoch in (0, 19.9, 20, 29)]
        [(0, 20), (0, 20), (20, 10), (20, 10)]
    """
    ends = [*restarts, epochs]
    place = sum(epoch >= end for end in restarts)
    first = ends[place - 1] if place else 0
    return first, ends[place] - first


def restarted(create: Callable[[int], Schedule], epochs: int, restarts: Sequence[int]) -> Schedule:
    """A schedule that begins again after some epochs, as training is prolonged: each period has one of its own.

    Args:
        create: number of epochs to the schedule of a training of that length.
        epochs: length of the training, all periods together.
        restarts: as of :func:`period`; the schedule takes numbers, not arrays, where there is one.

    Examples:
        >>> from finetune_jax import schedules
        >>> schedule = schedules.restarted(lambda epochs: schedules.cosine(1.0, epochs), 6, restarts=(4,))
        >>> [round(schedule(epoch), 4) for epoch in range(6)]
        [1.0, 0.8536, 0.5, 0.1464, 1.0, 0.5]
    """
    if not restarts:
        return create(epochs)
    ends = [*restarts, epochs]
    if ends != sorted(set(ends)) or ends[0] < 1:
        raise ValueError(f"restarts must ascend between 1 and {epochs - 1}, got {tuple(restarts)}")

    def schedule(epoch: float) -> Any:
        first, length = period(epoch, epochs, restarts)
        return create(length)(epoch - first)

    return schedule


def by_step(schedule: Schedule, steps_per_epoch: int) -> Schedule:
    """A schedule of epochs as one of steps: it changes with every step, and agrees at the start of epochs.

    Examples:
        >>> from finetune_jax import schedules
        >>> schedule = schedules.by_step(schedules.cosine(1.0, epochs=2), steps_per_epoch=2)
        >>> [round(schedule(step), 4) for step in range(5)]
        [1.0, 0.8536, 0.5, 0.1464, 0.0]
    """
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}")
    return lambda step: schedule(step / steps_per_epoch)


def _progress(epoch: Any, periods: int, epochs: int) -> Any:
    """Share of the current period that is over, in [0, 1); 1 from ``epochs`` on."""
    # Multiplied before it is divided: a period that begins at a whole epoch begins there exactly.
    within = epoch * periods / epochs % 1.0
    return within + (1.0 - within) * (epoch >= epochs)


def _until(epoch: Any, epochs: int) -> Any:
    return epoch - (epoch - epochs) * (epoch > epochs)


def _cos(x: Any) -> Any:
    if isinstance(x, int | float):
        return math.cos(x)
    import jax.numpy as jnp  # only arrays need it

    return jnp.cos(x)


def _check_range(low: float, high: float, epochs: int) -> None:
    if not low <= high:
        raise ValueError(f"low must not exceed high, got low={low} and high={high}")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
