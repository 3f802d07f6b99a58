"""What each fine-tuning method trains, and at which rates: from a config to parts and a tuner."""

import math
from collections.abc import Callable

import optax

from finetune_jax import block_rates, optimizers, schedules, tuning
from finetune_jax.autolr import AutoLRConfig
from finetune_jax.config import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.models.network import Network

PROXIES = "proxies"
"""Name of the part beside the network that ``--loss=proxy_anchor`` trains."""


def trained_parts(network: Network, method: str, k: int = 1) -> tuple[str, ...]:
    """Names of the parts that ``method`` trains, in network order; all others are frozen.

    Args:
        network: with blocks ``block_01 … block_KK``.
        method: ``standard``, ``autolr`` and ``scratch`` train everything, ``feature_extractor`` the head only,
            ``last_k`` the top ``k`` blocks and the head.
        k: number of blocks of ``last_k``.

    Raises:
        UserError: ``k`` is larger than the number of blocks, or the method is not known.
    """
    if method in ("standard", "autolr", "scratch"):
        return network.part_names
    if method == "feature_extractor":
        return ("head",)
    if method == "last_k":
        if k > len(network.blocks):
            raise UserError(f"--k={k}: {network.architecture} has only {len(network.blocks)} blocks")
        return (*network.block_names[-k:], "head")
    raise UserError(f"--method={method} is not known")


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
    rates = dict.fromkeys(parts, 0.0)
    if config.optimizer == "adamw":
        return optimizers.per_block_adamw(rates, rates, weight_decay=config.weight_decay)
    return optimizers.per_block_sgd(rates, rates, momentum=config.momentum, weight_decay=config.weight_decay)


def tuner(config: FinetuneConfig, parts: tuple[str, ...]) -> tuning.Tuner:
    """Who decides the rates of the trained parts.

    Args:
        config: of the run.
        parts: trained parts of the network in its order, and what is trained beside it.

    Raises:
        UserError: AutoLR has fewer than two blocks to order.
    """
    blocks = tuple(name for name in parts if name.startswith("block_"))
    of_network = tuple(name for name in parts if name != PROXIES)
    above = {}
    if "head" in parts and (config.head_learning_rate or config.method == "autolr"):
        above["head"] = config.head_learning_rate or config.learning_rate
    if PROXIES in parts:
        above[PROXIES] = config.proxy_learning_rate or 100 * config.learning_rate
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
            config.learning_rate,
            above,
            "stem" if "stem" in parts else None,
            factor,
        )
    if config.discriminative_ratio != 1:
        peaks = block_rates.discriminative(of_network, config.learning_rate, config.discriminative_ratio)
    else:
        peaks = block_rates.layer_decay(of_network, config.learning_rate, config.layer_decay)
    peaks |= above
    for name, rate_factor in rate_factors(config, parts).items():
        peaks[name] *= rate_factor
    return tuning.FixedRates(
        blocks, lambda epoch: {name: peak * factor(epoch) for name, peak in peaks.items()}
    )
