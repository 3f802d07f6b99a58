"""Outputs of small models of ``transformers``, as ``hugging_face.npz``. Run by hand:

PYTHONPATH=tests/golden python tests/golden/make_hugging_face_goldens.py   # torch 2.14, transformers 5.24

Names and shapes are those of the files that the library writes, and it reads the seeded values from such files.
"""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from seeded_state import seeded_images, seeded_normal

IMAGE_SIDES = {
    "registers": 56,
    "siglip": 64,
    "dinov3": 48,
    "dinov3_gated": 48,
    "convnextv2": 64,
    "dinov3_convnext": 64,
}


def seeded_values(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Values of every entry of a state, of order one behind every layer."""
    values = {}
    for name, shape in shapes.items():
        normal = seeded_normal(name, tuple(shape))
        if any(word in name for word in ("token", "position_embedding", "probe")):
            values[name] = np.float32(0.5) * normal
        elif len(shape) >= 2 and ".grn." not in name:
            values[name] = normal * np.float32(math.sqrt(1 / math.prod(shape[1:])))
        elif name.endswith("weight") and ".grn." not in name:
            values[name] = 1 + np.float32(0.1) * normal
        elif name.endswith(("lambda1", "gamma")):
            values[name] = np.float32(0.5) * (1 + np.float32(0.1) * normal)
        else:
            values[name] = np.float32(0.1) * normal
    return values


def main() -> None:
    import torch
    from safetensors.numpy import load_file, save_file
    from transformers import (
        ConvNextV2Config,
        ConvNextV2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
        DINOv3ConvNextConfig,
        DINOv3ConvNextModel,
        DINOv3ViTConfig,
        DINOv3ViTModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    dinov3 = {**small, "intermediate_size": 256, "patch_size": 16, "num_register_tokens": 4}
    stages = [4, 8, 16, 32]
    models = {
        "registers": Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**small, patch_size=14, image_size=56)
        ),
        "siglip": SiglipVisionModel(
            SiglipVisionConfig(**small, intermediate_size=256, patch_size=32, image_size=64)
        ),
        "dinov3": DINOv3ViTModel(DINOv3ViTConfig(**dinov3)),
        "dinov3_gated": DINOv3ViTModel(DINOv3ViTConfig(**dinov3, use_gated_mlp=True, hidden_act="silu")),
        "convnextv2": ConvNextV2Model(ConvNextV2Config(hidden_sizes=stages, depths=[2, 2, 6, 2])),
        "dinov3_convnext": DINOv3ConvNextModel(
            DINOv3ConvNextConfig(hidden_sizes=stages, depths=[3, 3, 9, 3])
        ),
    }
    numbers = {}
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.safetensors"
            model.save_pretrained(folder)
            shapes = {key: value.shape for key, value in load_file(file).items()}
            save_file(seeded_values(shapes), file, metadata={"format": "pt"})
            model = type(model).from_pretrained(folder).eval()
        images = torch.from_numpy(seeded_images(2, IMAGE_SIDES[name])).permute(0, 3, 1, 2)
        with torch.inference_mode():
            output = model(images)
        embedding = output.pooler_output
        if name.startswith("dinov3") and "convnext" not in name:
            embedding = output.last_hidden_state[:, 5:].mean(1)
        numbers[f"{name}/embedding"] = embedding.numpy()
        numbers[f"{name}/names"] = np.array(list(shapes))
        numbers[f"{name}/shapes"] = np.array([[*shape, *[0] * (4 - len(shape))] for shape in shapes.values()])
    np.savez_compressed(Path(__file__).with_name("hugging_face.npz"), **numbers)


if __name__ == "__main__":
    main()
