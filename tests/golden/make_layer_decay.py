"""The group that timm's layer decay puts each parameter in, as ``layer_decay.json``. Run by hand:

python tests/golden/make_layer_decay.py      # needs torch and timm; last run with timm 1.0.31

A line has the numbers of the groups of a network's parameters, these in the order of their sorted names.
"""

import json
from pathlib import Path

import timm
import torch
from timm.models import group_parameters

NETWORKS = (
    "vit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch32_siglip_256",
    "vit_base_patch16_siglip_gap_224",
    "convnext_atto",
    "convnextv2_atto",
    "resnet26d",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "regnety_002",
)


def groups(name: str) -> str:
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=3)
    # As in timm.optim.param_groups_layer_decay.
    numbers = group_parameters(module, module.group_matcher(coarse=False), reverse=True)
    names = sorted(key for key, _ in module.named_parameters())
    return " ".join(str(numbers[key]) for key in names)


def main() -> None:
    content = json.dumps({name: groups(name) for name in NETWORKS}, indent=0)
    Path(__file__).with_name("layer_decay.json").write_text(content + "\n")


if __name__ == "__main__":
    main()
