"""What steps of an epoch look up: factors of the learning rates, whether batches are mixed, decays of averages.

They are values of the state and no part of the compiled program.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from finetune_jax.algorithms import schedules
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.training import rates
from finetune_jax.training.unfreezing import first_epochs

Tables = Callable[[int], dict[str, Any]]
"""Epoch to the ``tables`` of ``TrainState``; an empty dict where there is nothing to look up."""


def rates_change_within_epochs(config: FinetuneConfig) -> bool:
    """Whether the steps of an epoch have rates of their own."""
    return config.warmup_epochs > 0 or config.schedule_by == "step"


def tables_of(
    config: FinetuneConfig, trained: tuple[str, ...], steps_per_epoch: int, *, by_step: bool
) -> Tables:
    """The tables of a run.

    Args:
        config: of the run, resolved.
        trained: names of all trained parts.
        steps_per_epoch: length of the tables.
        by_step: whether there is a table of rates; runs in lockstep all have one or none.
    """
    begin = first_epochs(config, trained)

    def tables(epoch: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if by_step:
            values["rate_factors"] = _rate_factors(config, begin, steps_per_epoch, epoch)
        if config.mixup_off_epoch and (config.mixup or config.cutmix):
            mixes = epoch < config.mixup_off_epoch
            values["mix_probability"] = np.asarray(config.mix_probability if mixes else 0, np.float32)
        if config.ema_decay is not None:
            values["ema_decay"] = np.asarray(config.ema_decay, np.float32)
        return values

    return tables


def _rate_factors(
    config: FinetuneConfig, begin: Mapping[str, int], steps: int, epoch: int
) -> dict[str, np.ndarray]:
    """``{part: float32 [steps]}``, factors of the rates that the tuner gives for the epoch."""
    schedule = np.ones(steps)
    if config.schedule_by == "step":
        decay = rates.decay(config)
        by_step = schedules.by_step(decay, steps)
        schedule = np.array([by_step(epoch * steps + step) / (decay(epoch) or 1.0) for step in range(steps)])
    warmup = schedules.warmup(config.warmup_epochs * steps)
    begun, _ = schedules.period(epoch, config.epochs, config.restart_epochs)

    def of_part(first_epoch: int) -> np.ndarray:
        since = (epoch - max(first_epoch, begun)) * steps
        rising = np.array([warmup(max(since + step, 0)) for step in range(steps)])
        return (schedule * rising).astype(np.float32)

    factors = {first_epoch: of_part(first_epoch) for first_epoch in set(begin.values())}
    return {name: factors[first_epoch] for name, first_epoch in begin.items()}
