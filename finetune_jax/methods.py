"""What each fine-tuning method trains, and at which rates: from a config to parts and a tuner."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from finetune_jax import block_rates, objectives, optimizers, regularizers, schedules, spottune, tuning
from finetune_jax.autolr import AutoLRConfig
from finetune_jax.config import ROUTED, FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.models import heads, registry
from finetune_jax.models.network import Model, Network, Variables
from finetune_jax.models.progressive import ProgressiveNetwork
from finetune_jax.models.routed import ALWAYS_TUNED, NORMS, POLICY, RoutedNetwork, policy_for
from finetune_jax.resolution import number

PROXIES = "proxies"
"""Name of the part beside the network that ``--loss=proxy_anchor`` trains."""


_REFERENCE = "reference_"


def trained_parts(network: Network, method: str, k: int = 1, seed: int = 0) -> tuple[str, ...]:
    """Names of the network's parts that ``method`` trains, in network order; all others are frozen.

    Methods that compose a model of several networks have trained parts of their own, see :func:`setup`.

    Args:
        network: with blocks ``block_01 … block_KK``.
        method: ``standard``, ``l2_sp``, ``autolr`` and ``scratch`` train everything, ``feature_extractor`` the
            head only, ``last_k`` the top ``k`` blocks and the head, ``stochastic`` half of the blocks, drawn at
            random, and the head.
        k: number of blocks of ``last_k``.
        seed: of the blocks of ``stochastic``.

    Raises:
        UserError: ``k`` is larger than the number of blocks, or the method is not known.
    """
    blocks = network.block_names
    if method in ("standard", "l2_sp", "autolr", "scratch"):
        return network.part_names
    if method == "feature_extractor":
        return ("head",)
    if method == "last_k":
        _check_k(k, len(blocks), network)
        return (*blocks[-k:], "head")
    if method == "stochastic":
        drawn = np.random.default_rng(seed).choice(len(blocks), max(1, len(blocks) // 2), replace=False)
        return (*[blocks[index] for index in sorted(drawn)], "head")
    raise UserError(f"--method={method} is not known")


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a method makes of a network.

    Attributes:
        network: the plain one.
        model: what is trained; itself the plain network, or composed of networks.
        variables: before training, of everything that the steps see.
        trained: names of the parts that are trained.
        forward: images to outputs in training mode.
        totals: names of what ``forward`` sums up over the examples of an epoch.
        references: names of parts of ``variables`` that are not of the model.
        tuned_blocks: how many blocks the result takes from the fine-tuned copy, the same for all images; None
            where the model itself is the result.
    """

    network: Network
    model: Model
    variables: Variables
    trained: tuple[str, ...]
    forward: objectives.Forward
    totals: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    tuned_blocks: int | None = None

    @property
    def measured(self) -> Model:
        """What is evaluated, and what prediction uses."""
        return self.model if self.tuned_blocks is None else self.network

    @property
    def composition(self) -> dict[str, Any]:
        """Of ``model``, for the card."""
        return self.model.to_json() if isinstance(self.model, RoutedNetwork | ProgressiveNetwork) else {}

    def result(self, variables: Variables, usage: Mapping[str, float]) -> Variables:
        """Variables for ``measured``, with what is trained beside the network.

        Args:
            variables: as trained.
            usage: ``{block: share of the epoch's images that were fine-tuned}``.
        """
        if self.tuned_blocks is None or not isinstance(self.model, RoutedNetwork):
            return variables
        compact = self.model.compact(variables, spottune.most_used(usage, self.tuned_blocks))
        of_model = self.model.part_names
        beside = {name: tree for name, tree in variables["params"].items() if name not in of_model}
        return {**compact, "params": {**compact["params"], **beside}}


def setup(
    config: FinetuneConfig,
    network: Network,
    variables: Variables,
    key: jax.Array,
    *,
    axis_name: str | None = None,
) -> Setup:
    """What ``config.method`` makes of a network.

    Args:
        config: of the run.
        network: with the head of the task.
        variables: of it, pretrained.
        key: random key of what is new beside the head.
        axis_name: mapped axis of the replicas; None for a single one.

    Raises:
        UserError: the network has too few blocks for the method, or there is no such policy network.
    """
    if config.method in ROUTED:
        return _routed(config, network, variables, key, axis_name)
    if config.method == "progressive":
        model = ProgressiveNetwork(network)
        forward = objectives.progressive_forward(model, train_frozen=config.frozen_norm == "train")
        return Setup(network, model, model.start(variables), model.trained_parts, forward)
    trained = trained_parts(network, config.method, config.k, config.seed)
    in_training_mode = network.part_names if config.frozen_norm == "train" else trained
    forward = objectives.forward(network, in_training_mode)
    if config.method != "l2_sp":
        return Setup(network, network, variables, trained, forward)
    shared = shared_with_origin(variables["params"], own_head=network.head_name == heads.OWN)
    references = {_REFERENCE + name: tree for name, tree in shared.items()}
    variables = {**variables, "params": {**variables["params"], **references}}
    forward = objectives.penalised(forward, l2_sp_penalty(config.lambda_shared, config.lambda_novel))
    return Setup(network, network, variables, trained, forward, references=tuple(references))


def shared_with_origin(params: Mapping[str, Any], *, own_head: bool) -> dict[str, Any]:
    """The parts that a pretrained network brings, of its own head all but the classifier.

    Args:
        params: ``{part: tree}`` of the network.
        own_head: whether the head is the architecture's own; any other is new as a whole.
    """
    shared = {name: tree for name, tree in params.items() if name != "head"}
    kept = {name: tree for name, tree in params["head"].items() if name != "classifier"}
    return {**shared, "head": kept} if own_head and kept else shared


def l2_sp_penalty(lambda_shared: float, lambda_novel: float) -> Callable[[Any, Any], jax.Array]:
    """``(params, frozen) → penalty`` of L2-SP; ``frozen`` holds the pretrained parts as ``reference_PART``."""

    def penalty(params: Any, frozen: Any) -> jax.Array:
        reference = {
            name.removeprefix(_REFERENCE): tree
            for name, tree in frozen.items()
            if name.startswith(_REFERENCE)
        }
        shared = {name: params[name] for name in reference}
        novel = {name: tree for name, tree in params.items() if name not in reference}
        if "head" in reference:
            # One part, of which the pretrained network brings some layers.
            shared["head"] = {name: params["head"][name] for name in reference["head"]}
            novel["new of head"] = {
                name: tree for name, tree in params["head"].items() if name not in reference["head"]
            }
        return regularizers.l2_sp({**shared, **novel}, reference, tuple(shared), lambda_shared, lambda_novel)

    return penalty


def _routed(
    config: FinetuneConfig, network: Network, variables: Variables, key: jax.Array, axis_name: str | None
) -> Setup:
    count = len(network.blocks) - config.frozen_first
    if count < 1:
        raise UserError(
            f"--frozen_first={config.frozen_first} leaves none of the {len(network.blocks)} blocks of "
            f"{network.architecture} to route"
        )
    policy = None
    penalty = None
    if config.method == "random_policy":
        if count <= ALWAYS_TUNED:
            raise UserError(
                f"--method=random_policy always tunes the last {ALWAYS_TUNED} blocks, and here only {count} "
                "are routed; lower --frozen_first or --prune_depth"
            )
    else:
        default = "resnet26_policy" if network.architecture == "resnet26" else "resnet50_policy"
        architecture = config.policy_network or default
        if architecture not in registry.names():
            raise UserError(
                f"--policy_network={architecture} is not known; choose one of {', '.join(registry.names())}"
            )
        policy = policy_for(network, architecture, count)
    if config.method == "spottune_global":
        _check_k(config.k, count, network)
        penalty = global_penalty(config.k, config.budget_weight, config.entropy_weight)
    model = RoutedNetwork(
        network,
        policy,
        config.frozen_first,
        all_tuned=config.method == "spottune_tuned",
        norms_apart=config.frozen_norm == "learn",
    )
    forward = objectives.routed_forward(
        model,
        temperature=config.temperature,
        train_frozen=config.frozen_norm != "eval",
        usage_penalty=penalty,
        axis_name=axis_name,
    )
    return Setup(
        network,
        model,
        model.start(variables, key, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)),
        model.trained_parts,
        forward,
        totals=tuple(f"usage/{name}" for name in model.routed),
        tuned_blocks=config.k if config.method == "spottune_global" else None,
    )


def global_penalty(k: int, budget_weight: float, entropy_weight: float) -> Callable[[jax.Array], jax.Array]:
    """``λ1 l_k + λ2 l_e`` of the usage ``v [L]`` (SpotTune, Eq. 7)."""
    return lambda usage: (
        budget_weight * spottune.budget_loss(usage, k) + entropy_weight * spottune.entropy_loss(usage)
    )


def _check_k(k: int, count: int, network: Network) -> None:
    if k > count:
        routed = "" if count == len(network.blocks) else " that are not frozen"
        raise UserError(f"--k={k}: {network.architecture} has only {count} blocks{routed}")


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
