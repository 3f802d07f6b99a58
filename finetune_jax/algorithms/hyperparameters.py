"""Effective learning rate and weight decay, the search grid, and a range of rates from domain similarity.

Source: Li et al., "Rethinking the Hyperparameters for Fine-tuning" (ICLR 2020).
"""

import dataclasses
import numbers
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


def effective_learning_rate(learning_rate: Any, momentum: Any) -> Any:
    """``η′ = η / (1 − m)``, what a gradient moves the weights by in the long run (section 3.3).

    Args:
        learning_rate: ``η``, number or array.
        momentum: ``m`` in [0, 1), number or array.

    Raises:
        ValueError: a plain number out of range; arrays are not looked into.

    Examples:
        >>> from finetune_jax import hyperparameters
        >>> round(hyperparameters.effective_learning_rate(0.01, momentum=0.9), 6)
        0.1
    """
    _check_not_negative("learning rate", learning_rate)
    _check_momentum(momentum)
    return learning_rate / (1 - momentum)


def learning_rate_for(effective_learning_rate: Any, momentum: Any) -> Any:
    """``η = η′ (1 − m)``, the inverse of :func:`effective_learning_rate`, with its errors.

    Examples:
        >>> from finetune_jax import hyperparameters
        >>> round(hyperparameters.learning_rate_for(0.1, momentum=0.9), 6)
        0.01
    """
    _check_not_negative("effective learning rate", effective_learning_rate)
    _check_momentum(momentum)
    return effective_learning_rate * (1 - momentum)


def effective_weight_decay(weight_decay: Any, learning_rate: Any) -> Any:
    """``λ′ = λ / η`` (section 3.3).

    Args:
        weight_decay: ``λ``, number or array.
        learning_rate: ``η`` > 0, number or array.

    Raises:
        ValueError: a plain number out of range; arrays are not looked into.

    Examples:
        >>> from finetune_jax import hyperparameters
        >>> round(hyperparameters.effective_weight_decay(0.0005, learning_rate=0.01), 6)
        0.05
    """
    _check_not_negative("weight decay", weight_decay)
    _check_not_negative("learning rate", learning_rate)
    if isinstance(learning_rate, numbers.Real) and learning_rate == 0:
        raise ValueError("a learning rate of 0 has no effective weight decay")
    return weight_decay / learning_rate


def weight_decay_for(effective_weight_decay: Any, learning_rate: Any) -> Any:
    """``λ = λ′ η``, the inverse of :func:`effective_weight_decay`.

    Raises:
        ValueError: a plain number is negative; arrays are not looked into.

    Examples:
        >>> from finetune_jax import hyperparameters
        >>> round(hyperparameters.weight_decay_for(0.05, learning_rate=0.01), 6)
        0.0005
    """
    _check_not_negative("effective weight decay", effective_weight_decay)
    _check_not_negative("learning rate", learning_rate)
    return effective_weight_decay * learning_rate


def norm_momentum_for(steps_per_epoch: int) -> float:
    """Batch-norm momentum ``max(1 − 10 / s, 0.9)`` by Kornblith et al. (appendix C).

    Raises:
        ValueError: less than one step.

    Examples:
        >>> from finetune_jax import hyperparameters
        >>> hyperparameters.norm_momentum_for(20), hyperparameters.norm_momentum_for(1000)
        (0.9, 0.99)
    """
    if steps_per_epoch < 1:
        raise ValueError(f"an epoch has at least one step, not {steps_per_epoch}")
    return max(1 - 10 / steps_per_epoch, 0.9)


def _check_not_negative(name: str, value: Any) -> None:
    # Anything else is an array, and may be a traced one.
    if isinstance(value, numbers.Real) and not float(value) >= 0:
        raise ValueError(f"the {name} must not be negative but is {value}")


def _check_momentum(momentum: Any) -> None:
    if isinstance(momentum, numbers.Real) and not 0 <= float(momentum) < 1:
        raise ValueError(f"the momentum must be in [0, 1), not {momentum}")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a training run and the grid searched around them.

    Attributes:
        epochs: in all.
        drop_epochs: the rate is multiplied by ``drop_factor`` from each of these on.
        learning_rate: default.
        learning_rates: searched.
        weight_decays: searched.
        momenta: searched.
        momentum: default.
        weight_decay: default.
        batch_size: over all replicas.
        drop_factor: see ``drop_epochs``.
    """

    epochs: int
    drop_epochs: tuple[int, ...]
    learning_rate: float
    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    momenta: tuple[float, ...]
    momentum: float = 0.9
    weight_decay: float = 0.0001
    batch_size: int = 256
    drop_factor: float = 0.1


FINE_TUNING = Recipe(
    epochs=300,
    drop_epochs=(150, 250),
    learning_rate=0.01,
    learning_rates=(0.1, 0.05, 0.01, 0.005, 0.001, 0.0001),
    weight_decays=(0.0, 0.0001, 0.0005, 0.001),
    momenta=(0.99, 0.95, 0.9, 0.8, 0.0),
)
"""Section 3.1."""

FROM_SCRATCH = Recipe(
    epochs=600,
    drop_epochs=(400, 550),
    learning_rate=0.1,
    learning_rates=(0.1, 0.2, 0.5),
    weight_decays=(0.0001, 0.0005),
    momenta=(0.9,),
)
"""Appendix F."""

NORM_MOMENTA = (0.0, 0.9, 0.95, 0.99)
"""Batch-norm momenta compared in appendix C; 0.9 is the default."""


class Reference(NamedTuple):
    """A cell of Table 4.

    Attributes:
        similarity: of the data set to the source, ``exp(−0.01 · EMD)``.
        effective_learning_rate: the best one of the paper's search.
    """

    similarity: float
    effective_learning_rate: float


TABLE_4: Mapping[tuple[str, str], Mapping[str, Reference]] = MappingProxyType(
    {
        ("imagenet", "resnet101"): MappingProxyType(
            {
                "dogs": Reference(0.862, 0.001),
                "caltech": Reference(0.892, 0.005),
                "indoor": Reference(0.856, 0.01),
                "birds": Reference(0.860, 0.05),
                "cars": Reference(0.845, 0.5),
                "aircrafts": Reference(0.840, 1.0),
                "flowers": Reference(0.844, 0.1),
            }
        ),
        ("imagenet", "densenet121"): MappingProxyType(
            {
                "dogs": Reference(0.851, 0.01),
                "caltech": Reference(0.881, 0.01),
                "indoor": Reference(0.850, 0.05),
                "birds": Reference(0.842, 0.05),
                "cars": Reference(0.831, 0.5),
                "aircrafts": Reference(0.817, 0.1),
                "flowers": Reference(0.821, 0.5),
            }
        ),
        ("imagenet", "mobilenet"): MappingProxyType(
            {
                "dogs": Reference(0.852, 0.01),
                "caltech": Reference(0.878, 0.01),
                "indoor": Reference(0.839, 0.01),  # Figure 4(c) prints 0.05
                "birds": Reference(0.849, 0.1),
                "cars": Reference(0.830, 1.0),
                "aircrafts": Reference(0.831, 1.0),
                "flowers": Reference(0.825, 0.1),
            }
        ),
        ("inat2017", "resnet101"): MappingProxyType(
            {
                "dogs": Reference(0.854, 0.05),
                "caltech": Reference(0.871, 0.1),
                "indoor": Reference(0.843, 0.1),
                "birds": Reference(0.901, 0.005),
                "cars": Reference(0.847, 1.0),
                "aircrafts": Reference(0.846, 0.5),
                "flowers": Reference(0.879, 0.1),
            }
        ),
        ("places365", "resnet101"): MappingProxyType(
            {
                "dogs": Reference(0.856, 0.5),
                "caltech": Reference(0.888, 0.05),
                "indoor": Reference(0.901, 0.05),
                "birds": Reference(0.861, 0.5),
                "cars": Reference(0.864, 1.0),
                "aircrafts": Reference(0.853, 0.5),
                "flowers": Reference(0.851, 1.0),
            }
        ),
    }
)
"""Table 4: ``{(source, network): {data set: cell}}``. Source and feature extractor are the same network."""

JFT_SIMILARITIES: Mapping[str, float] = MappingProxyType(
    {"dogs": 0.619, "birds": 0.563, "cars": 0.560, "aircrafts": 0.556, "flowers": 0.525}
)
"""Table 4, first column: similarity to ImageNet in the features of a ResNet-101 trained on JFT (Cui et al.)."""

EFFECTIVE_LEARNING_RATE_RANGES = ((0.001, 0.01), (0.01, 0.1), (0.1, 1.0))
"""Ranges of ``η′`` to search (section 3.3)."""


class Recommendation(NamedTuple):
    """Where to search, and why.

    Attributes:
        reference: name of the nearest reference data set.
        similarity: of that data set to the source.
        effective_learning_rate: the best one on that data set.
        effective_learning_rates: ends of the range that holds it, one of
            ``EFFECTIVE_LEARNING_RATE_RANGES``.
    """

    reference: str
    similarity: float
    effective_learning_rate: float
    effective_learning_rates: tuple[float, float]


def recommend(similarity: float, source: str = "imagenet", network: str = "resnet101") -> Recommendation:
    """Range of effective learning rates for a data set of this similarity to the source (section 3.3).

    Takes the reference data set of Table 4 whose similarity is nearest, the first of equally near ones. A rate
    that ends one range and begins the next (0.01, 0.1) gives the lower range: too small a rate costs time, too
    large a rate costs the pretrained features.

    Args:
        similarity: ``exp(−0.01 · EMD)`` in the features of the source network.
        source: data set the network was pretrained on.
        network: the column of Table 4; similarities of different networks do not compare.

    Raises:
        ValueError: Table 4 has no such column, or the similarity is not in (0, 1].

    Examples:
        >>> from finetune_jax import hyperparameters
        >>> recommendation = hyperparameters.recommend(0.86, source="imagenet", network="resnet101")
        >>> recommendation.reference, recommendation.effective_learning_rates
        ('birds', (0.01, 0.1))
    """
    if (source, network) not in TABLE_4:
        raise ValueError(f"Table 4 has no {network!r} trained on {source!r}, only {list(TABLE_4)}")
    return recommend_among(TABLE_4[source, network], similarity)


def recommend_among(references: Mapping[str, Reference], similarity: float) -> Recommendation:
    """:func:`recommend` with reference data sets of your own.

    Raises:
        ValueError: there are none, or the similarity is not in (0, 1].

    Examples:
        >>> from finetune_jax import hyperparameters
        >>> ours = {"mushrooms": hyperparameters.Reference(similarity=0.8, effective_learning_rate=0.5)}
        >>> hyperparameters.recommend_among(ours, similarity=0.85).effective_learning_rates
        (0.1, 1.0)
    """
    if not references:
        raise ValueError("there are no reference data sets")
    if not 0 < similarity <= 1:
        raise ValueError(f"a similarity is in (0, 1], not {similarity}")
    name = min(references, key=lambda name: abs(references[name].similarity - similarity))
    best = references[name].effective_learning_rate
    # A rate above the last range can only come from references of one's own.
    searched = next(
        (ends for ends in EFFECTIVE_LEARNING_RATE_RANGES if best <= ends[1]),
        EFFECTIVE_LEARNING_RATE_RANGES[-1],
    )
    return Recommendation(name, references[name].similarity, best, searched)
