"""A run whose rates may be halved or doubled between epochs, for :mod:`benchmarks.rates`."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

TESTED = (1, 2)  # epochs before which the scale is tested
_STEPS, _TIE = 8, 0.01


def train(started: Any, rates: Mapping[str, float]) -> dict[str, Any]:
    """Scores of a run, and the scale of its rates after each test.

    A test rehearses from the run as it is there, momentum included, on images that the run leaves out up to the last
    test; what its steps did is thrown away, and they count among the rehearsals.

    Args:
        started: see ``benchmarks.rates_start.Started``.
        rates: ``{part: rate}`` at the beginning.
    """
    search, whole = started.rehearsals, started.whole
    orders = [whole.plan.order(epoch) for epoch in range(whole.plan.epochs)]
    rows = np.concatenate(orders)
    width, per_epoch, until = rows.shape[1], len(orders[0]), max(TESTED) * len(orders[0])
    others = rows.ravel()[~np.isin(rows.ravel(), search.held_out)]
    rows[:until] = others[: until * width].reshape(until, width)
    state, scale, scales = whole.begin(), 1.0, list[float]()
    for number, row in enumerate(rows):
        factor = 0.5 * (1 + math.cos(math.pi * number / len(rows)))
        of_step = {name: rate * factor for name, rate in rates.items()}
        if number in {epoch * per_epoch for epoch in TESTED}:
            # Steps use their state up, also where the host shares its memory.
            kept = jax.tree.map(np.array, jax.device_get(state)).replace(tables=search.state.tables)
            begun = dataclasses.replace(search, state=kept)
            scale = chosen_scale(lambda scale: begun.run(_times(of_step, scale), _STEPS).loss, scale)  # noqa: B023
            scales.append(scale)
        state = whole.step(state, _times(of_step, scale), row)
    whole.loss(state)
    return {**started.scores, "scales": scales}


def chosen_scale(loss: Callable[[float], float], scale: float) -> float:
    """The scale, its double, or its half: another one where its loss is lower by more than one per cent.

    Half is not asked for where the double is chosen.

    Examples:
        >>> from benchmarks import rates_scale
        >>> rates_scale.chosen_scale(lambda scale: abs(scale - 0.6), 1.0)
        0.5
        >>> rates_scale.chosen_scale(lambda scale: 1.0, 1.0)
        1.0
    """
    limit = (1 - _TIE) * loss(scale)
    for other in (2 * scale, scale / 2):
        if loss(other) < limit:
            return other
    return scale


def _times(rates: Mapping[str, float], factor: float) -> dict[str, float]:
    return {name: rate * factor for name, rate in rates.items()}
