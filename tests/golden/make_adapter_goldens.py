"""Logits and gradients of peft's LoRA on a small timm ViT, as ``adapter/`` and ``adapter.npz``. Run by hand:

PYTHONPATH=tests/golden python tests/golden/make_adapter_goldens.py   # torch 2.14, timm 1.0.31, peft 0.21.2
"""

from pathlib import Path

import numpy as np
import peft
import timm
import torch
from seeded_state import seeded_images, seeded_state
from torch.nn import functional

FOLDER = Path(__file__).parent
LABELS = (3, 7)


def main() -> None:
    module = timm.create_model(
        "vit_tiny_patch16_224", num_classes=10, img_size=32, depth=2, embed_dim=64, num_heads=1
    )
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    module.load_state_dict({key: torch.from_numpy(value) for key, value in seeded_state(shapes).items()})
    config = peft.LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])",
        modules_to_save=["norm", "head"],
    )
    adapted = peft.get_peft_model(module, config)
    adapters = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    values = seeded_state({name: tuple(parameter.shape) for name, parameter in adapters.items()})
    for name, parameter in adapters.items():
        parameter.data = torch.from_numpy(values[name])
    adapted.save_pretrained(FOLDER / "adapter")
    (FOLDER / "adapter" / "README.md").unlink()
    images = torch.from_numpy(seeded_images(len(LABELS), 32)).permute(0, 3, 1, 2)
    logits = adapted(images)
    functional.cross_entropy(logits, torch.tensor(LABELS)).backward()
    gradients = {
        name.replace(".default", "").replace(".modules_to_save", ""): parameter.grad.numpy()
        for name, parameter in adapters.items()
    }
    np.savez_compressed(FOLDER / "adapter.npz", logits=logits.detach().numpy(), **gradients)


if __name__ == "__main__":
    main()
