"""Rates and optimiser of a run, from its config."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import optax

from finetune_jax.algorithms import block_rates, clipping, optimizers, schedules
from finetune_jax.algorithms.optimizer_rules import by_tensor, slowed
from finetune_jax.algorithms.optimizers import Rule
from finetune_jax.config.choices import WITHOUT_RATE
from finetune_jax.config.resolution import number
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.training import tuning
from finetune_jax.training.tasks import PROXIES

_IN_HEAD = "head/"
_OF_NETWORK = ("stem", "block_", "head")  # how the names of the network's parts begin


def rate_factors(config: FinetuneConfig, parts: tuple[str, ...]) -> dict[str, float]:
    """``{part: factor}`` of ``--rate_factors``.

    Raises:
        UserError: a part that is not trained, or no factor of at least 0.
    """
    factors = {}
    for text in config.rate_factors:
        name, _, value = text.partition("=")
        factor = _factor(value)
        if name not in parts or factor is None:
            raise UserError(
                f"--rate_factors={text}: give PART=FACTOR with a factor of at least 0 and one of the trained "
                f"parts {', '.join(parts)}"
            )
        factors[name] = factor
    return factors


def _factor(text: str) -> float | None:
    """A finite number of at least 0; None where the text is something else."""
    try:
        factor = float(text)
    except ValueError:
        return None
    return factor if 0 <= factor < math.inf else None


def decay(config: FinetuneConfig) -> Callable[[int], float]:
    """Epoch to the factor of all learning rates, at most 1."""
    return schedules.restarted(functools.partial(_decay, config), config.epochs, config.restart_epochs)


def _decay(config: FinetuneConfig, epochs: int) -> Callable[[int], float]:
    """:func:`decay` of a training of so many epochs."""
    low, cycles = config.lowest_factor, config.cycles
    drops = config.drop_epochs or (max(1, round(0.8 * epochs)),)
    return {
        "constant": lambda: schedules.constant(1.0),
        "step": lambda: schedules.multi_step(1.0, drops, config.drop_factor),
        "cosine": lambda: _cosine(epochs, config.min_rate_factor),
        "cyclic": lambda: schedules.cyclic(low, 1.0, cycles, epochs),
        "sgdr": lambda: schedules.sgdr(low, 1.0, cycles - 1, epochs),
    }[config.schedule]()


def _cosine(epochs: int, lowest: float) -> schedules.Schedule:
    cosine = schedules.cosine(1.0, epochs)
    # Without a floor to the same bits as ever.
    return schedules.floored(cosine, lowest) if lowest else cosine


def optimizer(
    config: FinetuneConfig,
    parts: tuple[str, ...],
    rules: Mapping[str, Rule] | None = None,
    together: tuple[str, ...] = (),
) -> optax.GradientTransformation:
    """The optimiser of the trained parts; their rates come from the tuner.

    Args:
        config: of the run, resolved.
        parts: the trained parts.
        rules: ``{part: optimiser}`` of those that do not have the run's.
        together: what counts with the part below it, see ``Network.with_part_below``.
    """
    apart, zeros = dict(rules or {}), dict.fromkeys(parts, 0.0)
    rule = rule_of(config)
    below = [name.removeprefix(_IN_HEAD) for name in together if name.startswith(_IN_HEAD)]
    of_head = rule
    if below and "head" in parts:
        one_estimate = config.optimizer in WITHOUT_RATE
        of_head = slowed(rule, below, config.layer_decay, one_estimate=one_estimate)
    if config.optimizer in WITHOUT_RATE and not config.block_estimates:
        return optimizers.one_for_all(
            zeros, zeros, of_head, {name: apart[name] for name in parts if name in apart}
        )
    of_parts = dict.fromkeys(parts, rule)
    if config.rgn_over == "tensors":
        of_parts |= dict.fromkeys(blocks_of(parts), by_tensor(rule))
    return optimizers.per_block(zeros, zeros, {**of_parts, "head": of_head, **apart})


def rule_of(config: FinetuneConfig) -> Rule:
    """The run's optimiser, for one part."""
    decay, norms = config.weight_decay, config.decay_norms
    if config.optimizer == "sgd":
        return optimizers.sgd(config.momentum, config.nesterov, decay, norms)
    if config.optimizer == "adamw":
        return optimizers.adamw(weight_decay=decay, decay_norms=norms)
    return optimizers.create(config.optimizer, weight_decay=decay, decay_norms=norms)


def clip(config: FinetuneConfig, shares_axis: str | None = None) -> Callable[[Any, Any], Any] | None:
    """``(gradients, params) → gradients`` as ``--clip_norm`` or ``--clip`` say; None where nothing is clipped.

    Args:
        config: of the run, resolved.
        shares_axis: of the replicas, where each has its share of every gradient alone.
    """
    limit, ratio = config.clip_norm, config.clip_ratio
    if limit is not None:
        return lambda gradients, params: clipping.by_global_norm(gradients, limit, shares_axis)
    if config.clip == "agc":
        return lambda gradients, params: clipping.adaptive(
            gradients, params, ratio, include=lambda path, leaf: "classifier" not in path
        )
    return None


def blocks_of(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The blocks of the network among the trained parts."""
    return tuple(name for name in parts if name.startswith("block_"))


def beside_network(
    config: FinetuneConfig, parts: tuple[str, ...], peak_rates: Mapping[str, float]
) -> dict[str, float]:
    """``{part: peak rate}`` of the trained parts that are not of the network.

    Args:
        config: of the run, resolved.
        parts: all trained parts.
        peak_rates: of those that do not learn like the head, as everything new does.
    """
    rate = number(config.learning_rate)
    of_task = {PROXIES: config.proxy_learning_rate or 100 * rate}
    like_head = config.head_learning_rate or rate
    known = {**of_task, **peak_rates}
    return {name: known.get(name, like_head) for name in parts if not name.startswith(_OF_NETWORK)}


def fixed(
    config: FinetuneConfig,
    parts: tuple[str, ...],
    peak_rates: Mapping[str, float] | None = None,
    together: tuple[str, ...] = (),
) -> tuning.FixedRates:
    """Rates that the schedule alone changes; arguments as of :func:`beside_network` and :func:`optimizer`.

    Raises:
        UserError: as of :func:`rate_factors`.
    """
    rate, factor = number(config.learning_rate), decay(config)
    of_network = tuple(name for name in parts if name.startswith(_OF_NETWORK))
    if config.discriminative_ratio != 1:
        peaks = block_rates.discriminative(of_network, rate, config.discriminative_ratio)
    else:
        peaks = block_rates.layer_decay(of_network, rate, config.layer_decay, together)
    peaks |= beside_network(config, parts, peak_rates or {})
    if "head" in parts and config.head_learning_rate:
        peaks["head"] = config.head_learning_rate
    for name, rate_factor in rate_factors(config, parts).items():
        peaks[name] *= rate_factor
    return tuning.FixedRates(
        blocks_of(parts), lambda epoch: {name: peak * factor(epoch) for name, peak in peaks.items()}
    )
