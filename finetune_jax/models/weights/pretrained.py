"""What ``--pretrained`` accepts.

That is a weight file, a run directory, the name of bundled or installed weights, ``hf:REPO``, or ``none``.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write
from finetune_jax.models import heads, registry
from finetune_jax.models.card import read_best
from finetune_jax.models.network import Network, Variables
from finetune_jax.models.weights import installed, torch_state

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class _Input(NamedTuple):
    """What a network's published weights were trained on."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: int = 224


_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_BYTES_FROM_127 = ((127 / 255,) * 3, (128 / 255,) * 3)  # (x − 127) / 128 of bytes
_INPUTS = {
    "mobilenet": _Input(*_HALVES),
    "resnet50v2": _Input(*_HALVES),
    "resnet101v2": _Input(*_HALVES),
    "inception_v3": _Input(*_HALVES, 299),
    "efficientnet_lite0": _Input(*_BYTES_FROM_127),
    "efficientnet_lite1": _Input(*_BYTES_FROM_127, 240),
    "efficientnet_lite2": _Input(*_BYTES_FROM_127, 260),
}

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
    """

    network: Network
    variables: Variables
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: int = 224
    class_names: tuple[str, ...] = ()


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
        name: path of a ``.safetensors``, ``.npz``, ``.pth`` or ``.pt`` file or of a run directory, a bundled
            name (:func:`bundled_names`), a network whose weights are installed as a package
            (``installed.names``), or ``hf:REPO``.
        num_classes: None keeps the original head; a number gives a freshly initialised one of that size.
        architecture: of a weight file; None recognises it from the entries.
        **settings: ``dtype`` and the other settings of layers of ``models.create``, and ``width`` for files.

    Raises:
        UserError: nothing is there, or the weights do not fit.
    """
    found = resolve(name, architecture=architecture, **settings)
    if num_classes is None:
        return found.network, found.variables
    return replace_head(found.network, found.variables, num_classes, jax.random.key(0))


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
    if head == network.head_name == heads.OWN:
        kept = variables["params"]["head"]
        fresh = {
            "params": {**kept, "classifier": fresh["params"]["classifier"]},
            "batch_stats": variables["batch_stats"]["head"],
        }
    return changed, {kind: {**tree, "head": fresh[kind]} for kind, tree in variables.items()}


def resolve(name: str, *, architecture: str | None = None, **settings: Any) -> Pretrained:
    """Like :func:`load_pretrained` with the original head, and with the origin's normalisation.

    Raises:
        UserError: nothing is there, or the weights do not fit.
    """
    if name in bundled_names():
        return _bundled(name, **settings)
    if name in installed.names():
        settings.pop("width", None)
        return _from_file(installed.weight_file(name), name, **settings)
    if name.startswith("hf:"):
        return _from_hub(name, **settings)
    path = Path(name).expanduser()
    if path.is_dir():
        return from_run(path, **settings)
    if path.suffix or os.sep in name:
        return _from_file(path, architecture, **settings)
    raise UserError(
        f"--pretrained={name} is neither a file, a run directory, hf:REPO, none, "
        f"nor a bundled name ({', '.join(bundled_names())}) "
        f"nor a network with weights to install ({', '.join(installed.names())})"
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
        jax.tree.map(jnp.asarray, variables),
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


def _from_file(path: Path, architecture: str | None, **settings: Any) -> Pretrained:
    state = read_write.read(path)
    network = _matching_network(path, state, architecture, **settings)
    variables = torch_state.from_torch_state(network, state)
    return Pretrained(network, variables, *_INPUTS.get(network.architecture, _Input()))


def _from_hub(name: str, **settings: Any) -> Pretrained:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f'--pretrained={name} needs huggingface_hub: pip install "finetune-jax[hub]"'
        ) from None
    repository = name.removeprefix("hf:")
    try:
        path = huggingface_hub.hf_hub_download(repository, "model.safetensors")
        config = json.loads(Path(huggingface_hub.hf_hub_download(repository, "config.json")).read_text())
    except Exception as error:  # the hub raises a dozen kinds; all of them mean "not to be had"
        raise UserError(f"--pretrained={name} could not be fetched: {error}") from error
    # The hub's names are timm's, and not always ours.
    architecture = config.get("architecture")
    found = _from_file(Path(path), architecture if architecture in registry.names() else None, **settings)
    origin = config.get("pretrained_cfg", {})
    return Pretrained(
        found.network,
        found.variables,
        tuple(origin.get("mean", found.mean)),
        tuple(origin.get("std", found.std)),
        origin.get("input_size", (3, found.image_size, found.image_size))[-1],
    )


def _matching_network(
    path: Path, state: dict[str, np.ndarray], architecture: str | None, **settings: Any
) -> Network:
    if architecture is not None:
        return _with_classes_of(registry.create(architecture, 1, **settings), state)
    for candidate in registry.names():
        network = registry.create(candidate, 1, **settings)
        if torch_state.fits(network, state):
            return _with_classes_of(network, state)
    raise UserError(
        f"{path} fits none of the networks {', '.join(registry.names())}; "
        "name the right one with --network (and --width) to see what differs"
    )


def _with_classes_of(network: Network, state: dict[str, np.ndarray]) -> Network:
    classes = torch_state.num_classes(network, state)
    return network if classes is None else network.with_num_classes(classes)
