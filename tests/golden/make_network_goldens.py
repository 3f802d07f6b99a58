"""Computes the golden numbers of this folder with PyTorch. Run by hand, not by the tests:

    PYTHONPATH=. python tests/golden/make_network_goldens.py [NAME ...]   # two minutes on one core

It needs torch >= 2.0, torchvision, timm and NumPy, and writes ``networks/NAME.npz`` for the networks of ``CASES``
(or those named), defined in ``benchmarks/torch_resnet.py`` or taken from torchvision or timm, and ``sgd.npz`` and
``adamw.npz``. The inputs come from ``seeded_state.py``, everything is computed in float64, and the run is repeated
in float32 to know how far PyTorch itself is from that. On an x86-64 CPU, last run with

- torch 2.13.0 for the ResNets and the optimisers. In float64 the networks with torchvision's names gave the same
  bits as torchvision 0.28: state names, logits, gradients and running statistics;
- torch 2.14.1, torchvision 0.29.1 and timm 1.0.31 for the others, which are the networks of these libraries
  themselves, without dropout and without an auxiliary classifier.

Keys of ``networks/NAME.npz`` (P parameters, S running statistics, N entries of the state dict, C logits):

=========================  ==========  =====================================================================
state_names, state_shapes  [N], [N,4]  torch state dict without ``num_batches_tracked``; zeros fill up shapes
state_seed                 scalar      weights are ``seeded_state(shapes, state_seed)``
image_args                 [3]         images are ``seeded_images(n, size, seed)``
labels                     [n]         class of each image
direction_seed             scalar      ``fingerprint(name, array, direction_seed)``
param_names, stat_names    [P], [S]    in the order of the rows below
eval_logits, train_logits  [n, C]      with running statistics, with batch statistics
eval_embedding             [n, D]      last block's output, averaged over height and width
eval_loss, train_loss      scalar      mean softmax cross-entropy
eval_grads, train_grads    [P, 2]      fingerprint of the loss gradient for each parameter
train_stats                [S, 2]      fingerprint of the running statistics after one training step,
                                       momentum 0.1 (PyTorch's: the weight of the batch), unbiased variance
float32_gap_KEY            scalar      largest error of PyTorch's float32 result for KEY, relative to the
                                       largest absolute value (fingerprints: row by row, to fingerprint_scale)
=========================  ==========  =====================================================================

Networks without running statistics have no ``train_…``, and S is 0.

Keys of ``sgd.npz`` and ``adamw.npz`` (T steps, K blocks):

======================  ==============  ============================================================
blocks                  [K]             block names; each holds one ``kernel`` and one ``bias``
learning_rates          [T, K]          rate of each block in each step
gradients/BLOCK/ENTRY   [T, ...]        gradient given to the optimiser in each step
params/BLOCK/ENTRY      [T + 1, ...]    start values, then the values after each step
======================  ==============  ============================================================
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
import torchvision
from seeded_state import fingerprint, fingerprint_scale, seeded_images, seeded_normal, seeded_state
from torch import nn
from torch.nn import functional

from benchmarks.torch_resnet import Basic, Bottleneck, DecathlonResNet, ImageNetResNet

FOLDER = Path(__file__).parent
NUM_CLASSES = 10
RESNET26_BLOCKS = 12
RESNET50_BLOCKS = 16
DIRECTION_SEED = 1
IMAGE_SEED = 0
LABELS = (3, 7)


Function = Callable[[torch.Tensor], torch.Tensor]


class Case(NamedTuple):
    """A network and its inputs: side of the square images, seed of the weights.

    ``split`` gives the two halves of a network: images to the last block's output, and that to logits. ``embed`` is
    what the classifier sees of that output. Without ``statistics`` training is evaluation; the state of a transformer
    is that of its published image size, and timm resamples its positions.
    """

    make: Callable[[], nn.Module]
    image_size: int
    state_seed: int = 0
    split: Callable[[nn.Module], tuple[Function, Function]] = lambda module: (
        module.features,
        module.classify,
    )
    embed: Callable[[nn.Module, torch.Tensor], torch.Tensor] = lambda module, x: x.mean(dim=(2, 3))
    statistics: bool = True


def from_torchvision(name: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: without_dropout(
        getattr(torchvision.models, name)(weights=None, num_classes=NUM_CLASSES, **settings)
    )


def from_timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=NUM_CLASSES)


def timm_images(name: str, image_size: int, *, statistics: bool = True) -> Case:
    """A network of timm's, the embedding as its classifier sees it."""
    return Case(
        from_timm(name),
        image_size,
        0,
        split_timm_mobile,
        lambda module, x: module.forward_head(x, pre_logits=True),
        statistics=statistics,
    )


def timm_tokens(name: str, image_size: int) -> Case:
    """A network whose head has a norm, and no batch statistics."""
    return timm_images(name, image_size, statistics=False)


def without_dropout(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return module


def split_mobilenet_v2(module: nn.Module) -> tuple[Function, Function]:
    return module.features, lambda x: module.classifier(x.mean((2, 3)))


def split_timm_mobile(module: nn.Module) -> tuple[Function, Function]:
    return module.forward_features, module.forward_head


def split_resnet_v2(module: nn.Module) -> tuple[Function, Function]:
    return (
        lambda images: module.stages(module.stem(images)),
        lambda x: module.forward_head(module.norm(x)),
    )


def split_densenet(module: nn.Module) -> tuple[Function, Function]:
    def classify(x: torch.Tensor) -> torch.Tensor:
        return module.classifier(functional.relu(module.features.norm5(x)).mean((2, 3)))

    return module.features[:-1], classify


def split_inception(module: nn.Module) -> tuple[Function, Function]:
    children = list(module.children())  # in the order in which they run: the head has the last three
    return nn.Sequential(*children[:-3]), nn.Sequential(*children[-3:-1], nn.Flatten(), children[-1])


# Where rounding moves a value across the kink of a ReLU, a gradient of so small a batch changes by 1e-3 to
# 1e-2. The images are small to have few values near a kink, and the state seeds of the deep networks were
# chosen among the first few dozen: their values stay farthest from zero, in units of the rounding errors of
# their layer (3.0 for ResNet-50, 1.4 for ResNet-101, 0.5 for ResNet-152, more than 7 for the others).
# A policy network has two outputs for each block that it routes: logits.reshape(n, blocks, 2).
CASES = {
    "resnet18": Case(lambda: ImageNetResNet(Basic, (2, 2, 2, 2), NUM_CLASSES), 40),
    "resnet34": Case(lambda: ImageNetResNet(Basic, (3, 4, 6, 3), NUM_CLASSES), 40),
    "resnet50": Case(lambda: ImageNetResNet(Bottleneck, (3, 4, 6, 3), NUM_CLASSES), 40, 33),
    "resnet101": Case(lambda: ImageNetResNet(Bottleneck, (3, 4, 23, 3), NUM_CLASSES), 40, 3),
    "resnet152": Case(lambda: ImageNetResNet(Bottleneck, (3, 8, 36, 3), NUM_CLASSES), 40, 27),
    "resnet26": Case(lambda: DecathlonResNet(4, NUM_CLASSES), 32),
    "resnet26_policy": Case(lambda: DecathlonResNet(1, 2 * RESNET26_BLOCKS), 32),
    "resnet50_policy": Case(lambda: ImageNetResNet(Basic, (1, 1, 1, 1), 2 * RESNET50_BLOCKS), 40),
    "mobilenet": Case(from_timm("mobilenetv1_100"), 40, 0, split_timm_mobile),
    "mobilenet_v2": Case(from_torchvision("mobilenet_v2"), 40, 0, split_mobilenet_v2),
    "efficientnet_lite0": Case(from_timm("tf_efficientnet_lite0"), 40, 0, split_timm_mobile),
    "efficientnet_lite1": Case(from_timm("tf_efficientnet_lite1"), 40, 0, split_timm_mobile),
    "efficientnet_lite2": Case(from_timm("tf_efficientnet_lite2"), 40, 0, split_timm_mobile),
    "resnet50v2": Case(from_timm("resnetv2_50"), 40, 0, split_resnet_v2),
    "resnet101v2": Case(from_timm("resnetv2_101"), 40, 0, split_resnet_v2),
    "densenet121": Case(from_torchvision("densenet121"), 64, 0, split_densenet),
    "inception_v3": Case(
        from_torchvision("inception_v3", aux_logits=False, init_weights=False), 107, 0, split_inception
    ),
    "vit_tiny_patch16_224": timm_tokens("vit_tiny_patch16_224", 64),
    "deit3_small_patch16_224": timm_tokens("deit3_small_patch16_224", 48),
    "vit_small_patch14_dinov2": timm_tokens("vit_small_patch14_dinov2", 42),
    "vit_small_patch14_reg4_dinov2": timm_tokens("vit_small_patch14_reg4_dinov2", 56),
    "vit_small_patch16_dinov3": timm_tokens("vit_small_patch16_dinov3", 64),
    "vit_base_patch32_siglip_256": timm_tokens("vit_base_patch32_siglip_256", 96),
    "vit_base_patch16_siglip_gap_224": timm_tokens("vit_base_patch16_siglip_gap_224", 48),
    "convnext_atto": timm_tokens("convnext_atto", 64),
    "convnextv2_atto": timm_tokens("convnextv2_atto", 70),
    "resnet26d": timm_images("resnet26d", 65),
    "efficientnet_b0": timm_images("efficientnet_b0", 64),
    "mobilenetv3_small_100": timm_images("mobilenetv3_small_100", 64),
    "regnety_002": timm_images("regnety_002", 64),
}


def state_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    entries = module.state_dict().items()
    return {name: tuple(value.shape) for name, value in entries if not name.endswith("num_batches_tracked")}


def seeded(case: Case, dtype: torch.dtype) -> nn.Module:
    module = case.make()
    state = seeded_state(state_shapes(module), case.state_seed)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=False)
    if hasattr(module, "set_input_size"):
        module.set_input_size(img_size=(case.image_size, case.image_size))
    return module.to(dtype)


def loss_and_gradients(case: Case, module: nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
    """Logits, embedding, loss and gradient fingerprints in the module's present mode."""
    embed, classify = case.split(module)
    features = embed(images)
    embedding = case.embed(module, features)
    logits = classify(features.clone())  # some networks overwrite it
    loss = functional.cross_entropy(logits, torch.tensor(LABELS))
    names = [name for name, _ in module.named_parameters()]
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    prints = [fingerprint(n, g.numpy(), DIRECTION_SEED) for n, g in zip(names, gradients, strict=True)]
    return {
        "logits": logits.detach().numpy(),
        "embedding": embedding.detach().numpy(),
        "loss": loss.detach().numpy(),
        "grads": np.stack(prints),
    }


def running_statistics(module: nn.Module) -> dict[str, np.ndarray]:
    state = module.state_dict().items()
    return {name: value.numpy() for name, value in state if name.endswith(("running_mean", "running_var"))}


def network_numbers(case: Case, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """The eval_* and train_* entries of one network's file."""
    images = torch.from_numpy(seeded_images(len(LABELS), case.image_size, IMAGE_SEED))
    images = images.permute(0, 3, 1, 2).to(dtype)
    module = seeded(case, dtype).eval()
    evaluation = loss_and_gradients(case, module, images)
    if not case.statistics:
        return {f"eval_{key}": value for key, value in evaluation.items()}
    training = loss_and_gradients(case, module.train(), images)
    statistics = running_statistics(module).items()
    return {
        **{f"eval_{key}": value for key, value in evaluation.items()},
        **{f"train_{key}": value for key, value in training.items() if key != "embedding"},
        "train_stats": np.stack([fingerprint(name, value, DIRECTION_SEED) for name, value in statistics]),
    }


def relative_gap(key: str, value: np.ndarray, reference: np.ndarray) -> float:
    fingerprints = "grads" in key or "stats" in key
    scale = fingerprint_scale(reference) if fingerprints else np.abs(reference).max()
    return float(np.max(np.abs(value - reference) / scale))


def save(path: Path, **entries: Any) -> None:
    np.savez_compressed(path, **entries)


def write_network(name: str, case: Case) -> None:
    reference = network_numbers(case, torch.float64)
    single = network_numbers(case, torch.float32)
    gaps = {key: relative_gap(key, single[key], value) for key, value in reference.items()}
    module = case.make()
    shapes = state_shapes(module)
    path = FOLDER / "networks" / f"{name}.npz"
    save(
        path,
        state_names=np.array(list(shapes)),
        state_shapes=np.array([shape + (0,) * (4 - len(shape)) for shape in shapes.values()]),
        state_seed=case.state_seed,
        image_args=(len(LABELS), case.image_size, IMAGE_SEED),
        labels=LABELS,
        direction_seed=DIRECTION_SEED,
        param_names=np.array([key for key, _ in module.named_parameters()]),
        stat_names=np.array(list(running_statistics(module))),
        **reference,
        **{f"float32_gap_{key}": gap for key, gap in gaps.items()},
    )
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, float32 of PyTorch off by")
    print("   " + ", ".join(f"{key} {gap:.1e}" for key, gap in gaps.items()))


def write_optimizer(
    name: str, make: Callable[[list[dict]], torch.optim.Optimizer], rates: np.ndarray
) -> None:
    """Runs one optimiser with a parameter group per block; ``rates`` ``[T, K]``."""
    blocks = ("stem", "block_01", "block_02", "head")
    shapes = {
        f"{block}/{entry}": shape for block in blocks for entry, shape in (("kernel", (3, 4)), ("bias", (4,)))
    }
    gradients = {key: seeded_normal(key, (len(rates), *shape), seed=2) for key, shape in shapes.items()}
    params = {key: torch.from_numpy(seeded_normal(key, shape)).double() for key, shape in shapes.items()}
    optimizer = make([{"params": [params[f"{b}/kernel"], params[f"{b}/bias"]], "lr": 0.0} for b in blocks])
    history = {key: [value.numpy().copy()] for key, value in params.items()}
    for step, step_rates in enumerate(rates):
        for group, rate in zip(optimizer.param_groups, step_rates, strict=True):
            group["lr"] = float(rate)
        for key, value in params.items():
            value.grad = torch.from_numpy(gradients[key][step]).double()
        optimizer.step()
        for key, value in params.items():
            history[key].append(value.numpy().copy())
    save(
        FOLDER / f"{name}.npz",
        blocks=np.array(blocks),
        learning_rates=rates,
        **{f"gradients/{key}": value for key, value in gradients.items()},
        **{f"params/{key}": np.stack(values) for key, values in history.items()},
    )


def main() -> None:
    """Writes every golden file, or those of the networks named on the command line."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or CASES:
        write_network(name, CASES[name])
    if sys.argv[1:]:
        return
    # Rates change at steps 5, 10 and 15; a rate of zero must stop a block but not its momentum.
    phases = np.array(
        [[5e-3, 1e-2, 2e-2, 1e-1], [2e-2, 3e-3, 0, 1e-1], [1e-2, 1e-1, 5e-2, 2e-2], [1e-3, 0, 5e-3, 2e-2]]
    )
    rates = np.repeat(phases, 5, axis=0)
    write_optimizer(
        "sgd",
        lambda groups: torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, weight_decay=5e-4),
        rates,
    )
    write_optimizer("adamw", lambda groups: torch.optim.AdamW(groups, eps=1e-8, weight_decay=0.01), rates)


if __name__ == "__main__":
    main()
