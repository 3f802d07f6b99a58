"""What ``--pretrained`` accepts.

That is a weight file, a run directory, the name of bundled or installed weights, ``hf:REPO``, or ``none``.
"""

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.errors import UserError, readable
from finetune_jax.files.weight_files import folder, read_write
from finetune_jax.models import heads, registry
from finetune_jax.models.card import read_best
from finetune_jax.models.layers.positions import resampled
from finetune_jax.models.network import Network, Variables
from finetune_jax.models.weights import hub, hugging_face, inputs, installed, matching, torch_state
from finetune_jax.models.weights.inputs import IMAGENET_MEAN, IMAGENET_STD

_OPTIONS = ("pool", "drop_path", "dropout")
"""Settings of a network that depend on what it is; a file's is known only when it is read."""

_BUNDLED = Path(__file__).parents[1] / "bundled"


@dataclass(frozen=True)
class Pretrained:
    """Variables and what is known of their origin.

    Attributes:
        network: with the classifier of the origin.
        variables: float32.
        mean: of each input channel, images scaled to [0, 1]; what the network was trained with.
        std: likewise.
        image_size: side of the images it was trained on; what photographs are resized to by default.
        class_names: of the origin's classifier, where known.
        description: what the origin says of the weights, licence included, for people; empty where nothing.
        notes: what of a file was left out or changed; sentences for the user.
    """

    network: Network
    variables: Variables
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: int = 224
    class_names: tuple[str, ...] = ()
    description: str = ""
    notes: tuple[str, ...] = ()


def bundled_names() -> tuple[str, ...]:
    """Names of the weights that come with the package."""
    return tuple(sorted(path.stem for path in _BUNDLED.glob("*.json")))


def bundled_source(name: str) -> Path | None:
    """Class means of what bundled weights were trained on (see ``finetune_jax.domains``); None for all others."""
    file = _BUNDLED / f"{name}_source.npz"
    return file if name in bundled_names() and file.exists() else None


def load_pretrained(
    name: str, num_classes: int | None = None, *, architecture: str | None = None, **settings: Any
) -> tuple[Network, Variables]:
    """A pretrained network.

    Args:
        name: path of a file of weights (``read_write.SUFFIXES``), of a folder of such files, or of a run directory,
            a bundled name (:func:`bundled_names`), a network whose weights are installed as a package
            (``installed.names``), ``hf:REPO``, ``timm:TAG``, or a folder with the files of such a repository.
        num_classes: None keeps the original head; a number gives a freshly initialised one of that size.
        architecture: of a weight file; None recognises it from the entries.
        **settings: ``dtype`` and the other settings of ``models.create``, and ``width`` for files. The positions of
            a transformer are resampled where its ``image_size`` is not the weights' own.

    Raises:
        UserError: nothing is there, or the weights do not fit.

    Examples:
        >>> from finetune_jax import models
        >>> network, variables = models.load_pretrained("resnet26_cifar10", num_classes=None)
        >>> network.architecture, network.num_classes
        ('resnet26', 10)
    """
    image_size = settings.pop("image_size", None)
    origin = resolve(name, architecture=architecture, **settings)
    origin = at_image_size(origin, image_size or origin.image_size)
    if num_classes is None:
        return origin.network, origin.variables
    return replace_head(origin.network, origin.variables, num_classes, jax.random.key(0))


def replace_head(
    network: Network, variables: Variables, num_classes: int, key: jax.Array, *, head: str = heads.OWN
) -> tuple[Network, Variables]:
    """The network with a freshly initialised head of ``num_classes`` outputs.

    Args:
        network: with any head.
        variables: of it.
        num_classes: outputs of the new head.
        key: random key of the fresh parameters.
        head: name of the new head. Where both are the architecture's own, only the classifier is fresh, and
            what else it holds (the final norm of ResNet-26) is kept.
    """
    changed = registry.with_head(network, num_classes, head)
    fresh = changed.fresh_head(key)
    # What pools tokens was trained with them, whatever head is behind it.
    pooling = {layer: variables["params"]["head"][layer] for layer in _pooling_layers(changed, variables)}
    fresh = {**fresh, "params": {**fresh["params"], **pooling}}
    if head == network.head_name == heads.OWN:
        kept = variables["params"]["head"]
        fresh = {
            "params": {**kept, "classifier": fresh["params"]["classifier"]},
            "batch_stats": variables["batch_stats"]["head"],
        }
    return changed, {kind: {**tree, "head": fresh[kind]} for kind, tree in variables.items()}


def at_image_size(origin: Pretrained, image_size: int) -> Pretrained:
    """The origin's network for images of another size, the positions of a transformer resampled.

    A network whose parameters do not depend on the size is returned as it is.

    Raises:
        UserError: the patches of a transformer do not divide the size.
    """
    network = origin.network
    if network.image_size in (None, image_size):
        return origin
    network = registry.with_settings(network, image_size=image_size)
    variables = origin.variables
    stem = variables.get("params", {}).get("stem", {})
    if "positions" in stem and network.tokens is not None:
        table = resampled(
            np.asarray(stem["positions"]["embedding"]), network.tokens.placed, network.tokens.side
        )
        stem = {**stem, "positions": {"embedding": jnp.asarray(table)}}
        variables = {**variables, "params": {**variables["params"], "stem": stem}}
    return replace(origin, network=network, variables=variables)


def _with_options(origin: Pretrained, options: dict[str, Any]) -> Pretrained:
    """The origin with options of its network changed, its head kept as far as it has the same layers."""
    changed = {name: value for name, value in options.items() if value}
    if not changed:
        return origin
    network = registry.with_settings(origin.network, **changed)
    fresh = network.fresh_head(jax.random.key(0))["params"]
    head = origin.variables["params"]["head"]
    shapes = jax.tree.map(jnp.shape, (head, fresh))
    kept = {layer: head[layer] for layer in fresh if shapes[0].get(layer) == shapes[1][layer]}
    params = {**origin.variables["params"], "head": {**fresh, **kept}}
    return replace(origin, network=network, variables={**origin.variables, "params": params})


def _pooling_layers(network: Network, variables: Variables) -> list[str]:
    return [layer for layer in network.torch_names.pooling if layer in variables["params"]["head"]]


def resolve(name: str, *, architecture: str | None = None, entry: str = "", **settings: Any) -> Pretrained:
    """Like :func:`load_pretrained` with the original head and image size, and with the origin's normalisation.

    Args:
        name: as there.
        architecture: as there.
        entry: of the state to take from a file that holds several: a key such as ``state_dict_ema``, or a prefix of
            names such as ``encoder_q``.
        **settings: as there.

    Raises:
        UserError: nothing is there, or the weights do not fit.
    """
    options = {option: settings.pop(option, None) for option in _OPTIONS}
    return _with_options(_resolve(name, architecture, entry, **settings), options)


def _resolve(name: str, architecture: str | None, entry: str, **settings: Any) -> Pretrained:
    if name in bundled_names():
        return _bundled(name, **settings)
    if name in installed.names():
        settings.pop("width", None)
        prepare = functools.partial(installed.network_entries, name)
        file, network = installed.weight_file(name), installed.architecture(name)
        return _from_file(file, network, entry, prepare, **settings)
    if name.startswith(("hf:", "timm:")):
        return _from_repository(hub.fetch(name), name, entry, **settings)
    path = Path(name).expanduser()
    if path.is_dir() and hub.is_repository(path):
        return _from_repository(hub.open_folder(path), name, entry, **settings)
    if path.is_dir():
        if folder.holds_weights(path):
            return _from_file(path, architecture, entry, **settings)
        return from_run(path, **settings)
    if path.suffix or os.sep in name:
        return _from_file(path, architecture, entry, **settings)
    raise UserError(
        f"--pretrained={readable(name)} is neither a file, a run directory, hf:REPO, timm:TAG, none, "
        f"nor a bundled name ({', '.join(bundled_names())}) "
        f"nor a network with weights to install ({', '.join(installed.names())}){_where_weights_are(name)}"
    )


def _where_weights_are(name: str) -> str:
    """Where to look for the weights of a network of which there are none here; empty for other names."""
    if name not in registry.names():
        return ""
    return (
        f"; weights of {name} come from a file (torchvision's or timm's .pth or .safetensors) or, by their tag, from "
        f"the hub (timm:{name}.TAG)"
    )


def from_run(run_directory: Path, **settings: Any) -> Pretrained:
    """The best checkpoint of a run; ``settings`` of ``models.create``.

    Raises:
        UserError: the directory holds no checkpoint, or it cannot be read.
    """
    card, variables = read_best(run_directory)
    if card.composition:
        raise UserError(
            f"--pretrained={run_directory} holds a {card.composition['kind']} network, which is more than one "
            "network; start from the weights it started from, or from a run of --method=spottune_global"
        )
    settings.pop("width", None)
    return Pretrained(
        card.network(**settings),
        jax.device_put(variables),
        card.mean,
        card.std,
        card.preprocessing.image_size,
        card.class_names,
    )


def export(origin: Pretrained, path: Path, **facts: Any) -> None:
    """Write weights as ``PATH.npz`` (float16, PyTorch's names) and what they need as ``PATH.json``.

    Args:
        origin: of the weights.
        path: without suffix.
        **facts: more entries of the JSON file, such as ``test_accuracy``.
    """
    state = torch_state.to_torch_state(origin.network, origin.variables)
    half = {name: value.astype(np.float16) for name, value in state.items() if value.dtype == np.float32}
    read_write.write(path.with_suffix(".npz"), half)
    card = {
        "architecture": origin.network.architecture,
        "width": origin.network.width,
        "class_names": list(origin.class_names),
        "image_size": origin.image_size,
        "mean": list(origin.mean),
        "std": list(origin.std),
        **facts,
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


def _bundled(name: str, **settings: Any) -> Pretrained:
    card = json.loads((_BUNDLED / f"{name}.json").read_text())
    settings.pop("width", None)
    network = registry.create(card["architecture"], len(card["class_names"]), width=card["width"], **settings)
    variables = torch_state.from_torch_state(network, read_write.read(_BUNDLED / f"{name}.npz"))
    return Pretrained(
        network,
        variables,
        tuple(card["mean"]),
        tuple(card["std"]),
        card["image_size"],
        tuple(card["class_names"]),
    )


def _from_file(
    path: Path,
    architecture: str | None,
    entry: str = "",
    prepare: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = dict,
    **settings: Any,
) -> Pretrained:
    """Weights of a file, whose state ``prepare`` makes that of a network."""
    content = read_write.read_entry(path, entry)
    content = content._replace(state=hugging_face.as_timm(prepare(content.state)))
    names = registry.names() if architecture is None else (architecture,)
    networks = [registry.create(name, 1, **settings) for name in names]
    shown = readable(path)
    # An entry that the file has as a dict has been taken; else it may be a prefix of names.
    below = "" if entry and entry in content.entry else entry
    if below and not any(key.startswith(f"{below.rstrip('.')}.") for key in content.state):
        known = ", ".join(content.others) or "none"
        raise UserError(f"--weights_entry={readable(entry)} is not in {shown}; further states in it: {known}")
    match = matching.match(shown, content.state, networks, below)
    notes = match.notes
    if content.others and not entry:
        taken = content.entry or "its top level"
        notes = (
            f"taken is {taken}; --weights_entry={content.others[0]} takes the other weights in it",
            *notes,
        )
    network = _as_trained(match.network, match.state)
    variables = torch_state.from_torch_state(network, match.state)
    messages = tuple(f"{shown}: {note}" for note in notes)
    return Pretrained(network, variables, *inputs.of_network(network), notes=messages)


def _from_repository(repository: hub.Repository, name: str, entry: str, **settings: Any) -> Pretrained:
    # The hub's names are timm's, and not always ours.
    known = repository.architecture in registry.names()
    origin = _from_file(repository.weights, repository.architecture if known else None, entry, **settings)
    return replace(
        origin,
        mean=repository.mean or origin.mean,
        std=repository.std or origin.std,
        image_size=repository.image_size or origin.image_size,
        description=f"{name}: {origin.network.architecture}, {repository.description()}",
    )


def _as_trained(network: Network, state: dict[str, np.ndarray]) -> Network:
    """The network with the image size of a state."""
    if network.tokens is None or network.image_size is None:
        return network
    side = torch_state.patches_per_side(network, state)
    if side not in (None, network.tokens.side):
        patch = network.image_size // network.tokens.side
        network = registry.with_settings(network, image_size=side * patch)
    return network
