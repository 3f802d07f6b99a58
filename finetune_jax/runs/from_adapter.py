"""A network of pretrained weights and an adapter, to be used like that of a run."""

import dataclasses
from collections.abc import Sequence

import jax

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.decode import Preprocessing
from finetune_jax.errors import UserError, readable
from finetune_jax.models import heads
from finetune_jax.models.card import Card, options_of
from finetune_jax.models.network import Variables
from finetune_jax.models.weights import adapted_origin, adapter_files, pretrained
from finetune_jax.runs import start

_MARGIN = 0.875
"""Share of the shorter side that the network sees where nothing says it, as in timm."""


def of_adapter(
    adapter: str, weights: str, *, network: str = "", class_names: Sequence[str] = (), image_size: int = 0
) -> tuple[Card, Variables]:
    """Card and variables (host arrays) of weights with an adapter.

    Args:
        adapter: folder of the files of ``peft``.
        weights: what it was trained on, as in ``--pretrained``.
        network: architecture, where a file of weights does not say it.
        class_names: of the outputs; empty takes those that the adapter's card names, else their numbers.
        image_size: side of the squares that the network sees, where the adapter has no card; 0 is the weights' own.

    Raises:
        UserError: the weights are not given, the adapter does not fit or has no head, the names are of another
            number of outputs, or the card says another size.
    """
    if not weights or weights == "none":
        base = adapter_files.base_of(adapter)
        base_clause = f", which are {base} by its own account" if base else ""
        raise UserError(
            f"--add_adapter={readable(adapter)} needs --pretrained, the weights it was trained on{base_clause}"
        )
    card = adapted_origin.read_card(adapter)
    config = FinetuneConfig(
        pretrained=weights,
        add_adapter=adapter,
        network=network,
        channels=card.preprocessing.channels if card is not None else 3,
    )
    origin = start.load_origin(config)
    if card is None:
        card = _card_of(origin, adapter, image_size or origin.image_size)
    elif image_size not in (0, card.preprocessing.image_size):
        raise UserError(
            f"--image_size={image_size} contradicts --add_adapter={readable(adapter)}, which was trained at "
            f"{card.preprocessing.image_size} pixels by its card"
        )
    origin = pretrained.at_image_size(origin, card.preprocessing.image_size)
    names = tuple(class_names) or card.class_names
    if len(names) != len(card.class_names):
        raise UserError(
            f"--class_names names {len(names)} classes, and --add_adapter={readable(adapter)} has "
            f"{len(card.class_names)}; name them in the order of its outputs"
        )
    return dataclasses.replace(card, class_names=names), jax.device_get(origin.variables)


def _card_of(origin: pretrained.Pretrained, adapter: str, size: int) -> Card:
    """What is known of an adapter without a card."""
    network = origin.network
    outputs = adapter_files.num_outputs(network, adapter)
    if outputs is None:
        raise UserError(
            f"--add_adapter={readable(adapter)} came without a head and so labels nothing; train one with finetune-jax "
            "finetune --method=feature_extractor and these flags"
        )
    return Card(
        architecture=network.architecture,
        width=network.width,
        blocks=len(network.blocks),
        class_names=tuple(str(number) for number in range(outputs)),
        preprocessing=Preprocessing(size, round(size / _MARGIN), "shorter_side"),
        mean=origin.mean,
        std=origin.std,
        bfloat16=False,
        head=heads.OWN,
        options=options_of(pretrained.at_image_size(origin, size).network),
    )
