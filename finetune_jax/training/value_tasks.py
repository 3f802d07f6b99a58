"""Tasks whose labels are not one class per image: any number of classes, ordered grades, numbers."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import losses, ordinal, scores
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.examples import Source
from finetune_jax.models import heads
from finetune_jax.models.network import Model
from finetune_jax.training import evaluation, objectives
from finetune_jax.training.class_names import trained_classes

_TOTALS = ("loss", "examples")


@dataclasses.dataclass(frozen=True)
class _OfOutputs:
    """What these tasks have in common: the network's own head, and logits or numbers as its outputs."""

    config: FinetuneConfig
    head = heads.OWN
    totals = _TOTALS

    def num_outputs(self, num_classes: int) -> int:
        """One per class or number."""
        return num_classes

    def class_names(self, source: Source) -> tuple[str, ...]:
        """All of the data set."""
        return source.class_names

    def parts_beside_network(self, num_classes: int, key: jax.Array) -> dict[str, Any]:
        """None."""
        return {}

    def outputs(
        self, network: Model, normalize: Callable[[jax.Array], jax.Array]
    ) -> Callable[[Any, jax.Array], jax.Array]:
        """The network's outputs ``[B, D]``."""
        return evaluation.classifier(network, normalize)


@dataclasses.dataclass(frozen=True)
class MultiLabel(_OfOutputs):
    """Any number of the classes for each image, each a question of its own."""

    name = "multilabel"
    score = "mean_average_precision"

    def loss(self, labels: np.ndarray, class_names: Sequence[str]) -> objectives.Loss:
        """Binary cross-entropy, or the focal loss."""
        if self.config.loss == "focal":
            return objectives.of_examples(
                functools.partial(losses.binary_focal, gamma=self.config.focal_gamma)
            )
        return objectives.of_examples(losses.binary_cross_entropy)

    def scores(
        self,
        outputs: np.ndarray,
        labels: np.ndarray,
        prefix: str,
        gallery: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> dict[str, float]:
        """Loss, mean average precision, and F1 at thresholds of one half."""
        del gallery
        chances = 1 / (1 + np.exp(-outputs.astype(np.float64)))
        functions = scores.of_labels(chances, labels), scores.of_ranking(chances, labels > 0.5)
        values = scores.plain(scores.together(*functions), len(labels))
        return {
            f"{prefix}_loss": _cross_entropy(outputs, labels),
            f"{prefix}_mean_average_precision": _defined(values["average_precision"]),
            f"{prefix}_micro_f1": _defined(values["micro_f1"]),
            f"{prefix}_macro_f1": values["macro_f1"],
        }


@dataclasses.dataclass(frozen=True)
class Ordinal(_OfOutputs):
    """One of ordered grades; the outputs are the questions of ``algorithms.ordinal``."""

    name = "ordinal"
    score = "quadratic_kappa"

    def num_outputs(self, num_classes: int) -> int:
        """One per question whether the grade is higher."""
        return num_classes - 1

    def class_names(self, source: Source) -> tuple[str, ...]:
        """All of the data set; errors as of ``tasks.trained_classes``."""
        return trained_classes(source)

    def loss(self, labels: np.ndarray, class_names: Sequence[str]) -> objectives.Loss:
        """Negative log-likelihood of the grades."""
        return objectives.of_examples(ordinal.loss)

    def scores(
        self,
        outputs: np.ndarray,
        labels: np.ndarray,
        prefix: str,
        gallery: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> dict[str, float]:
        """Loss, quadratic kappa, accuracy, and the mean error in ranks."""
        del gallery
        chances = np.asarray(ordinal.probabilities(jnp.asarray(outputs)), np.float64)
        values = scores.plain(scores.of_grades(chances, labels, np.arange(chances.shape[1])), len(labels))
        return {
            f"{prefix}_loss": values["loss"],
            f"{prefix}_quadratic_kappa": _defined(values["quadratic_kappa"]),
            f"{prefix}_accuracy": values["accuracy"],
            f"{prefix}_rank_mae": values["mae"],
        }


@dataclasses.dataclass(frozen=True)
class Regression(_OfOutputs):
    """Numbers; the outputs are in units of the training images' mean and deviation.

    Attributes:
        mean: of each number over the training images.
        deviation: likewise, 1 where they are all equal.
    """

    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    name = "regression"
    score = "r2"

    @classmethod
    def of(cls, config: FinetuneConfig, targets: np.ndarray) -> "Regression":
        """The task of training targets ``[N, D]``."""
        targets = targets.astype(np.float64)
        deviation = targets.std(0)
        return cls(
            config,
            tuple(map(float, targets.mean(0))),
            tuple(float(value) if value > 0 else 1.0 for value in deviation),
        )

    def loss(self, labels: np.ndarray, class_names: Sequence[str]) -> objectives.Loss:
        """Squared, absolute or Huber error of the scaled numbers."""
        functions = {"l1": losses.absolute_error, "huber": losses.huber}
        error = functions.get(self.config.loss, losses.squared_error)
        mean, deviation = np.array(self.mean, np.float32), np.array(self.deviation, np.float32)
        return objectives.of_examples(lambda outputs, targets: error(outputs, (targets - mean) / deviation))

    def scores(
        self,
        outputs: np.ndarray,
        labels: np.ndarray,
        prefix: str,
        gallery: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> dict[str, float]:
        """Squared error of the scaled numbers, R², MAE and RMSE."""
        del gallery
        predicted = outputs.astype(np.float64) * self.deviation + self.mean
        values = scores.plain(scores.of_numbers(predicted, labels), len(labels))
        scaled = (predicted - labels) / np.array(self.deviation)
        return {
            f"{prefix}_loss": float((scaled**2).mean()),
            f"{prefix}_r2": values["r2"],
            f"{prefix}_mae": values["mae"],
            f"{prefix}_rmse": values["rmse"],
        }


def _cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    logits = logits.astype(np.float64)
    return float((np.logaddexp(0, logits) - targets * logits).mean())


def _defined(value: float) -> float:
    """0 for a score that the images do not define, such as a precision without positives."""
    return 0.0 if np.isnan(value) else value
