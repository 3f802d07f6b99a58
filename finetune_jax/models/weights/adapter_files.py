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

from finetune_jax.errors import UserError, readable
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

_Path = tuple[str, str, str, str]
_PARAMS, _STATISTICS = "params", "batch_stats"


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
    state = adapter_state(model, variables[_PARAMS], variables[_STATISTICS])
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


def adapter_state(
    model: AdaptedNetwork, params: Mapping[str, Any], batch_stats: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """``{name in peft's file: array}`` of adapters and head.

    Args:
        model: of the adapters.
        params: ``{part: tree}`` with its trained parts; gradients will do as well.
        batch_stats: likewise, for the running statistics of the head.

    Raises:
        UserError: one layer is several in PyTorch.
    """
    entries = _entries(model.network)
    state = {}
    for part in model.adapted:
        for layer, leaves in params[part].items():
            entry = _single(entries, (_PARAMS, part, layer, "kernel"))
            down, up = (np.asarray(leaves["kernel"][name], np.float32) for name in ("down", "up"))
            module = _ROOT + entry.name.removesuffix(".weight")
            state[module + _DOWN] = _to_torch(down, entry.axes)
            state[module + _UP] = _to_torch(up, entry.axes)
    for kind, tree in ((_PARAMS, params), (_STATISTICS, batch_stats or {})):
        for layer, leaves in tree.get("head", {}).items():
            for leaf, value in leaves.items():
                entry = _single(entries, (kind, "head", layer, leaf))
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
    paths = {entry.name: path for path, entries in _entries(network).items() for entry in entries}
    merged: Any = jax.tree.map(np.asarray, variables)
    for name, value in state.items():
        if name.endswith(_UP):
            continue
        if name.endswith("num_batches_tracked"):
            continue
        whole = name.removeprefix(_ROOT).replace(".modules_to_save.default", "")
        path = paths.get(whole.removesuffix(_DOWN) + ".weight" if name.endswith(_DOWN) else whole)
        if path is None:
            raise UserError(
                f"{folder / WEIGHTS} has {name!r}, which is of no layer of {network.architecture}; give the network "
                "that it was trained on"
            )
        kind, part, layer, leaf = path
        before = merged[kind][part][layer][leaf]
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
        of_part = merged[kind][part]
        merged[kind][part] = {**of_part, layer: {**of_part[layer], leaf: after}}
    return jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, np.float32), merged)


def num_outputs(network: Network, folder: str | os.PathLike[str]) -> int | None:
    """Outputs of the classifier that came with adapters; None where they came without.

    Args:
        network: that they are of, with any number of classes.
        folder: of the two files.

    Raises:
        UserError: the file of weights is missing or damaged.
    """
    state = weight_files.read(Path(folder) / WEIGHTS)
    names = [entry.name for entry in _entries(network).get((_PARAMS, "head", "classifier", "bias"), ())]
    for name, value in state.items():
        if name.removeprefix(_ROOT).replace(".modules_to_save.default", "") in names and value.ndim == 1:
            return len(value)
    return None


def base_of(folder: str | os.PathLike[str]) -> str:
    """What the files say that the adapters were trained on, for people; empty where nothing.

    Raises:
        UserError: as of :func:`add_adapter`, of the configuration.
    """
    name = _read_config(Path(folder) / CONFIG).get("base_model_name_or_path")
    return readable(name, 100) if isinstance(name, str) else ""


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
        (kind, part, layer, leaf)
        for kind, tree in shapes.items()
        for part, layers in tree.items()
        for layer, leaf_shapes in layers.items()
        for leaf in leaf_shapes
    ]
    numbered: dict[str, Any] = {kind: {part: {} for part in tree} for kind, tree in shapes.items()}
    for number, (kind, part, layer, leaf) in enumerate(leaves):
        shape = shapes[kind][part][layer][leaf].shape
        layer_numbers = numbered[kind][part].setdefault(layer, {})
        layer_numbers[leaf] = np.broadcast_to(np.float32(number), shape)
    entries: dict[_Path, list[_Entry]] = {path: [] for path in leaves}
    for name, value in torch_state.to_torch_state(network, numbered).items():
        if value.ndim:
            entries[leaves[int(value.flat[0])]].append(_Entry(name, value.ndim))
    return entries


def _single(entries: Mapping[_Path, list[_Entry]], path: _Path) -> _Entry:
    path_entries = entries[path]
    if len(path_entries) != 1:
        raise UserError(
            f"--save_adapter: {path[2]} is {len(path_entries)} layers in PyTorch, which no file of an adapter can "
            "say; leave it out with --lora_targets"
        )
    return path_entries[0]


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
