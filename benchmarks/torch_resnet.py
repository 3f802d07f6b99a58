"""ResNets in PyTorch, to compare with: He et al. (2015) and the Visual Decathlon's ResNet-26.

Used by ``benchmarks.train_step`` for speed and by ``tests/golden/make_network_goldens.py`` for numbers, so
that what is timed is what is known to compute the same. State names are those of torchvision ("v1.5", the
stride in a bottleneck's 3×3 convolution) and of SpotTune's reference code. ``width`` is a factor on all
channel numbers, rounded. Images are NCHW; activations are changed in place where autograd allows it, as in
torchvision.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


def scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def conv1x1(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def projection(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Shortcut: 1×1 convolution and norm where the shape changes, otherwise the input (no state names)."""
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(conv1x1(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out))


class Basic(nn.Module):
    """He et al. 2015, Figure 5 left."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(channels_in, channels, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv3x3(channels, channels), nn.BatchNorm2d(channels)
        self.downsample = projection(channels_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu_(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu_(y.add_(self.downsample(x)))


class Bottleneck(nn.Module):
    """He et al. 2015, Figure 5 right."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv1x1(channels_in, channels), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv3x3(channels, channels, stride), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = conv1x1(channels, 4 * channels), nn.BatchNorm2d(4 * channels)
        self.downsample = projection(channels_in, 4 * channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu_(self.bn1(self.conv1(x)))
        y = functional.relu_(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu_(y.add_(self.downsample(x)))


class ImageNetResNet(nn.Module):
    """ResNet of four stages for ImageNet, ``depths`` blocks in each."""

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        depths: Sequence[int],
        num_outputs: int,
        width: float = 1.0,
    ):
        super().__init__()
        channels = scaled(64, width)
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(block(channels, scaled(64 * 2**stage, width), stride))
                channels = scaled(64 * 2**stage, width) * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_outputs)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Output of the last block, ``[B, C, H/32, W/32]``."""
        x = functional.relu_(self.bn1(self.conv1(images)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of :meth:`features`."""
        return self.fc(features.mean(dim=(2, 3)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(images))


class DecathlonBlock(nn.Module):
    """Basic block whose shortcut is averaged 2×2 and padded with zero channels behind."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.stride, self.new_channels = stride, channels - channels_in
        self.conv1, self.bn1 = conv3x3(channels_in, channels, stride), nn.BatchNorm2d(channels)
        # The reference keeps the ReLU as entry 0 of a container, hence the name conv2.1.
        self.conv2 = nn.Sequential(nn.ReLU(inplace=True), conv3x3(channels, channels))
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        if self.stride == 2:
            x = functional.pad(functional.avg_pool2d(x, 2), (0, 0, 0, 0, 0, self.new_channels))
        return functional.relu_(y.add_(x))


class DecathlonResNet(nn.Module):
    """ResNet-26 of Rebuffi et al. 2018 (4 blocks per stage)."""

    def __init__(self, blocks_per_stage: int, num_outputs: int, width: float = 1.0):
        super().__init__()
        channels = scaled(32, width)
        self.conv1, self.bn1 = conv3x3(3, channels), nn.BatchNorm2d(channels)
        stages = []
        for unscaled in (64, 128, 256):
            blocks = []
            for i in range(blocks_per_stage):
                blocks.append(DecathlonBlock(channels, scaled(unscaled, width), stride=2 if i == 0 else 1))
                channels = scaled(unscaled, width)
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.ModuleList(stages)
        self.bn2 = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.linear = nn.Linear(channels, num_outputs)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Output of the last block, ``[B, C, H/8, W/8]``; nothing here changes it in place."""
        x = self.bn1(self.conv1(images))
        for stage in self.blocks:
            x = stage(x)
        return x

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of :meth:`features`."""
        return self.linear(self.bn2(features).mean(dim=(2, 3)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(images))


def create(name: str, num_outputs: int, width: float = 1.0) -> nn.Module:
    """``resnet18``, ``resnet50``, ``resnet26`` or ``resnet26_policy``."""
    if name == "resnet18":
        return ImageNetResNet(Basic, (2, 2, 2, 2), num_outputs, width)
    if name == "resnet50":
        return ImageNetResNet(Bottleneck, (3, 4, 6, 3), num_outputs, width)
    if name == "resnet26":
        return DecathlonResNet(4, num_outputs, width)
    if name == "resnet26_policy":
        return DecathlonResNet(1, num_outputs, width)
    raise ValueError(f"no network {name!r}; there are resnet18, resnet50, resnet26 and resnet26_policy")
