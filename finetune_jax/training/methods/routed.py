"""SpotTune and its kin: two copies of each block, routed per image."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from finetune_jax.algorithms import spottune
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.models import registry
from finetune_jax.models.compositions.routed import (
    ALWAYS_TUNED,
    POLICY,
    RoutedNetwork,
    policy_for,
    random_decisions,
)
from finetune_jax.models.network import Network, Variables
from finetune_jax.training.methods.setup import Setup, check_k
from finetune_jax.training.objectives import Forward, Prediction, Tree, random_streams


def routed_setup(
    config: FinetuneConfig, network: Network, variables: Variables, key: jax.Array, axis_name: str | None
) -> Setup:
    """SpotTune and its kin: what they make of a network.

    Raises:
        UserError: the network has too few blocks, or there is no such policy network.
    """
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
        check_k(config.k, count, network)
        penalty = global_penalty(config.k, config.budget_weight, config.entropy_weight)
    model = RoutedNetwork(
        network,
        policy,
        config.frozen_first,
        all_tuned=config.method == "spottune_tuned",
        norms_apart=config.frozen_norm == "learn",
    )
    forward = routed_forward(
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


def routed_forward(
    model: RoutedNetwork,
    *,
    temperature: float = 5.0,
    train_frozen: bool = False,
    usage_penalty: Callable[[jax.Array], jax.Array] | None = None,
    axis_name: str | None = None,
) -> Forward:
    """Both copies of a routed network, decisions drawn for every image (SpotTune, sections 3.1 to 3.3).

    Of every routed block it also gives the total ``usage/BLOCK``, the number of images that were fine-tuned.

    Args:
        model: the routed network; its policy, if it has one, trains through the straight-through estimator.
        temperature: of that estimator.
        train_frozen: whether frozen parts normalise with batch statistics.
        usage_penalty: of the share of images ``v [L]`` that take the fine-tuned copy of each block.
        axis_name: mapped axis over which ``v`` is a share; None for a single replica.
    """
    network, routed = model.network, model.routed
    below = ("stem", *network.block_names[: model.first])
    train_tuned = (*routed, *[name for name in below if train_frozen])
    changing = (*routed, "head", *[name for name in model.frozen_parts if train_frozen])

    def function(
        params: Tree, frozen: Tree, batch_stats: Tree, images: jax.Array, keys: jax.Array
    ) -> Prediction:
        variables = {"params": {**frozen, **params}, "batch_stats": batch_stats}
        rngs = random_streams(keys)
        updated = {}
        if model.policy is None:
            decisions = random_decisions(keys, len(routed))
        else:
            logits, updated[POLICY] = model.policy_logits(variables, images, train=True)
            draw = functools.partial(spottune.sample_decisions, temperature=temperature)
            decisions = jax.vmap(draw)(keys, logits)
        tuned, pretrained = model.copies(variables)
        features, statistics = spottune.features(
            network,
            tuned,
            pretrained,
            images,
            decisions,
            routed=routed,
            train_tuned=train_tuned,
            train_frozen=network.block_names if train_frozen else (),
            rngs=rngs,
        )
        outputs, of_head = network.run(("head",), tuned, features, train=("head",), rngs=rngs)
        of_blocks = {**model.new_statistics(statistics), **of_head}
        updated |= {name: of_blocks[name] for name in changing}
        used = {f"usage/{name}": decisions[:, column].sum() for column, name in enumerate(routed)}
        penalty: jax.Array | float = 0.0
        if usage_penalty is not None:
            usage = spottune.usage(decisions)
            # Eq. 5 and 6 are of the whole batch, and not linear in the shares of replicas.
            penalty = usage_penalty(usage if axis_name is None else jax.lax.pmean(usage, axis_name))
        return Prediction(outputs, updated, penalty, used)

    return function
