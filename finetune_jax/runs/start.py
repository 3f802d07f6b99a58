"""The network that a run starts from."""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp

from finetune_jax.config import resolution
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import AXIS
from finetune_jax.errors import UserError
from finetune_jax.models import pruning, registry
from finetune_jax.models.network import Network, Variables
from finetune_jax.models.weights import adapted_origin, channels, pretrained
from finetune_jax.training.methods.registry import METHODS
from finetune_jax.training.tasks import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """A network with the head of the task, before training.

    Attributes:
        network: pruned as ``--prune_depth`` says.
        variables: of it, pretrained or random.
        mean: per channel, of the images that the weights were trained on, scaled to [0, 1].
        std: likewise.
    """

    network: Network
    variables: Variables
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_origin(config: Any) -> pretrained.Pretrained:
    """The network that ``--pretrained`` names, with the origin's head; without weights for ``--pretrained=none``.

    Its batch-norm momentum is the default; that of a run may depend on its data.

    Raises:
        UserError: the weights are not to be had or do not fit.
    """
    settings = {
        "dtype": jnp.bfloat16 if config.bfloat16 else jnp.float32,
        "norm_axis": AXIS if config.sync_batch_norm else None,
        "rematerialise": config.rematerialise,
        "width": config.width,
        "pool": config.pool or _pool_of_adapter(config.add_adapter),
        "drop_path": config.drop_path,
        "dropout": config.dropout,
    }
    if config.pretrained == "none":
        network = registry.create(config.network or "resnet26", channels=config.channels, **settings)
        usual = pretrained.Pretrained(network, {})
        return dataclasses.replace(
            usual,
            mean=channels.numbers(usual.mean, config.channels),
            std=channels.numbers(usual.std, config.channels),
        )
    origin = pretrained.resolve(
        config.pretrained, architecture=config.network or None, entry=config.weights_entry, **settings
    )
    _show_notes(origin)
    if config.width not in (1.0, origin.network.width):
        raise UserError(
            f"--width={config.width:g} contradicts --pretrained={config.pretrained}, "
            f"which has width {origin.network.width:g}"
        )
    if config.network and origin.network.architecture != config.network:
        raise UserError(
            f"--network={config.network} contradicts --pretrained={config.pretrained}, "
            f"which is a {origin.network.architecture}"
        )
    if config.image_size and origin.network.tokens is not None:
        # A size that the patches do not divide is found now, and not when the images have been read.
        registry.with_settings(origin.network, image_size=config.image_size)
    if origin.network.channels != config.channels:
        origin = _for_channels(config, origin)
    if config.add_adapter:
        origin = adapted_origin.with_adapter(origin, config.add_adapter, config.pretrained)
        _show_notes(origin)
    if origin.description and jax.process_index() == 0:
        print(f"--pretrained={origin.description}", file=sys.stderr)
    return origin


def _show_notes(origin: pretrained.Pretrained) -> None:
    if jax.process_index() == 0:
        for note in origin.notes:
            print(f"note: {note}", file=sys.stderr)


def _pool_of_adapter(folder: str) -> str:
    """How the network of an adapter pools tokens; empty where nothing says it."""
    card = adapted_origin.read_card(folder) if folder else None
    return str(card.options.get("pool", "")) if card is not None else ""


def _for_channels(config: Any, origin: pretrained.Pretrained) -> pretrained.Pretrained:
    """The origin with its first kernel for the channels of the run."""
    count = config.channels
    if origin.network.channels != 3:
        raise UserError(
            f"--channels={count} contradicts --pretrained={config.pretrained}, which takes "
            f"{origin.network.channels}"
        )
    if config.normalization == "pretrained" and count > 3 and jax.process_index() == 0:
        print(
            "note: mean and deviation of the weights' three channels are repeated; --normalization=dataset takes those "
            "of your images",
            file=sys.stderr,
        )
    network, variables = channels.adapted(origin.network, origin.variables, count)
    return dataclasses.replace(
        origin,
        network=network,
        variables=variables,
        mean=channels.numbers(origin.mean, count),
        std=channels.numbers(origin.std, count),
    )


def begin(
    config: FinetuneConfig,
    origin: pretrained.Pretrained,
    class_names: tuple[str, ...],
    task: Task,
    key: jax.Array,
    image_size: int,
) -> Start:
    """The network of a run: the origin's, pruned, with a fresh head, or with its own where that is to be kept.

    Args:
        config: of the run, resolved.
        origin: of :func:`load_origin`.
        class_names: of the outputs of the head.
        task: whose head it is.
        key: random key of what is fresh.
        image_size: side of the squares that the network sees.

    Raises:
        UserError: pruning leaves no block, the patches of a transformer do not divide the image size, or the head that
            is to be kept is not one of these classes.
    """
    origin = pretrained.at_image_size(origin, image_size)
    num_classes, head = task.num_outputs(len(class_names)), task.head
    network = registry.with_norm_momentum(origin.network, resolution.number(config.norm_momentum))
    if config.prune_depth >= len(network.blocks):
        raise UserError(
            f"--prune_depth={config.prune_depth} leaves none of the {len(network.blocks)} blocks "
            f"of {network.architecture}"
        )
    images = jax.ShapeDtypeStruct(network.example_shape, jnp.float32)
    if config.pretrained == "none" or not METHODS[config.method].from_pretrained:
        network = pruning.truncate(registry.with_head(network, num_classes, head), config.prune_depth)
        variables = network.init(key, images)
    else:
        if config.keep_head:
            _check_head(config, origin, class_names, head, num_classes)
            variables = origin.variables
        else:
            network, variables = pretrained.replace_head(
                network, origin.variables, num_classes, key, head=head
            )
        if config.prune_depth:
            network = pruning.truncate(network, config.prune_depth)
            variables = pruning.truncate_variables(variables, config.prune_depth)
            variables = pruning.fit_head(network, variables, key, images)
    return Start(network, variables, origin.mean, origin.std)


def _check_head(
    config: FinetuneConfig,
    origin: pretrained.Pretrained,
    class_names: tuple[str, ...],
    head: str,
    num_outputs: int,
) -> None:
    """Refuse a head of other classes, or for another task.

    Raises:
        UserError: says what differs.
    """
    name = f"--keep_head: the head of --pretrained={config.pretrained}"
    if config.prune_depth:
        raise UserError("--keep_head contradicts --prune_depth, after which the head has other inputs")
    if origin.network.head_name != head:
        raise UserError(
            f"{name} is {origin.network.head_name}, and the run needs {head}; leave --keep_head out"
        )
    if not origin.class_names:
        raise UserError(f"{name} does not say which classes it is of; only that of a run directory does")
    if origin.class_names != class_names:
        differing = sorted(set(origin.class_names) ^ set(class_names))
        which = (
            f"; they differ in {', '.join(differing[:10])}" if differing else ", which stand in another order"
        )
        raise UserError(f"{name} is of other classes than the data{which}; leave --keep_head out")
    if origin.network.num_classes != num_outputs:
        raise UserError(
            f"{name} has {origin.network.num_classes} outputs, and the task needs {num_outputs}; leave --keep_head out"
        )
