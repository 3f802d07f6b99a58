"""How well origins suit a data set before anything is trained, and how fast and how right a trained run is.

The features are those of the network as pretrained, of images as evaluation prepares them.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from finetune_jax import data as datasets
from finetune_jax.algorithms import domain_similarity, transferability
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data import folds as data_folds
from finetune_jax.data import split_rules
from finetune_jax.data.cache import Arrays
from finetune_jax.data.examples import Source
from finetune_jax.data.feeds import create_feed
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.models.card import read_best
from finetune_jax.models.normalization import normalizer
from finetune_jax.models.weights import installed, pretrained
from finetune_jax.runs import domains, start
from finetune_jax.training import evaluation
from finetune_jax.training.state import parameter_count

_FOLDS = 5
_LEAST, _MOST, _PER_SECOND = 500, 5000, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """The training and validation images as an origin sees them.

    Attributes:
        train: float32 ``[N, D]``.
        train_labels: int ``[N]``.
        folds: int ``[N]``, of cross-validation.
        validation: float32 ``[M, D]``.
        validation_labels: int ``[M]``.
        image_size: that the network saw.
        milliseconds: per image of the network, without reading and without compilation.
        parameters: of the network without its head.
    """

    train: np.ndarray
    train_labels: np.ndarray
    folds: np.ndarray
    validation: np.ndarray
    validation_labels: np.ndarray
    image_size: int
    milliseconds: float
    parameters: int


def at_hand() -> tuple[str, ...]:
    """Names of the weights that need no download: those that are bundled, and those of installed packages."""
    names = list(pretrained.bundled_names())
    for name in installed.names():
        try:
            installed.weight_file(name)
        except UserError:
            continue
        names.append(name)
    return tuple(names)


def images_for(budget: float) -> int:
    """Training images that probes look at within a budget of seconds; the same for all origins, which are compared.

    >>> [images_for(seconds) for seconds in (60, 600, 3600)]
    [500, 1200, 5000]
    """
    return int(min(_MOST, max(_LEAST, _PER_SECOND * budget)))


def sample(source: Source, most: int, seed: int) -> Source:
    """The data set with about so many training images at most, as many of each class as there are."""
    train = source.splits["train"]
    if len(train) <= most:
        return source
    return split_rules.few_per_class(source, -(-most // len(np.unique(train.labels))), seed)


def embed(config: FinetuneConfig, source: Source, replicas: Replicas) -> Features:
    """Look at the images of a data set through ``config.pretrained``.

    Args:
        config: of a run that would start from these weights.
        source: its data set, which has a training and a validation split.
        replicas: where to run the network.

    Raises:
        UserError: the weights are not to be had or do not suit the images, or there are too few of these.
    """
    origin = start.load_origin(config)
    size = datasets.image_size(config, origin.image_size)
    origin = pretrained.at_image_size(origin, size)
    normalize, network = normalizer(origin.mean, origin.std), origin.network
    variables = replicas.replicate(origin.variables)

    def function(variables: Any, images: jax.Array) -> jax.Array:
        return network.embed(variables, normalize(images))

    preprocessing = datasets.preprocessing(config, size, train=False)
    splits = {name: _decoded(config, source, name, preprocessing) for name in ("train", "validation")}
    counts = [len(arrays.labels) for arrays in splits.values()]
    compute = evaluation.compile_evaluation(function, replicas, evaluation.batch_size_for(*counts))
    features = {
        name: _outputs(compute, variables, arrays, config, replicas) for name, arrays in splits.items()
    }
    if not all(np.isfinite(rows).all() for rows in features.values()):
        raise UserError(
            f"--pretrained={config.pretrained} gives features of {source.name} that are not finite"
        )
    return Features(
        features["train"],
        splits["train"].labels,
        _folds(source, splits["train"]),
        features["validation"],
        splits["validation"].labels,
        size,
        _milliseconds(compute, variables, splits["train"], config, replicas),
        parameter_count({k: v for k, v in origin.variables["params"].items() if k != "head"}),
    )


def judge(features: Features, config: FinetuneConfig, replicas: Replicas) -> dict[str, Any]:
    """What the features of an origin promise.

    Args:
        features: of :func:`embed`.
        config: as there.
        replicas: as there.

    Returns:
        JSON: ``ridge`` and ``neighbours`` (``folds``, the accuracy of each of five folds of the training images, and
        ``right``, of each of these whether it was), ``logme``, ``similarity`` to the source of the weights (None where
        no class means of it at this image size come with them), and ``validation``: of each validation image
        whether a ridge probe of the training images is right.
    """
    probes = {
        "ridge": transferability.ridge_predictions,
        "neighbours": transferability.neighbour_predictions,
    }
    labels, folds = features.train_labels, features.folds
    result: dict[str, Any] = {}
    for name, probe in probes.items():
        right = transferability.cross_validated(features.train, labels, folds, probe) == labels
        of_folds = [float(right[folds == fold].mean()) for fold in np.unique(folds)]
        result[name] = {"folds": of_folds, "right": flags_text(right)}
    predictions = transferability.ridge_predictions(features.train, labels, features.validation)
    return {
        **result,
        "logme": transferability.logme(features.train, labels),
        "similarity": _similarity(features, config, replicas),
        "validation": flags_text(predictions == features.validation_labels),
        "image_size": features.image_size,
        "milliseconds": features.milliseconds,
        "parameters": features.parameters,
        "features": features.train.shape[1],
        "classes": len(np.unique(labels)),
    }


def curve(features: Features, counts: Sequence[int], seed: int) -> dict[str, list[float]]:
    """Accuracy on the validation images of ridge probes of so many training images per class.

    Args:
        features: of :func:`embed`.
        counts: images per class.
        seed: of the draws.

    Returns:
        ``{count: accuracy of each draw}``.
    """
    scores = transferability.learning_curve(
        features.train,
        features.train_labels,
        features.validation,
        features.validation_labels,
        counts,
        seed=seed,
    )
    return {str(count): values for count, values in scores.items()}


def measure(run: Path, config: FinetuneConfig, source: Source, replicas: Replicas) -> dict[str, Any]:
    """How right the best checkpoint of a run is on the validation images, and how fast.

    Args:
        run: its directory.
        config: of the run.
        source: its data set.
        replicas: where to run the network.

    Returns:
        JSON: ``right``, of each validation image whether it is, and ``milliseconds`` per image.
    """
    card, variables = read_best(run)
    arrays = _decoded(config, source, "validation", card.preprocessing)
    function = evaluation.classifier(card.model(), normalizer(card.mean, card.std))
    compute = evaluation.compile_evaluation(function, replicas)
    variables = replicas.replicate(variables)
    outputs = _outputs(compute, variables, arrays, config, replicas)
    return {
        "right": flags_text(outputs.argmax(1) == arrays.labels),
        "milliseconds": _milliseconds(compute, variables, arrays, config, replicas),
    }


def flags_text(right: np.ndarray) -> str:
    """Booleans ``[N]`` as so many digits.

    >>> flags_text(np.array([True, False]))
    '10'
    """
    return "".join("01"[int(value)] for value in right)


def flags_of(text: str) -> np.ndarray:
    """What :func:`flags_text` has written, bool ``[N]``.

    >>> flags_of("10").tolist()
    [True, False]
    """
    return np.array([letter == "1" for letter in text], bool)


def _decoded(config: FinetuneConfig, source: Source, split: str, preprocessing: Any) -> Arrays:
    return datasets.materialise_split(
        config, source.splits[split], preprocessing, silent=False, title=f"decoding {split} images"
    )


def _outputs(
    compute: evaluation.Evaluation,
    variables: Any,
    arrays: Arrays,
    config: FinetuneConfig,
    replicas: Replicas,
) -> np.ndarray:
    resident = arrays.images.nbytes <= config.device_data_gb * 1e9
    feed = create_feed(arrays, replicas, resident=resident, steps_per_dispatch=1)
    return np.asarray(compute(variables, feed, len(arrays.labels)))


def _milliseconds(
    compute: evaluation.Evaluation,
    variables: Any,
    arrays: Arrays,
    config: FinetuneConfig,
    replicas: Replicas,
) -> float:
    """Per image of a whole batch, of a program that has been compiled."""
    # A batch that is not full is filled up, and takes as long.
    count = len(arrays.labels)
    rows = np.resize(np.arange(count), evaluation.batch_size_for(count))
    batch = dataclasses.replace(
        arrays,
        images=np.asarray(arrays.images[rows]),
        labels=arrays.labels[rows],
        kept=arrays.kept[rows],
        sizes=arrays.sizes[rows],
    )
    feed = create_feed(batch, replicas, resident=True, steps_per_dispatch=1)
    compute(variables, feed, len(rows))
    began = time.perf_counter()
    compute(variables, feed, len(rows))
    return 1000 * (time.perf_counter() - began) / len(rows)


def _folds(source: Source, arrays: Arrays) -> np.ndarray:
    """Five folds of the images that could be read, or as many as there are groups."""
    examples = source.splits["train"].subset(arrays.kept)
    for folds in range(_FOLDS, 1, -1):
        try:
            return data_folds.of_examples(examples, folds, seed=0)[0]
        except ValueError:
            continue
    raise UserError(
        f"{source.name} has too few training images to tell methods apart; give at least two per class"
    )


def _similarity(features: Features, config: FinetuneConfig, replicas: Replicas) -> float | None:
    name = config.pretrained
    if pretrained.bundled_source(name) is None:
        return None
    prober = domains.Prober(config, start.load_origin(config), replicas, pretrained=name)
    try:
        source = prober.source("")
    except UserError:  # its class means are of another image size
        return None
    if source.image_size != features.image_size:
        return None
    present, counts = np.unique(features.train_labels, return_counts=True)
    means = np.stack([features.train[features.train_labels == label].mean(0) for label in present])
    target = domains.Domain(config.dataset, means, (counts / counts.sum()).astype(np.float32))
    return float(domain_similarity.similarity(source.distance(target)))
