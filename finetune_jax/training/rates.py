"""Rates and optimiser of a run, from its config."""

import math
from collections.abc import Callable

import optax

from finetune_jax.algorithms import block_rates, optimizers, schedules
from finetune_jax.algorithms.autolr import AutoLRConfig
from finetune_jax.config.resolution import number
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.models.compositions.routed import NORMS, POLICY
from finetune_jax.training import tuning
from finetune_jax.training.tasks import PROXIES


def rate_factors(config: FinetuneConfig, parts: tuple[str, ...]) -> dict[str, float]:
    """``{part: factor}`` of ``--rate_factors``.

    Raises:
        UserError: a part that is not trained, or no factor of at least 0.
    """
    factors = {}
    for text in config.rate_factors:
        name, _, number = text.partition("=")
        try:
            factors[name] = float(number)
        except ValueError:
            factors[name] = -1.0
        if name not in parts or not 0 <= factors[name] < math.inf:
            raise UserError(
                f"--rate_factors={text}: give PART=FACTOR with a factor of at least 0 and one of the trained "
                f"parts {', '.join(parts)}"
            )
    return factors


def decay(config: FinetuneConfig) -> Callable[[int], float]:
    """Epoch to the factor of all learning rates, at most 1."""
    epochs, low, cycles = config.epochs, config.lowest_factor, config.cycles
    drops = config.drop_epochs or (max(1, round(0.8 * epochs)),)
    return {
        "constant": lambda: schedules.constant(1.0),
        "step": lambda: schedules.multi_step(1.0, drops, config.drop_factor),
        "cosine": lambda: schedules.cosine(1.0, epochs),
        "cyclic": lambda: schedules.cyclic(low, 1.0, cycles, epochs),
        "sgdr": lambda: schedules.sgdr(low, 1.0, cycles - 1, epochs),
    }[config.schedule]()


def optimizer(config: FinetuneConfig, parts: tuple[str, ...]) -> optax.GradientTransformation:
    """The optimiser of the trained parts; their rates come from the tuner."""
    rule = optimizers.sgd(config.momentum, config.nesterov, config.weight_decay)
    if config.optimizer == "adamw":
        rule = optimizers.adamw(weight_decay=config.weight_decay)
    rules = dict.fromkeys(parts, rule)
    if POLICY in parts:
        rules[POLICY] = optimizers.sgd(config.policy_momentum, False, config.policy_weight_decay)
    rates = dict.fromkeys(parts, 0.0)
    return optimizers.per_block(rates, rates, rules)


def tuner(config: FinetuneConfig, parts: tuple[str, ...]) -> tuning.Tuner:
    """Who decides the rates of the trained parts.

    Args:
        config: of the run, resolved.
        parts: trained parts of the network in its order, and what is trained beside it.

    Raises:
        UserError: AutoLR has fewer than two blocks to order.
    """
    rate = number(config.learning_rate)
    blocks = tuple(name for name in parts if name.startswith("block_"))
    of_network = tuple(name for name in parts if name.startswith(("stem", "block_", "head")))
    # What is new learns like the head, norms of frozen parts like the rest of the network.
    above = {
        name: rate if name.startswith(NORMS) else config.head_learning_rate or rate
        for name in parts
        if name not in of_network
    }
    if "head" in parts and (config.head_learning_rate or config.method == "autolr"):
        above["head"] = config.head_learning_rate or rate
    if POLICY in parts:
        above[POLICY] = config.policy_learning_rate
    if PROXIES in parts:
        above[PROXIES] = config.proxy_learning_rate or 100 * rate
    factor = decay(config)
    if config.method == "autolr":
        return tuning.AutoLR(
            AutoLRConfig(
                alpha=config.alpha,
                beta=config.beta,
                threshold=config.threshold,
                threshold_decay=config.threshold_decay,
                threshold_floor=config.threshold_floor,
                max_trials=config.max_trials,
            ),
            blocks,
            rate,
            above,
            "stem" if "stem" in parts else None,
            factor,
        )
    if config.discriminative_ratio != 1:
        peaks = block_rates.discriminative(of_network, rate, config.discriminative_ratio)
    else:
        peaks = block_rates.layer_decay(of_network, rate, config.layer_decay)
    peaks |= above
    for name, rate_factor in rate_factors(config, parts).items():
        peaks[name] *= rate_factor
    return tuning.FixedRates(
        blocks, lambda epoch: {name: peak * factor(epoch) for name, peak in peaks.items()}
    )
