"""What each fine-tuning method trains, and at which rates: from a config to parts and a tuner."""

import jax

from finetune_jax.config.choices import ROUTED
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.models import heads
from finetune_jax.models.compositions.progressive import ProgressiveNetwork
from finetune_jax.models.network import Network, Variables
from finetune_jax.training import objectives
from finetune_jax.training.methods import progressive
from finetune_jax.training.methods.l2_sp import REFERENCE, l2_sp_penalty, penalised, shared_with_origin
from finetune_jax.training.methods.routed import routed_setup
from finetune_jax.training.methods.setup import Setup, trained_parts


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
        return routed_setup(config, network, variables, key, axis_name)
    if config.method == "progressive":
        model = ProgressiveNetwork(network)
        forward = progressive.progressive_forward(model, train_frozen=config.frozen_norm == "train")
        return Setup(network, model, model.start(variables), model.trained_parts, forward)
    trained = trained_parts(network, config.method, config.k, config.seed)
    in_training_mode = network.part_names if config.frozen_norm == "train" else trained
    forward = objectives.forward(network, in_training_mode)
    if config.method != "l2_sp":
        return Setup(network, network, variables, trained, forward)
    shared = shared_with_origin(variables["params"], own_head=network.head_name == heads.OWN)
    references = {REFERENCE + name: tree for name, tree in shared.items()}
    variables = {**variables, "params": {**variables["params"], **references}}
    forward = penalised(forward, l2_sp_penalty(config.lambda_shared, config.lambda_novel))
    return Setup(network, network, variables, trained, forward, references=tuple(references))
