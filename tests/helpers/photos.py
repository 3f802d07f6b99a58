"""A folder of small made-up photographs: one colour per class, with noise."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"apple": (200, 30, 30), "leaf": (30, 180, 40), "sky": (40, 60, 210)}


MORE_COLOURS = {"lemon": (220, 210, 40), "plum": (130, 30, 140), "snow": (235, 235, 235)}


def write_photos(
    root: Path,
    per_class: int = 20,
    size: int = 24,
    seed: int = 0,
    colours: Mapping[str, tuple[int, int, int]] = COLOURS,
) -> Path:
    """Write ``root/CLASS/NN.png`` and return ``root``."""
    rng = np.random.default_rng(seed)
    for name, colour in colours.items():
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            noise = rng.normal(0, 40, (size, size + index % 5, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index:02d}.png")
    return root
