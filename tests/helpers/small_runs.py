"""Runs of which an epoch takes no time: a small network from a file, and photos whose class shows."""

from pathlib import Path
from typing import Any

import numpy as np
from photos import write_photos
from PIL import Image
from routed import pretrained
from weights import write_weights

from finetune_jax import models
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.files.weight_files import read_write


def write_stripes(folder: Path, classes: int, count: int) -> None:
    """Photos of noise, 8 pixels wide, with a bright stripe at a place of its own for each class."""
    rng = np.random.default_rng(0)
    width = 8 // classes
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 100, (8, 8, 3))
            pixels[:, width * label : width * (label + 1)] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class{label}" / f"{number}.png")


def small_run(home: Path, *, classes: int = 4, count: int = 30, **settings: Any) -> FinetuneConfig:
    """Settings of a run on such photos, which are written below ``home`` with the weights."""
    write_weights(home / "weights.npz")
    write_stripes(home / "photos", classes, count)
    return _small(home, **{"batch_size": 16} | settings)


def run_on_photos(home: Path, *, per_class: int = 20, **settings: Any) -> FinetuneConfig:
    """Settings of a run of two epochs on photos of three classes, written below ``home`` with the weights."""
    if "pretrained" not in settings:
        write_weights(home / "weights.npz")
    write_photos(home / "photos", per_class=per_class)
    return _small(home, **{"batch_size": 12, "epochs": 2} | settings)


def routed_run(home: Path, **settings: Any) -> FinetuneConfig:
    """The same of SpotTune, from the weights of :func:`routed.pretrained`."""
    network, variables = pretrained()
    read_write.write(home / "small.npz", models.to_torch_state(network, variables))
    routed: dict[str, Any] = {
        "pretrained": str(home / "small.npz"),
        "policy_network": "resnet26_policy",
        "test_resize": 8,
        "batch_size": 8,
        "method": "spottune",
    }
    return run_on_photos(home, **(routed | settings))


def _small(home: Path, **settings: Any) -> FinetuneConfig:
    small: dict[str, Any] = {
        "dataset": f"folder:{home / 'photos'}",
        "cache_dir": str(home / "cache"),
        "pretrained": str(home / "weights.npz"),
        "network": "resnet26_policy",
        "width": 0.125,
        "image_size": 8,
    }
    return FinetuneConfig(**(small | settings))
