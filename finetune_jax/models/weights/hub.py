"""Repositories of weights: fetched from the hub, or a folder that holds the same files.

A repository of timm says in ``config.json`` what its tag was trained with; one of transformers says it in
``preprocessor_config.json``. Both keep the weights in ``model.safetensors``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_jax.errors import UserError, readable
from finetune_jax.files import readers
from finetune_jax.models.card import LARGEST_IMAGE

_WEIGHTS, _CONFIG, _PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # numbers of Pillow


@dataclass(frozen=True)
class Repository:
    """Weights, and what their origin says of them; None and empty where it says nothing.

    Attributes:
        weights: the file.
        architecture: timm's name of the network.
        mean: of each channel, images scaled to [0, 1].
        std: likewise.
        image_size: side of the images.
        interpolation: by which they were made smaller.
        crop_share: of a test image's shorter side, which the network sees.
        licence: of the weights.
    """

    weights: Path
    architecture: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    interpolation: str = ""
    crop_share: float | None = None
    licence: str = ""

    def description(self) -> str:
        """The facts in one line, for people."""
        facts = []
        if self.image_size:
            facts.append(f"{self.image_size} pixels")
        if self.interpolation:
            facts.append(self.interpolation)
        if self.crop_share:
            facts.append(f"crop of {self.crop_share:g}")
        facts.append(f"licence {self.licence}" if self.licence else "no licence named")
        return ", ".join(facts)


def repository_name(name: str) -> str:
    """``REPO`` of ``hf:REPO``; ``timm:TAG`` is short for ``hf:timm/TAG``."""
    kind, _, rest = name.partition(":")
    return f"timm/{rest}" if kind == "timm" else rest


def fetch(name: str) -> Repository:
    """The repository that ``hf:REPO`` or ``timm:TAG`` names, from the hub or its cache on this machine.

    Raises:
        UserError: huggingface_hub is not installed, or the repository is not to be had.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f'--pretrained={name} needs huggingface_hub: pip install "finetune-jax[hub]"'
        ) from None
    repository = repository_name(name)

    def file(entry: str) -> Path:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, entry))
        except Exception as error:  # the hub raises a dozen kinds; all of them mean "not to be had"
            raise UserError(
                f"--pretrained={name} could not be fetched: {readable(error)}; where the hub cannot be reached, give a "
                f"folder with {_WEIGHTS} and {_CONFIG}"
            ) from error

    return _read(name, file)


def is_repository(folder: Path) -> bool:
    """Whether a folder is a repository, such as a snapshot of the hub."""
    return (folder / _WEIGHTS).is_file() and (folder / _CONFIG).is_file()


def open_folder(folder: Path) -> Repository:
    """The repository in a folder.

    Raises:
        UserError: its facts cannot be read.
    """
    return _read(str(folder), lambda entry: folder / entry)


def _read(name: str, file: Callable[[str], Path]) -> Repository:
    weights = file(_WEIGHTS)
    config = _json(name, file(_CONFIG))
    if "model_type" in config and "pretrained_cfg" not in config:
        return _of_transformers(weights, _json(name, file(_PREPROCESSOR)))
    origin = config.get("pretrained_cfg")
    origin = origin if isinstance(origin, dict) else {}
    size, share = origin.get("input_size"), origin.get("crop_pct")
    return Repository(
        weights=weights,
        architecture=_text(config.get("architecture")),
        mean=_numbers(origin.get("mean")),
        std=_numbers(origin.get("std")),
        image_size=_side(size[-1]) if isinstance(size, list) and size else None,
        interpolation=_text(origin.get("interpolation")),
        crop_share=share if isinstance(share, float) else None,
        licence=_text(origin.get("license")),
    )


def _of_transformers(weights: Path, preprocessor: dict[str, Any]) -> Repository:
    resample = preprocessor.get("resample")
    side = preprocessor.get("crop_size") if preprocessor.get("do_center_crop") else None
    side = side or preprocessor.get("size") or {}
    if isinstance(side, dict):
        side = side.get("height") or side.get("shortest_edge")
    return Repository(
        weights=weights,
        mean=_numbers(preprocessor.get("image_mean")),
        std=_numbers(preprocessor.get("image_std")),
        image_size=_side(side),
        interpolation=_INTERPOLATIONS.get(resample, "") if isinstance(resample, int) else "",
    )


def _numbers(values: Any) -> tuple[float, ...] | None:
    numbers = isinstance(values, list) and len(values) == 3 and all(type(v) in (int, float) for v in values)
    return tuple(map(float, values)) if numbers else None


def _side(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= LARGEST_IMAGE else None


def _text(value: Any) -> str:
    return readable(value, 60) if isinstance(value, str) else ""


def _json(name: str, file: Path) -> dict[str, Any]:
    try:
        return readers.json_object(file, "fetch it again")
    except UserError as error:
        raise UserError(f"--pretrained={readable(name)}: {error}") from error
