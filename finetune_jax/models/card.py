"""What a checkpoint says about its network, so that a run directory alone is enough to use it."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.config.choices import TASKS
from finetune_jax.data.decode import Preprocessing
from finetune_jax.errors import DAMAGE, UserError, readable
from finetune_jax.files import calibration, checkpoints, run_places
from finetune_jax.models import heads, registry
from finetune_jax.models.compositions import adapted, progressive, routed
from finetune_jax.models.network import Model, Network, Variables

LARGEST_IMAGE = 4096
"""Side of the largest images that a network is used with: more is a damaged file, and would take gigabytes each."""

COMPACT = "compact"
"""Folder of the checkpoint that a method leaves behind which trains more than its result needs."""


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
        composition: what the checkpoint holds around the network, see ``models.routed`` and
            ``models.progressive``; empty for the plain network.
        beside: shapes of parameters in the checkpoint that only training needs, ``{part: tree of shapes}``.
        task: as in ``--task``.
        target_mean: of each number over the training images, which the outputs of a regression are relative to.
        target_deviation: likewise, the unit of the outputs.
        temperature: logits are divided by it for probabilities that are as often right as they say.
        thresholds: of each class, from which on an image has it (``multilabel``); empty is one half for all.
        options: of the network, those of ``models.create`` on which its shapes and outputs depend: ``image_size``
            and ``pool`` of a transformer.
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
    composition: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    beside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task: str = "classification"
    target_mean: tuple[float, ...] = ()
    target_deviation: tuple[float, ...] = ()
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()

    @property
    def num_outputs(self) -> int:
        """Outputs of the network's head: one less than grades, else one per class."""
        return len(self.class_names) - (self.task == "ordinal")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        values = dataclasses.asdict(self) | {
            "class_names": list(self.class_names),
            "preprocessing": self.preprocessing.to_json(),
        }
        if not self.options:
            del values["options"]
        # Those of classifiers, which older versions read too, do without.
        return {name: value for name, value in values.items() if _LATER.get(name, ...) != value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Card":
        """Back from :meth:`to_json`; other entries are ignored.

        Raises:
            UserError: an entry is missing, or no such network exists.
        """
        # Checkpoints without these entries have nothing else.
        values = {"head": heads.OWN, "composition": {}, "beside": {}, "options": {}, **_LATER, **values}
        try:
            fields = {field.name: values[field.name] for field in dataclasses.fields(cls)}
            for name, kinds in _KINDS.items():
                _require(
                    isinstance(fields[name], kinds) and (kinds is bool or type(fields[name]) is not bool),
                    name,
                )
            _require(
                bool(fields["class_names"]) and all(type(text) is str for text in fields["class_names"]),
                "class_names",
            )
            preprocessing = fields["preprocessing"] = Preprocessing(**fields["preprocessing"])
            for name in ("mean", "std"):
                numbers = [float(number) for number in fields[name]]
                _require(len(numbers) == preprocessing.channels and all(map(math.isfinite, numbers)), name)
            _require(all(float(number) > 0 for number in fields["std"]), "std")
            _require(fields["blocks"] >= 0, "blocks")
            _require(fields["options"].get("channels", 3) == preprocessing.channels, "channels")
            _require(fields["task"] in TASKS, "task")
            for name in ("target_mean", "target_deviation", "thresholds"):
                fields[name] = tuple(float(number) for number in fields[name])
                _require(len(fields[name]) in (0, len(fields["class_names"])), name)
                _require(all(map(math.isfinite, fields[name])), name)
            _require(math.isfinite(fields["temperature"]) and fields["temperature"] > 0, "temperature")
            if fields["task"] == "regression":
                _require(bool(fields["target_mean"]) and bool(fields["target_deviation"]), "target_mean")
            for name in ("image_size", "resize"):
                side = getattr(preprocessing, name)
                _require(type(side) is int and 0 < side <= LARGEST_IMAGE, name)
        except DAMAGE as error:
            missing = f"it lacks {error}" if isinstance(error, KeyError) else readable(error)
            raise UserError(f"its description of the network is damaged ({missing})") from error
        for name in ("class_names", "mean", "std"):
            fields[name] = tuple(fields[name])
        return cls(**fields)

    def network(self, **settings: Any) -> Network:
        """The plain network, without parameters; ``settings`` of ``models.create`` beside those of the card."""
        settings = {"head": self.head, "width": self.width, **self.options, **settings}
        network = registry.create(self.architecture, self.num_outputs, **settings)
        return dataclasses.replace(network, blocks=network.blocks[: self.blocks])

    def model(self, **settings: Any) -> Model:
        """What the checkpoint's variables are of: the network, or what is composed around it."""
        network = self.network(**settings)
        if not self.composition:
            return network
        if self.composition["kind"] == progressive.KIND:
            return progressive.from_json(self.composition, network)
        if self.composition["kind"] == adapted.KIND:
            return adapted.from_json(self.composition, network)
        return routed.from_json(self.composition, network)

    def saved_shapes(self) -> Variables:
        """The variables in the checkpoint as ``jax.ShapeDtypeStruct``, those that only training needs too."""
        shapes = self.model().shapes()
        beside = {name: _structs(tree) for name, tree in self.beside.items()}
        if self.head == "embedding":
            proxies = jax.ShapeDtypeStruct((len(self.class_names), heads.EMBEDDING_SIZE), jnp.float32)
            beside["proxies"] = {"kernel": proxies}
        return {**shapes, "params": {**shapes["params"], **beside}}


def options_of(network: Network) -> dict[str, Any]:
    """A card's ``options`` of a network."""
    channels = {} if network.channels == 3 else {"channels": network.channels}
    if network.tokens is None:
        return channels
    return {"image_size": network.image_size, "pool": network.options.pool, **channels}


_LATER: dict[str, Any] = {
    "task": "classification",
    "target_mean": (),
    "target_deviation": (),
    "temperature": 1.0,
    "thresholds": (),
}
"""Entries that cards of classifiers lack, and what that means."""

_KINDS: dict[str, Any] = {
    "architecture": str,
    "width": (int, float),
    "blocks": int,
    "class_names": (list, tuple),
    "preprocessing": dict,
    "mean": (list, tuple),
    "std": (list, tuple),
    "bfloat16": bool,
    "head": str,
    "composition": dict,
    "beside": dict,
    "options": dict,
    "task": str,
    "target_mean": (list, tuple),
    "target_deviation": (list, tuple),
    "temperature": (int, float),
    "thresholds": (list, tuple),
}


def _require(condition: bool, name: str) -> None:
    if not condition:
        raise ValueError(f"{name} is out of range")


def shapes_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of parameters as JSON: each array's shape in its place."""
    return {
        name: shapes_of(value) if isinstance(value, Mapping) else list(np.shape(value))
        for name, value in params.items()
    }


def _structs(shapes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _structs(value) if isinstance(value, Mapping) else jax.ShapeDtypeStruct(value, jnp.float32)
        for name, value in shapes.items()
    }


def read_best(run_directory: Path) -> tuple[Card, Variables]:
    """Card and variables (host arrays) of a run's best checkpoint, the compact one if the method makes one.

    Raises:
        UserError: the directory holds no checkpoint, or it cannot be read.
    """
    folder = run_directory / COMPACT
    if checkpoints.best_step(folder) is None:
        folder = run_directory / "checkpoints"
    best = checkpoints.best_step(folder)
    if best is None:
        raise UserError(run_places.why_unusable(run_directory))
    try:
        meta = checkpoints.read_meta(folder, best)
        card = Card.from_json({**meta, **calibration.read(run_directory, best)})
        card.model()
    except UserError as error:
        raise UserError(f"checkpoint {readable(folder / str(best))} cannot be used: {error}") from error
    except DAMAGE as error:
        raise UserError(
            f"checkpoint {readable(folder / str(best))} cannot be used: its description of the network is damaged "
            f"({readable(error)})"
        ) from error
    return card, variables_of(card, checkpoints.restore_variables(folder, best, card.saved_shapes()))


def read_epochs(run_directory: Path) -> tuple[Card, list[Variables]]:
    """Card and variables (host arrays) of all evaluated checkpoints of a run, the best one first.

    Raises:
        UserError: the directory holds no checkpoint, one cannot be read, or they are not of a plain network.
    """
    folder = run_directory / "checkpoints"
    steps = checkpoints.best_steps(folder)
    card, best = read_best(run_directory)
    if steps and Card.from_json(checkpoints.read_meta(folder, steps[0])).composition:
        raise UserError(f"the checkpoints of {run_directory} hold more than its network; give several runs")
    # Of the best epoch it may be the average of the weights.
    shapes = card.saved_shapes()
    others = [variables_of(card, checkpoints.restore_variables(folder, step, shapes)) for step in steps[1:]]
    return card, [best, *others]


def variables_of(card: Card, saved: Variables) -> Variables:
    """The model's variables among all that a checkpoint holds."""
    parts = card.model().part_names
    return {kind: {name: tree[name] for name in parts} for kind, tree in saved.items()}
