"""Pretrained weights with LoRA's adapters on top: ``--add_adapter`` on ``--pretrained``.

Beside the files of ``peft``, runs leave a card: classes, preprocessing and head of what was trained. Adapters that
``peft`` has written come without one.
"""

import dataclasses
import json
import os
from pathlib import Path

import jax

from finetune_jax.errors import UserError, readable
from finetune_jax.files import readers
from finetune_jax.files.whole_file import write_whole
from finetune_jax.models import pruning
from finetune_jax.models.card import Card
from finetune_jax.models.network import Network, Variables
from finetune_jax.models.weights import adapter_files, pretrained
from finetune_jax.models.weights.pretrained import Pretrained

CARD = "card.json"


def write_card(folder: str | os.PathLike[str], card: Card) -> None:
    """Keep what is known of a trained network beside its adapters."""
    content = json.dumps(dataclasses.replace(card, composition={}).to_json(), indent=2) + "\n"
    write_whole(Path(folder) / CARD, content.encode())


def read_card(folder: str | os.PathLike[str]) -> Card | None:
    """The card beside adapters; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    file = Path(folder) / CARD
    if not file.exists():
        return None
    values = readers.json_object(file, "copy the adapter again")
    try:
        return Card.from_json(values)
    except UserError as error:
        raise UserError(f"{readable(file)} cannot be used: {error}; copy the adapter again") from error


def with_adapter(origin: Pretrained, folder: str | os.PathLike[str], name: str) -> Pretrained:
    """Weights with adapters added to their kernels, and with the head that came with those.

    Args:
        origin: what the adapters were trained on.
        folder: of the files of ``peft``, perhaps with a card.
        name: of the origin, for people.

    Raises:
        UserError: a file is missing or damaged, or the adapters are of another network.
    """
    card, base = read_card(folder), adapter_files.base_of(folder)
    network, variables = origin.network, origin.variables
    if card is None:
        outputs = adapter_files.num_outputs(network, folder)
        if outputs is not None:
            network, variables = _with_head(network, variables, outputs, network.head_name)
    else:
        _check_network(card, network, folder, name)
        removed = len(network.blocks) - card.blocks
        if removed:
            network = pruning.truncate(network, removed)
            variables = pruning.truncate_variables(variables, removed)
        network, variables = _with_head(network, variables, card.num_outputs, card.head)
    variables = adapter_files.add_adapter(network, variables, folder)
    notes: tuple[str, ...] = ()
    if base not in ("", name, network.architecture):
        notes = (
            f"--add_adapter={readable(folder)} says that it was trained on {base}, and now is on {name}",
        )
    changed = dataclasses.replace(origin, network=network, variables=variables, class_names=(), notes=notes)
    if card is None:
        return changed
    return dataclasses.replace(
        changed,
        class_names=card.class_names,
        mean=card.mean,
        std=card.std,
        image_size=card.preprocessing.image_size,
    )


def _with_head(network: Network, variables: Variables, outputs: int, head: str) -> tuple[Network, Variables]:
    """The network with a fresh head of any shape, which the adapters' takes the place of."""
    network, variables = pretrained.replace_head(network, variables, outputs, jax.random.key(0), head=head)
    example = jax.ShapeDtypeStruct(network.example_shape, jax.numpy.float32)
    return network, pruning.fit_head(network, variables, jax.random.key(0), example)


def _check_network(card: Card, network: Network, folder: str | os.PathLike[str], name: str) -> None:
    ours, theirs = (f"{one.architecture} of width {one.width:g}" for one in (network, card))
    if ours != theirs or card.blocks > len(network.blocks):
        raise UserError(
            f"--add_adapter={readable(folder)} is of a {theirs} with {card.blocks} blocks, and --pretrained={name} is "
            f"a {ours} with {len(network.blocks)}; give the weights that it was trained on"
        )
