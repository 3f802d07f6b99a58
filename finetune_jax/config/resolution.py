"""From the rates of the flags, in whatever unit, to those that the optimiser and the layers take.

Some of it is known only with the data: the number of steps per epoch, and what the similarity of the data to the
source of the weights recommends.
"""

import dataclasses
from typing import Any

from finetune_jax.algorithms import hyperparameters
from finetune_jax.config.choices import BY_RULE
from finetune_jax.config.settings import FinetuneConfig


def resolve(config: FinetuneConfig, *, steps_per_epoch: int) -> FinetuneConfig:
    """The config with a number for each rate and none of the effective ones.

    ``η = η′ (1 − m)`` and ``λ = λ′ η`` are rounded to twelve digits, so that the rate typed as a number trains the
    very same run.

    Args:
        config: a valid one, whose learning rate is a number in one of the two units and no ``auto``.
        steps_per_epoch: of the training.
    """
    rate = number(config.learning_rate)
    if config.effective_learning_rate is not None:
        rate = _rounded(hyperparameters.learning_rate_for(config.effective_learning_rate, config.momentum))
    decay = config.weight_decay
    if config.effective_weight_decay is not None:
        decay = _rounded(hyperparameters.weight_decay_for(config.effective_weight_decay, rate))
    norm_momentum = config.norm_momentum
    if norm_momentum == BY_RULE:
        norm_momentum = hyperparameters.norm_momentum_for(steps_per_epoch)
    return dataclasses.replace(
        config,
        learning_rate=rate,
        weight_decay=decay,
        norm_momentum=norm_momentum,
        effective_learning_rate=None,
        effective_weight_decay=None,
    )


def number(value: float | str) -> float:
    """A resolved setting.

    Raises:
        ValueError: a word still stands in its place.
    """
    if isinstance(value, str):
        raise ValueError(f"{value!r} is not resolved to a number yet")
    return value


def values(resolved: FinetuneConfig) -> dict[str, Any]:
    """Rates of a resolved config in both units, for ``summary.json``; None where a unit has no meaning."""
    rate, sgd = number(resolved.learning_rate), resolved.optimizer == "sgd"
    effective_rate = hyperparameters.effective_learning_rate(rate, resolved.momentum)
    effective_decay = hyperparameters.effective_weight_decay(resolved.weight_decay, rate)
    return {
        "learning_rate": rate,
        "momentum": resolved.momentum if sgd else None,
        "weight_decay": resolved.weight_decay,
        "effective_learning_rate": _rounded(effective_rate) if sgd else None,
        # AutoLR changes the rates and not the decay.
        "effective_weight_decay": _rounded(effective_decay) if sgd and resolved.method != "autolr" else None,
        "norm_momentum": number(resolved.norm_momentum),
    }


def line(rates: dict[str, Any], steps_per_epoch: int) -> str:
    """:func:`values` for people, in one line."""
    parts = [
        f"learning rate {_with_effective(rates, 'learning_rate')}",
        *([] if rates["momentum"] is None else [f"momentum {rates['momentum']:g}"]),
        f"weight decay {_with_effective(rates, 'weight_decay')}",
        f"batch-norm momentum {rates['norm_momentum']:g}",
    ]
    return f"{', '.join(parts)}; {steps_per_epoch} step{'' if steps_per_epoch == 1 else 's'} per epoch"


def _with_effective(rates: dict[str, Any], name: str) -> str:
    effective = rates[f"effective_{name}"]
    return f"{rates[name]:g}" + ("" if effective is None else f" (effective {effective:g})")


def _rounded(value: float) -> float:
    return float(f"{value:.12g}")
