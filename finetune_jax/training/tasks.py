"""What a run learns and is measured by: labelling images, or finding images of the same class.

A task turns a config into pure pieces: the head of the network, the loss, the outputs of an image, and the
scores of outputs. It knows no devices and no files.
"""

import csv
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from finetune_jax.algorithms import losses, retrieval
from finetune_jax.config import fit_task
from finetune_jax.config.settings import DataConfig, FinetuneConfig
from finetune_jax.data.examples import Source
from finetune_jax.errors import UserError
from finetune_jax.models import heads
from finetune_jax.models.network import Model
from finetune_jax.training import evaluation, objectives, value_tasks
from finetune_jax.training.class_names import trained_classes

PROXIES = "proxies"
"""Name of the part beside the network that ``--loss=proxy_anchor`` trains."""

_LABELLED = ("loss", "correct", "examples")


class Task(Protocol):
    """The pieces of a run that depend on what it is for."""

    @property
    def name(self) -> str:
        """As in ``--task``."""

    @property
    def head(self) -> str:
        """Name of the network's head, see ``models.heads``."""

    def num_outputs(self, num_classes: int) -> int:
        """Outputs of the network's head."""

    @property
    def score(self) -> str:
        """Name of the number by which runs are compared, the larger the better, without its split."""

    @property
    def totals(self) -> tuple[str, ...]:
        """Names of what :meth:`loss` and the objective sum over the images of an epoch."""

    def class_names(self, source: Source) -> tuple[str, ...]:
        """Of the classes that are trained on.

        Raises:
            UserError: the data set has too few, or not all of them have training images.
        """

    def parts_beside_network(self, num_classes: int, key: jax.Array) -> dict[str, Any]:
        """``{name: parameters}`` that the loss trains beside the network."""

    def loss(self, labels: np.ndarray, class_names: Sequence[str]) -> objectives.Loss:
        """What is minimised, given the training labels ``[N]`` and the names of their classes.

        Raises:
            UserError: a file of class weights cannot be used.
        """

    def outputs(
        self, network: Model, normalize: Callable[[jax.Array], jax.Array]
    ) -> Callable[[Any, jax.Array], jax.Array]:
        """Per-replica function of variables and uint8 images to what :meth:`scores` takes, ``[B, …]``."""

    def scores(
        self,
        outputs: np.ndarray,
        labels: np.ndarray,
        prefix: str,
        gallery: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> dict[str, float]:
        """``{PREFIX_NAME: number}`` of a split; ``gallery`` is outputs and labels of what is searched."""


def create(config: FinetuneConfig, source: Source | None = None) -> Task:
    """The task of a run, ``--task=auto`` decided by its data; without any, one class per image.

    Raises:
        UserError: a setting has no meaning with the task.
    """
    if config.protocol == "retrieval":
        return Retrieval(config)
    if source is None:
        return Classification(config)
    fit_task.refuse_unfit(dataclasses.asdict(config), source.task)
    if source.task == "multilabel":
        return value_tasks.MultiLabel(config)
    if source.task == "ordinal":
        return value_tasks.Ordinal(config)
    if source.task == "regression":
        return value_tasks.Regression.of(config, source.splits["train"].truth)
    return Classification(config)


@dataclasses.dataclass(frozen=True)
class Classification:
    """Labels among the classes of the data set."""

    config: FinetuneConfig
    name = "classification"
    head = heads.OWN
    score = "accuracy"
    totals = _LABELLED

    def num_outputs(self, num_classes: int) -> int:
        """One per class."""
        return num_classes

    def class_names(self, source: Source) -> tuple[str, ...]:
        """All of the data set."""
        return trained_classes(source)

    def parts_beside_network(self, num_classes: int, key: jax.Array) -> dict[str, Any]:
        """None."""
        return {}

    def loss(self, labels: np.ndarray, class_names: Sequence[str]) -> objectives.Loss:
        """Cross-entropy or another loss of classifiers, by class weights if asked for."""
        return _loss_of_labels(self.config, labels, class_names)

    def outputs(
        self, network: Model, normalize: Callable[[jax.Array], jax.Array]
    ) -> Callable[[Any, jax.Array], jax.Array]:
        """Logits ``[B, C]``."""
        return evaluation.classifier(network, normalize)

    def scores(
        self,
        outputs: np.ndarray,
        labels: np.ndarray,
        prefix: str,
        gallery: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> dict[str, float]:
        """Loss, accuracy and balanced accuracy."""
        del gallery
        return evaluation.classification_scores(outputs, labels, prefix)


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Images of classes that were not trained on, found by the embeddings of others of their class."""

    config: FinetuneConfig
    name = "retrieval"

    def num_outputs(self, num_classes: int) -> int:
        """One per class that is trained on."""
        return num_classes

    @property
    def score(self) -> str:
        """Recall@1 as in the papers, or MAP@R, which also tells apart what retrieves every first neighbour."""
        return self.config.retrieval_score

    @property
    def head(self) -> str:
        """AutoLR's retrieval head, or the embedding that Proxy-Anchor learns."""
        return "embedding" if self.config.loss == "proxy_anchor" else "retrieval"

    @property
    def totals(self) -> tuple[str, ...]:
        """Proxy-Anchor labels no image, so there are none that are labelled correctly."""
        return ("loss", "examples") if self.config.loss == "proxy_anchor" else _LABELLED

    def class_names(self, source: Source) -> tuple[str, ...]:
        """Those of the training split."""
        names = source.class_names[: source.num_train_classes]
        if len(names) < 2:
            raise UserError(
                f"{source.name} leaves only the class {names[0]} to train on; at least two are needed: add "
                "classes, or lower --validation_fraction"
            )
        return names

    def parts_beside_network(self, num_classes: int, key: jax.Array) -> dict[str, Any]:
        """The proxies of Proxy-Anchor, ``[C, D]``."""
        if self.config.loss != "proxy_anchor":
            return {}
        shape = (num_classes, heads.EMBEDDING_SIZE)
        return {PROXIES: {"kernel": (2 / num_classes) ** 0.5 * jax.random.normal(key, shape)}}

    def loss(self, labels: np.ndarray, class_names: Sequence[str]) -> objectives.Loss:
        """A loss of classifiers over the training classes, or Proxy-Anchor."""
        if self.config.loss == "proxy_anchor":
            return objectives.proxy_anchor()
        return _loss_of_labels(self.config, labels, class_names)

    def outputs(
        self, network: Model, normalize: Callable[[jax.Array], jax.Array]
    ) -> Callable[[Any, jax.Array], jax.Array]:
        """Embeddings ``[B, D]``."""
        return evaluation.embedder(network, normalize)

    def scores(
        self,
        outputs: np.ndarray,
        labels: np.ndarray,
        prefix: str,
        gallery: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> dict[str, float]:
        """Recall@K for each of ``--ks``, and MAP@R."""
        scores = retrieval_scores(self.config, outputs, labels, gallery)
        return {f"{prefix}_{name.lower().replace('@', '_at_')}": value for name, value in scores.items()}


def retrieval_scores(
    config: DataConfig,
    embeddings: np.ndarray,
    labels: np.ndarray,
    gallery: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, float]:
    """``{"Recall@K": …, "MAP@R": …}`` of embeddings ``[N, D]``, among each other or in a gallery."""
    searched, searched_labels = gallery or (None, None)
    recalls = retrieval.recall_at_k(
        embeddings, labels, config.ks, gallery=searched, gallery_labels=searched_labels
    )
    precision = retrieval.map_at_r(embeddings, labels, gallery=searched, gallery_labels=searched_labels)
    return {**{f"Recall@{k}": recall for k, recall in recalls.items()}, "MAP@R": precision}


def class_weights(
    config: FinetuneConfig, labels: np.ndarray, class_names: Sequence[str]
) -> np.ndarray | None:
    """Loss weight per class as ``--class_weights`` says, float32 ``[C]``; None for equal ones.

    Args:
        config: of the run.
        labels: of the training images, ``[N]``.
        class_names: of the C classes.

    Raises:
        UserError: the file of weights cannot be read or does not name every class.
    """
    kind, _, power = config.class_weights.partition(":")
    if kind == "none":
        return None
    if kind == "balanced":
        return losses.balanced_class_weights(
            np.bincount(labels, minlength=len(class_names)), float(power or 1)
        )
    return _weights_of_file(config.class_weights, class_names)


def _weights_of_file(name: str, class_names: Sequence[str]) -> np.ndarray:
    try:
        with open(os.path.expanduser(name), newline="") as file:
            weights = {row["class"]: float(row["weight"]) for row in csv.DictReader(file)}
    except OSError as error:
        raise UserError(f"--class_weights={name} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--class_weights={name} is no table of weights; give it the columns class and weight, with a number for "
            "each class"
        ) from error
    missing = [class_name for class_name in class_names if class_name not in weights]
    if missing:
        raise UserError(f"--class_weights={name} lacks a weight of {', '.join(missing[:10])}")
    chosen = np.array([weights[class_name] for class_name in class_names], np.float32)
    if not (np.isfinite(chosen).all() and chosen.min() >= 0 and chosen.max() > 0):
        raise UserError(f"--class_weights={name} has a weight that is negative or no number, or none above 0")
    return chosen


def _loss_of_labels(
    config: FinetuneConfig, labels: np.ndarray, class_names: Sequence[str]
) -> objectives.Loss:
    """The loss of a classifier."""
    weights = class_weights(config, labels, class_names)
    smoothing = config.label_smoothing
    if config.loss == "cross_entropy" and not (config.mixup or config.cutmix):
        return objectives.cross_entropy(label_smoothing=smoothing, class_weights=weights)
    example_losses: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
        "cross_entropy": losses.soft_cross_entropy,
        "bce": losses.binary_cross_entropy,
        "focal": functools.partial(losses.focal, gamma=config.focal_gamma),
    }
    return objectives.soft_classification(
        example_losses[config.loss], label_smoothing=smoothing, class_weights=weights
    )
