"""What a checkpoint says about its network, so that a run directory alone is enough to use it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from finetune_jax import checkpoints
from finetune_jax.data.decode import Preprocessing
from finetune_jax.errors import UserError
from finetune_jax.models import heads, registry
from finetune_jax.models.network import Network, Variables


@dataclasses.dataclass(frozen=True)
class Card:
    """What prediction needs beside the variables; kept in every checkpoint.

    Attributes:
        architecture: name of the network.
        width: its width factor.
        blocks: number of its blocks, fewer than published after pruning.
        class_names: of its outputs.
        preprocessing: of an image before the network.
        mean: of each channel, images scaled to [0, 1].
        std: likewise.
        bfloat16: whether it computes in bfloat16.
        head: name of its head, see ``models.heads``.
    """

    architecture: str
    width: float
    blocks: int
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bfloat16: bool
    head: str = heads.OWN

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self) | {"class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Card":
        """Back from :meth:`to_json`; other entries are ignored."""
        values = {"head": heads.OWN, **values}  # checkpoints without this entry have no other head
        own = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        own["preprocessing"] = Preprocessing(**own["preprocessing"])
        for name in ("class_names", "mean", "std"):
            own[name] = tuple(own[name])
        return cls(**own)

    def network(self, **settings: Any) -> Network:
        """The network, without parameters; ``settings`` of ``models.create`` beside those of the card."""
        settings = {"head": self.head, "width": self.width, **settings}
        network = registry.create(self.architecture, len(self.class_names), **settings)
        return dataclasses.replace(network, blocks=network.blocks[: self.blocks])

    def saved_shapes(self) -> Variables:
        """The variables in the checkpoint as ``jax.ShapeDtypeStruct``; a loss may have parts of its own there."""
        shapes = self.network().shapes()
        if self.head != "embedding":
            return shapes
        proxies = jax.ShapeDtypeStruct((len(self.class_names), heads.EMBEDDING_SIZE), jnp.float32)
        return {**shapes, "params": {**shapes["params"], "proxies": {"kernel": proxies}}}


def read_best(run_directory: Path) -> tuple[Card, Variables]:
    """Card and variables (host arrays) of a run's best checkpoint.

    Raises:
        UserError: the directory holds no checkpoint, or it cannot be read.
    """
    folder = run_directory / "checkpoints"
    best = checkpoints.best_step(folder)
    if best is None:
        raise UserError(f"{run_directory} is no run directory with an evaluated checkpoint")
    try:
        card = Card.from_json(checkpoints.read_meta(folder, best))
    except (KeyError, TypeError) as error:
        raise UserError(f"checkpoint {folder / str(best)} lacks {error}") from error
    return card, variables_of(card, checkpoints.restore_variables(folder, best, card.saved_shapes()))


def variables_of(card: Card, saved: Variables) -> Variables:
    """The network's variables among all that a checkpoint holds."""
    parts = card.network().part_names
    return {kind: {name: tree[name] for name in parts} for kind, tree in saved.items()}
