"""The Visual Decathlon: its ten data sets, SpotTune's recipe for them, its score and published results.

Sources: Rebuffi et al., "Learning multiple visual domains with residual adapters" (NeurIPS 2017), for the
challenge; Guo et al., "SpotTune" (CVPR 2019), section 4, for recipe and results.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import jax

DATASETS = (
    "imagenet12",
    "aircraft",
    "cifar100",
    "daimlerpedcls",
    "dtd",
    "gtsrb",
    "vgg-flowers",
    "omniglot",
    "svhn",
    "ucf101",
)
"""In the order of the published tables, by their names in TFDS (``visual_domain_decathlon/NAME``)."""

BASELINE_ERRORS: Mapping[str, float] = MappingProxyType(
    dict(zip(DATASETS, (40.13, 39.66, 17.88, 7.18, 44.47, 2.47, 18.59, 12.31, 3.45, 48.80), strict=True))
)
"""Test errors in percent of the fully fine-tuned network of Rebuffi et al. (2017), half the ``Emax`` of the score."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings that all data sets share; the policy network has an optimiser of its own.

    Attributes:
        image_size: the shorter side after resizing, pixels.
        crop_size: side of the square the network sees, pixels.
        batch_size: over all replicas.
        epochs: in all.
        drop_epochs: both rates are multiplied by ``drop_factor`` from each of these on.
        drop_factor: see ``drop_epochs``.
        learning_rate: of the network.
        momentum: of the network.
        policy_learning_rate: of the policy network.
        policy_momentum: of the policy network.
        policy_weight_decay: of the policy network.
        frozen_blocks: blocks nearest to the input that are frozen and not routed.
    """

    image_size: int = 72
    crop_size: int = 64
    batch_size: int = 128
    epochs: int = 110
    drop_epochs: tuple[int, ...] = (40, 60, 80)
    drop_factor: float = 0.1
    learning_rate: float = 0.1
    momentum: float = 0.9
    policy_learning_rate: float = 0.01
    policy_momentum: float = 0.9
    policy_weight_decay: float = 1e-3
    frozen_blocks: int = 4


RECIPE = Recipe()

NETWORK = "resnet26"
POLICY_NETWORK = "resnet26_policy"

# Or nearly so.
_SQUARE = ("cifar100", "gtsrb", "omniglot", "svhn")
# Their pedestrians are twice as high as wide: a square of them would be without head and legs.
_STRETCHED = ("daimlerpedcls",)

WEIGHT_DECAYS: Mapping[str, float] = MappingProxyType(
    {
        "imagenet12": 1e-4,
        "aircraft": 5e-4,
        "cifar100": 0.0,
        "daimlerpedcls": 5e-4,
        "dtd": 0.0,
        "gtsrb": 0.0,
        "vgg-flowers": 1e-4,
        "omniglot": 5e-4,
        "svhn": 0.0,
        "ucf101": 5e-4,
    }
)
"""Weight decay of the network (not of the policy) per data set."""


def _image_settings(dataset: str) -> dict[str, Any]:
    """How images become crops: in their proportions, but for data sets that would lose what they show."""
    if dataset in _STRETCHED:
        return {"resize_mode": "stretch", "train_resize": 0, "stored_size": RECIPE.image_size}
    # Pixels of square images are kept as they are; of others, squares that hold all pixels of 4:3.
    stored = RECIPE.image_size if dataset in _SQUARE else RECIPE.image_size * 4 // 3
    return {"resize_mode": "shorter_side", "train_resize": RECIPE.image_size, "stored_size": stored}


def settings(dataset: str) -> dict[str, Any]:
    """SpotTune's recipe for a data set, as fields of ``config.FinetuneConfig``.

    The labels of the test images are not public: training takes the whole training split, accuracy is that of the
    validation split, with the last weights, and the test images are labelled.

    Examples:
        >>> from finetune_jax import decathlon
        >>> recipe = decathlon.settings("svhn")
        >>> recipe["dataset"], recipe["epochs"], recipe["drop_epochs"], recipe["weight_decay"]
        ('tfds:visual_domain_decathlon:svhn', 110, (40, 60, 80), 0.0)
    """
    return {
        "dataset": f"tfds:visual_domain_decathlon:{dataset}",
        "validation_fraction": 0.0,
        "predict_unlabelled": True,
        "select_on": "last",
        "image_size": RECIPE.crop_size,
        **_image_settings(dataset),
        "augmentation": "crop",
        "normalization": "dataset",
        "network": NETWORK,
        "batch_size": RECIPE.batch_size,
        "epochs": RECIPE.epochs,
        "schedule": "step",
        "drop_epochs": RECIPE.drop_epochs,
        "drop_factor": RECIPE.drop_factor,
        "learning_rate": RECIPE.learning_rate,
        "momentum": RECIPE.momentum,
        "nesterov": False,
        "weight_decay": WEIGHT_DECAYS[dataset],
        "method": "spottune",
        "frozen_first": RECIPE.frozen_blocks,
        "policy_network": POLICY_NETWORK,
        "policy_learning_rate": RECIPE.policy_learning_rate,
        "policy_momentum": RECIPE.policy_momentum,
        "policy_weight_decay": RECIPE.policy_weight_decay,
    }


OF_DATASET = ("dataset", "weight_decay", "resize_mode", "train_resize", "stored_size")
"""Those of :func:`settings` in which data sets differ."""


class Published(NamedTuple):
    """A row of SpotTune's Table 3.

    Attributes:
        parameters: as a multiple of one ResNet-26.
        accuracies: test accuracies in percent, in the order of ``DATASETS``.
        score: as printed.
    """

    parameters: float
    accuracies: tuple[float, ...]
    score: int


# fmt: off
_TABLE_3_ROWS = (
    ("Scratch", 10, (59.87, 57.10, 75.73, 91.20, 37.77, 96.55, 56.30, 88.74, 96.63, 43.27), 1625),
    ("Scratch+", 11, (59.67, 59.59, 76.08, 92.45, 39.63, 96.90, 56.66, 88.74, 96.78, 44.17), 1826),
    ("Feature Extractor", 1, (59.67, 23.31, 63.11, 80.33, 55.53, 68.18, 73.69, 58.79, 43.54, 26.80), 544),
    ("Fine-tuning", 10, (60.32, 61.87, 82.12, 92.82, 55.53, 99.42, 81.41, 89.12, 96.55, 51.20), 3096),
    ("BN Adapt.", 1, (59.87, 43.05, 78.62, 92.07, 51.60, 95.82, 74.14, 84.83, 94.10, 43.51), 1353),
    ("LwF", 10, (59.87, 61.15, 82.23, 92.34, 58.83, 97.57, 83.05, 88.08, 96.10, 50.04), 2515),
    ("Series Res. adapt.", 2, (60.32, 61.87, 81.22, 93.88, 57.13, 99.27, 81.67, 89.62, 96.57, 50.12), 3159),
    ("Parallel Res. adapt.", 2, (60.32, 64.21, 81.92, 94.73, 58.83, 99.38, 84.68, 89.21, 96.54, 50.94), 3412),
    ("Res. adapt. (large)", 12, (67.00, 67.69, 84.69, 94.28, 59.41, 97.43, 84.86, 89.92, 96.59, 52.39), 3131),
    ("Res. adapt. decay", 2, (59.67, 61.87, 81.20, 93.88, 57.13, 97.57, 81.67, 89.62, 96.13, 50.12), 2621),
    ("Res. adapt. finetune all", 2, (59.23, 63.73, 81.31, 93.30, 57.02, 97.47, 83.43, 89.82, 96.17, 50.28), 2643),
    ("DAN", 2, (57.74, 64.12, 80.07, 91.30, 56.54, 98.46, 86.05, 89.67, 96.77, 49.48), 2851),
    ("PiggyBack", 1.28, (57.69, 65.29, 79.87, 96.99, 57.45, 97.27, 79.09, 87.63, 97.24, 47.48), 2838),
    ("SpotTune (Global-k)", 4, (60.32, 61.57, 80.30, 95.78, 55.80, 99.48, 85.38, 88.41, 96.47, 51.05), 3401),
    ("SpotTune", 11, (60.32, 63.91, 80.48, 96.49, 57.13, 99.52, 85.22, 88.84, 96.72, 52.34), 3612),
)
# fmt: on

TABLE_3: Mapping[str, Published] = MappingProxyType(
    {
        method: Published(parameters, accuracies, score)
        for method, parameters, accuracies, score in _TABLE_3_ROWS
    }
)
"""``{method: row}`` as printed.

Four scores do not follow from the accuracies of their own row: those of "Feature Extractor" (which give 647),
"Fine-tuning" (3116), "BN Adapt." (1362) and "SpotTune (Global-k)" (3411).
"""


def score(errors: Any, baseline_errors: Any) -> "jax.Array":
    """Decathlon score ``Σ α_i max(0, Emax_i − E_i)²`` with ``α_i = 1000 · Emax_i⁻²``.

    ``Emax`` is twice the baseline's error, so the baseline itself earns 250 points per data set and a method
    without errors 1000. Errors may be in percent or as shares, the same in both.

    Args:
        errors: test error of each data set, ``[..., 10]`` in any order, or ``{data set: error}``.
        baseline_errors: of the baseline, ``[10]`` or ``[..., 10]`` in the same order, or a dict of the same
            keys; see ``BASELINE_ERRORS``.

    Returns:
        ``[...]``, at most 1000 per data set.

    Raises:
        ValueError: a dict and an array, or keys or numbers of data sets that differ.

    Examples:
        >>> from finetune_jax import decathlon
        >>> float(decathlon.score([10.0, 0.0], baseline_errors=[10.0, 10.0]))
        1250.0
    """
    import jax.numpy as jnp

    if isinstance(errors, Mapping) and isinstance(baseline_errors, Mapping):
        if set(errors) != set(baseline_errors):
            raise ValueError(f"errors are of {sorted(errors)}, baseline errors of {sorted(baseline_errors)}")
        names = list(errors)
        errors = jnp.stack([jnp.asarray(errors[name]) for name in names], -1)
        baseline_errors = jnp.stack([jnp.asarray(baseline_errors[name]) for name in names], -1)
    elif isinstance(errors, Mapping) or isinstance(baseline_errors, Mapping):
        raise ValueError("errors and baseline errors must both be dicts or both be arrays")
    errors, baseline_errors = jnp.asarray(errors), jnp.asarray(baseline_errors)
    if errors.shape[-1:] != baseline_errors.shape[-1:]:
        raise ValueError(f"errors have the shape {errors.shape}, baseline errors {baseline_errors.shape}")
    return 1000 * (jnp.maximum(0, 1 - errors / (2 * baseline_errors)) ** 2).sum(-1)


def parameter_multiple(network: int, of_datasets: Mapping[str, int]) -> float:
    """Parameters of all data sets as a multiple of one network, as SpotTune's Table 3 counts them.

    The pretrained network counts once, for ``imagenet12`` and for what the other data sets share with it; each of the
    others adds what is its own. Classifiers do not count.

    Args:
        network: parameters of the network.
        of_datasets: ``{data set: parameters that only this data set uses}``.

    Examples:
        >>> from finetune_jax import decathlon
        >>> decathlon.parameter_multiple(100, {"imagenet12": 100, "svhn": 50, "dtd": 25})
        1.75
    """
    return 1 + sum(parameters for name, parameters in of_datasets.items() if name != "imagenet12") / network


def score_of(accuracies: Mapping[str, float]) -> float:
    """Decathlon score of accuracies in percent, over the data sets that are there.

    Examples:
        >>> from finetune_jax import decathlon
        >>> round(decathlon.score_of({"svhn": 96.55, "gtsrb": 100.0}), 3)
        1250.0
    """
    if not accuracies:
        return 0.0
    errors = {name: 100 - accuracy for name, accuracy in accuracies.items()}
    return float(score(errors, {name: BASELINE_ERRORS[name] for name in errors}))
