"""Flags of the trained network that a command uses: a run, or pretrained weights with an adapter."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from finetune_jax.config.invocation import as_started
from finetune_jax.errors import UserError

if TYPE_CHECKING:
    from finetune_jax.models.card import Card
    from finetune_jax.models.network import Variables

_OF_ADAPTER = ("pretrained", "network", "class_names")


def define_flags(does: str) -> None:
    """Flags ``--run``, or ``--add_adapter`` with what that needs; ``does`` is what the network does, for their help."""
    flags.DEFINE_string("run", "", f"Run directory whose best checkpoint {does}.")
    flags.DEFINE_string(
        "add_adapter",
        "",
        f"In place of --run: adapters of LoRA that on top of --pretrained are the network that {does}, a folder with "
        "the files of peft, such as adapter/ of a run with --save_adapter.",
    )
    flags.DEFINE_string("pretrained", "", "Weights that --add_adapter was trained on, as for finetune.")
    flags.DEFINE_string("network", "", "Architecture of --pretrained, where a file does not say it.")
    flags.DEFINE_list(
        "class_names",
        [],
        "Names of the outputs of --add_adapter in their order; without it those that the adapter's card names, else "
        "numbers.",
    )
    if "image_size" not in flags.FLAGS:
        flags.DEFINE_integer(
            "image_size",
            0,
            "Side of the squares that the network of an adapter without a card sees; 0 is that of --pretrained.",
            lower_bound=0,
        )


def folder(example: str) -> tuple[Path, bool]:
    """The directory that was named, and whether it is an adapter's; ``example`` is a command that names one.

    Raises:
        UserError: none was named, or two.
    """
    values = flags.FLAGS
    if values.run and values.add_adapter:
        raise UserError("--run contradicts --add_adapter: a run has merged its adapters; give one of them")
    if not values.run and not values.add_adapter:
        about = values["run"].help.rstrip(".")
        raise UserError(
            f"--run is missing: {about}, or --add_adapter with --pretrained; e.g. {as_started(example)}"
        )
    if values.run:
        for name in _OF_ADAPTER:
            if values[name].present:
                raise UserError(f"--{name} is for --add_adapter; a run knows its own")
    return Path(values.run or values.add_adapter).expanduser(), bool(values.add_adapter)


def read(example: str) -> "tuple[Card, Variables]":
    """Card and variables of what was named; arguments as of :func:`folder`.

    Raises:
        UserError: they cannot be read, or do not go together.
    """
    from finetune_jax.models.card import read_best
    from finetune_jax.runs.from_adapter import of_adapter

    values = flags.FLAGS
    path, is_adapter = folder(example)
    if not is_adapter:
        return read_best(path)
    return of_adapter(str(path), values.pretrained, network=values.network, class_names=values.class_names)
