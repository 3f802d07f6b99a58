"""What images the published weights of a network were trained on."""

from typing import NamedTuple

from finetune_jax.models.network import Network

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Input(NamedTuple):
    """Images of a network.

    Attributes:
        mean: of each channel, images scaled to [0, 1].
        std: likewise.
        image_size: side in pixels.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: int = 224


_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_BYTES_FROM_127 = ((127 / 255,) * 3, (128 / 255,) * 3)  # (x − 127) / 128 of bytes
_BY_NAME = {
    "mobilenet": Input(*_HALVES),
    "resnet50v2": Input(*_HALVES),
    "resnet101v2": Input(*_HALVES),
    "inception_v3": Input(*_HALVES, 299),
    "resnet101d": Input(image_size=256),
    "efficientnet_b1": Input(*_HALVES, 240),
    "efficientnet_b2": Input(image_size=256),
    "efficientnet_b3": Input(image_size=288),
    "efficientnet_b4": Input(image_size=320),
    "efficientnet_lite0": Input(*_BYTES_FROM_127),
    "efficientnet_lite1": Input(*_BYTES_FROM_127, 240),
    "efficientnet_lite2": Input(*_BYTES_FROM_127, 260),
}
_SELF_SUPERVISED = ("dinov2", "dinov3", "vit_small_patch8_224")


def of_network(network: Network) -> Input:
    """Images of the published weights, by the name of the network; a tag of the hub may know better."""
    name = network.architecture
    if network.tokens is None:
        return _BY_NAME.get(name, Input())
    halves = name.startswith("vit_") and not any(part in name for part in _SELF_SUPERVISED)
    size = network.image_size or 224
    return Input(*_HALVES, size) if halves else Input(image_size=size)
