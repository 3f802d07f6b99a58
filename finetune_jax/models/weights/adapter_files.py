"""LoRA's adapters alone, in the files of the library ``peft``: ``adapter_config.json``, ``adapter_model.safetensors``.

What they adapt has the names that the network's layers have in PyTorch, so ``peft`` puts such files on timm's network
of the same name, and adapters that it has trained there are read here. The head, which is trained with the adapters,
stands beside them as a whole (``modules_to_save``).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from finetune_jax.errors import UserError
from finetune_jax.files import weight_files
from finetune_jax.files.causes import reason
from finetune_jax.models.compositions.adapted import AdaptedNetwork
from finetune_jax.models.network import Network, Variables
from finetune_jax.models.weights import torch_state

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_ROOT = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_UNREAD = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias")
"""Entries of the config that change what an adapter means, where they are set."""

_Path = tuple[str, str, str]


class _Entry(NamedTuple):
    name: str
    axes: int


def write(
    folder: str | os.PathLike[str], model: AdaptedNetwork, variables: Mapping[str, Any], base: str = ""
) -> None:
    """Write the adapters of a network and its head; the folder is made.

    Args:
        folder: of the two files.
        model: of the adapters.
        variables: of the model.
        base: what the adapters were trained on, for people.

    Raises:
        UserError: one layer is several in PyTorch, or the files cannot be written.
    """
    state = adapter_state(model, variables["params"])
    modules = sorted({name.removeprefix(_ROOT).rpartition(".")[0] for name in state if ".lora_" not in name})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base or model.network.architecture,
        "r": model.rank,
        "lora_alpha": model.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(
            name.removeprefix(_ROOT).removesuffix(_DOWN) for name in state if name.endswith(_DOWN)
        ),
        "modules_to_save": modules,
        "inference_mode": True,
        "task_type": None,
    }
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {reason(error)}") from error
    weight_files.write(folder / WEIGHTS, state)


def adapter_state(model: AdaptedNetwork, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """``{name in peft's file: array}`` of adapters and head.

    Args:
        model: of the adapters.
        params: ``{part: tree}`` with its trained parts; gradients will do as well.

    Raises:
        UserError: one layer is several in PyTorch.
    """
    entries = _entries(model.network)
    state = {}
    for part in model.adapted:
        for layer, leaves in params[part].items():
            entry = _single(entries, (part, layer, "kernel"))
            down, up = (np.asarray(leaves["kernel"][name], np.float32) for name in ("down", "up"))
            module = _ROOT + entry.name.removesuffix(".weight")
            state[module + _DOWN] = _to_torch(down, entry.axes)
            state[module + _UP] = _to_torch(up, entry.axes)
    for layer, leaves in params["head"].items():
        for leaf, value in leaves.items():
            entry = _single(entries, ("head", layer, leaf))
            value = np.asarray(value, np.float32)
            state[_ROOT + entry.name] = _to_torch(value, entry.axes) if leaf == "kernel" else value
    return state


def add_adapter(network: Network, variables: Variables, folder: str | os.PathLike[str]) -> Variables:
    """Variables of the network with adapters of ``peft`` added to its kernels, and the layers that came with them.

    Args:
        network: plain, with as many classes as the adapters' head.
        variables: of it, those that the adapters were trained on.
        folder: of the two files.

    Raises:
        UserError: a file is missing or damaged, the adapters are of another kind than plain LoRA, or of another
            network.

    Examples:
        >>> import json, pathlib, tempfile
        >>> import numpy as np
        >>> from finetune_jax import models, weight_files
        >>> network, variables = models.load_pretrained("resnet26_cifar10", num_classes=2)
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
        >>> _ = (folder / "adapter_config.json").write_text(json.dumps(config))
        >>> head = {"base_model.model.linear.bias": np.array([0.5, -0.5], np.float32)}
        >>> weight_files.write(folder / "adapter_model.safetensors", head)
        >>> models.add_adapter(network, variables, folder)["params"]["head"]["classifier"]["bias"].tolist()
        [0.5, -0.5]
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    state = weight_files.read(folder / WEIGHTS)
    scale = config["lora_alpha"] / config["r"]
    paths = {entry.name: path for path, found in _entries(network).items() for entry in found}
    params = jax.tree.map(np.asarray, variables["params"])
    for name, value in state.items():
        if name.endswith(_UP):
            continue
        whole = name.removeprefix(_ROOT).replace(".modules_to_save.default", "")
        path = paths.get(whole.removesuffix(_DOWN) + ".weight" if name.endswith(_DOWN) else whole)
        if path is None:
            raise UserError(
                f"{folder / WEIGHTS} has {name!r}, which is of no layer of {network.architecture}; give the network "
                "that it was trained on"
            )
        part, layer, leaf = path
        before = params[part][layer][leaf]
        if name.endswith(_DOWN):
            up = state.get(name.removesuffix(_DOWN) + _UP)
            if up is None:
                raise UserError(f"{folder / WEIGHTS} has {name!r} without its lora_B; copy the file again")
            after = before + scale * _product(value, up, before.ndim)
        else:
            after = _from_torch(value, before.ndim) if leaf == "kernel" else value
        if after.shape != before.shape:
            raise UserError(
                f"{folder / WEIGHTS}: {name!r} is for {after.shape}, and {layer} of {network.architecture} is "
                f"{before.shape}; create the network with its number of classes"
            )
        params[part] = {**params[part], layer: {**params[part][layer], leaf: after}}
    return jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, np.float32), {**variables, "params": params})


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, rank, alpha = config["peft_type"], config["r"], config["lora_alpha"]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no configuration of an adapter; copy it again") from error
    if kind != "LORA" or not all(isinstance(number, int | float) and number > 0 for number in (rank, alpha)):
        raise UserError(f"{path} is not of LoRA with a rank and an alpha above 0; give such a folder")
    for name in _UNREAD:
        if config.get(name):
            raise UserError(f"{path} sets {name}, which is not read here; merge that adapter in peft")
    return config


def _entries(network: Network) -> dict[_Path, list[_Entry]]:
    """What each leaf is called in PyTorch, and how many axes it has there."""
    shapes = network.shapes()
    leaves = [
        (part, layer, leaf)
        for part, layers in shapes["params"].items()
        for layer, own in layers.items()
        for leaf in own
    ]
    numbered = {
        kind: {
            part: {layer: dict.fromkeys(own) for layer, own in layers.items()}
            for part, layers in tree.items()
        }
        for kind, tree in shapes.items()
    }
    for kind, tree in shapes.items():
        for part, layers in tree.items():
            for layer, own in layers.items():
                for leaf, shape in own.items():
                    number = leaves.index((part, layer, leaf)) if kind == "params" else -1
                    numbered[kind][part][layer][leaf] = np.broadcast_to(np.float32(number), shape.shape)
    found: dict[_Path, list[_Entry]] = {path: [] for path in leaves}
    for name, value in torch_state.to_torch_state(network, numbered).items():
        number = -1 if value.ndim == 0 else int(value.flat[0])
        if number >= 0:
            found[leaves[number]].append(_Entry(name, value.ndim))
    return found


def _single(entries: Mapping[_Path, list[_Entry]], path: _Path) -> _Entry:
    found = entries[path]
    if len(found) != 1:
        raise UserError(
            f"--save_adapter: {path[1]} is {len(found)} layers in PyTorch, which no file of an adapter can say; leave "
            "it out with --lora_targets"
        )
    return found[0]


def _to_torch(matrix: np.ndarray, axes: int) -> np.ndarray:
    """``[..., in, out]`` as ``[out, in, ...]`` with so many axes."""
    turned = np.moveaxis(matrix, (-1, -2), (0, 1))
    return np.ascontiguousarray(turned.reshape(*turned.shape, *[1] * (axes - turned.ndim)))


def _from_torch(matrix: np.ndarray, axes: int) -> np.ndarray:
    matrix = matrix.reshape(matrix.shape[:axes]) if axes == 2 else matrix
    return np.moveaxis(matrix, (0, 1), (-1, -2))


def _product(down: np.ndarray, up: np.ndarray, axes: int) -> np.ndarray:
    """What an adapter adds to a kernel with so many axes."""
    if down.ndim != up.ndim or down.shape[0] != up.shape[1]:
        raise UserError("lora_A and lora_B of an adapter do not fit; copy the files again")
    return _from_torch(down, axes) @ up.reshape(up.shape[:2]).T
