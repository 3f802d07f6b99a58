"""Computes the golden images and boxes of this folder with torchvision and timm. Run by hand, not by the tests:

    python tests/golden/make_augmentation_goldens.py        # seconds

It needs torch, torchvision, timm, Pillow and NumPy (last run with torch 2.14.1, torchvision 0.29.1, timm 1.0.31,
Pillow 13.0) and writes

- ``operations.npz``: ``image`` uint8 ``[H, W, 3]``; per case its operation (``names [N]``), its magnitude
  (``magnitudes [N]``) and the result of ``torchvision.transforms.autoaugment._apply_op`` on a Pillow image, nearest
  neighbour, uncovered pixels black (``results [N, H, W, 3]``); and the magnitudes of ``TrivialAugmentWide``,
  ``RandAugment`` and ``AugMix`` (``spaces/POLICY/OPERATION``, ``signed/POLICY/OPERATION``).
- ``boxes.npz``: CutMix boxes of ``timm.data.mixup.rand_bbox``: ``sizes [N, 2]``, ``centers [N, 2]``, ``shares [N]``,
  ``boxes [N, 4]`` as top, bottom, left, right.
- ``views.npz``: ``image`` and its ``five`` crops, ``[5, size, size, 3]``, of ``torchvision``'s ``five_crop``.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import mixup
from torchvision.transforms import autoaugment, functional
from torchvision.transforms.functional import InterpolationMode

FOLDER = Path(__file__).parent
HEIGHT, WIDTH = 20, 28


def photograph() -> np.ndarray:
    """Smooth colours, a few edges and some noise: an image in which every operation shows."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(x / 4 + k) + np.cos(y / 3 - 2 * k) for k in range(3)]
    image = 110 + 40 * np.stack(waves, -1) + rng.normal(0, 8, (HEIGHT, WIDTH, 3))
    image[5:9, 10:18] = (230, 40, 70)
    return image.clip(10, 245).astype(np.uint8)


SIGNED = (
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
)


def operations() -> dict[str, np.ndarray]:
    image = photograph()
    spaces = {
        "trivial_augment": autoaugment.TrivialAugmentWide()._augmentation_space(31),
        "rand_augment": autoaugment.RandAugment()._augmentation_space(31, (HEIGHT, WIDTH)),
        "augmix": autoaugment.AugMix()._augmentation_space(10, (HEIGHT, WIDTH)),
    }
    cases, content = [], {"image": image}
    for policy, space in spaces.items():
        for name, (magnitudes, signed) in space.items():
            values = np.atleast_1d(magnitudes.numpy()).astype(np.float64)
            content[f"spaces/{policy}/{name}"] = values
            content[f"signed/{policy}/{name}"] = np.array(signed)
            if policy != "trivial_augment":
                continue
            chosen = values if len(values) == 1 else values[[0, 3, 9, 17, 24, 30]]
            for value in chosen:
                cases += [(name, value)] + ([(name, -value)] if signed and value else [])
    results = []
    for name, value in cases:
        changed = autoaugment._apply_op(
            Image.fromarray(image), name, float(value), InterpolationMode.NEAREST, fill=None
        )
        results.append(np.asarray(changed))
    content["names"] = np.array([name for name, _ in cases])
    content["magnitudes"] = np.array([value for _, value in cases])
    content["results"] = np.stack(results)
    return content


def boxes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    sizes, centers, shares, found = [], [], [], []
    for height, width in [(8, 8), (32, 32), (17, 40)]:
        for share in [0.0, 1.0, *rng.uniform(size=12)]:
            center = (rng.integers(height), rng.integers(width))
            drawn = iter(center)
            original, mixup.np.random.randint = (
                mixup.np.random.randint,
                lambda *_, drawn=drawn, **__: next(drawn),
            )
            found.append(mixup.rand_bbox((1, 3, height, width), share))
            mixup.np.random.randint = original
            sizes.append((height, width))
            centers.append(center)
            shares.append(share)
    return {
        "sizes": np.array(sizes),
        "centers": np.array(centers),
        "shares": np.array(shares),
        "boxes": np.array(found),
    }


def views() -> dict[str, np.ndarray]:
    image = photograph()[:, :21]
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    five = [crop.permute(1, 2, 0).numpy() for crop in functional.five_crop(tensor, [13, 13])]
    return {"image": image, "five": np.stack(five)}


if __name__ == "__main__":
    np.savez_compressed(FOLDER / "operations.npz", **operations())
    np.savez_compressed(FOLDER / "boxes.npz", **boxes())
    np.savez_compressed(FOLDER / "views.npz", **views())
