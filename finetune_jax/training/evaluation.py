"""Running a network over whole splits: every example once, whatever the batch size and the devices."""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import metrics, views
from finetune_jax.data.decode import Preprocessing
from finetune_jax.data.feeds import Feed
from finetune_jax.data.order import evaluation_order
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.errors import UserError
from finetune_jax.models.network import Model

BATCH_SIZE = 256
"""Images of a batch in evaluation, over all devices."""

# How many batches of outputs may wait on the devices; those of a whole data set could fill their memory.
_BATCHES_AHEAD = 16

Evaluation = Callable[[Any, Feed, int], np.ndarray]
"""``(variables on the devices, feed, number of examples) → outputs [N, …]`` on the host of every process."""


def compile_evaluation(
    function: Callable[[Any, jax.Array], jax.Array],
    replicas: Replicas,
    batch_size: int = BATCH_SIZE,
    axes: Callable[[Any], Any] = lambda variables: None,
) -> Evaluation:
    """``function(variables, images uint8 [B, H, W, C]) → [B, …]`` over the examples of a feed.

    Any number of examples gives that many rows.

    Args:
        function: of one replica.
        replicas: where.
        batch_size: images of a batch over all devices.
        axes: variables on the devices to what ``Replicas.map`` takes for them, None where all are replicated.
    """
    batches = compile_batches(function, replicas, batch_size, axes)
    return lambda variables, feed, count: np.concatenate(list(batches(variables, feed, count)))


def compile_batches(
    function: Callable[[Any, jax.Array], jax.Array],
    replicas: Replicas,
    batch_size: int = BATCH_SIZE,
    axes: Callable[[Any], Any] = lambda variables: None,
) -> Callable[[Any, Feed, int], Iterator[np.ndarray]]:
    """:func:`compile_evaluation` batch by batch, for outputs that need not be held at once.

    The last batch is filled up and the surplus dropped.
    """
    batch_size = -(-batch_size // replicas.count) * replicas.count

    def gathered(variables: Any, images: jax.Array) -> jax.Array:
        return jax.lax.all_gather(function(variables, images), AXIS, tiled=True)

    mapped: Callable[..., jax.Array] | None = None

    def run(variables: Any, feed: Feed, count: int) -> Iterator[np.ndarray]:
        nonlocal mapped
        if mapped is None:
            mapped = replicas.map(gathered, (axes(variables), 0))
        waiting: collections.deque[jax.Array] = collections.deque()
        left = count
        for images in feed.batches(evaluation_order(count, batch_size)):
            waiting.append(mapped(variables, images))
            if len(waiting) > _BATCHES_AHEAD:
                yield jax.device_get(waiting.popleft())
                left -= batch_size
        while waiting:
            yield jax.device_get(waiting.popleft())[:left]
            left -= batch_size

    return run


def classifier(
    network: Model, normalize: Callable[[jax.Array], jax.Array]
) -> Callable[[Any, jax.Array], jax.Array]:
    """Per-replica function of variables and uint8 images to logits ``[B, num_classes]``."""
    return lambda variables, images: network.apply(variables, normalize(images))


def over_views(
    function: Callable[[Any, jax.Array], jax.Array], names: str, size: int
) -> Callable[[Any, jax.Array], jax.Array]:
    """``function(variables, images [B, H, W, C]) → [B, …]``, averaged over views of the images.

    Args:
        function: of images of ``size`` pixels.
        names: one of ``config.choices.VIEWS``.
        size: side of the views; crops are taken from larger images, see :func:`preprocessing_for`.
    """
    if names == "one":
        return function

    def mean(variables: Any, images: jax.Array) -> jax.Array:
        crops = views.five_crops(images, size) if names.endswith("crops") else images[None]
        if names != "five_crops":
            crops = jnp.concatenate([crops, crops[:, :, :, ::-1]])
        return views.mean_output(lambda view: function(variables, view), crops)

    return mean


def preprocessing_for(names: str, preprocessing: Preprocessing) -> Preprocessing:
    """How images are prepared for :func:`over_views`: those that are cropped stay as large as they are resized.

    Raises:
        UserError: they are resized to the network's size, so that there is nothing to crop.
    """
    if not names.endswith("crops"):
        return preprocessing
    if preprocessing.resize == preprocessing.image_size:
        raise UserError(
            f"--views={names} crops larger images, and the run resizes them to the {preprocessing.image_size} pixels "
            "of the network; use --views=mirror"
        )
    return dataclasses.replace(preprocessing, image_size=preprocessing.resize)


def embedder(
    network: Model, normalize: Callable[[jax.Array], jax.Array]
) -> Callable[[Any, jax.Array], jax.Array]:
    """Per-replica function of variables and uint8 images to embeddings ``[B, D]``.

    As AutoLR tests them: the pooled output of the last block, summed over the image and its mirror image. A
    network with an embedding head gives its outputs instead, which are what its loss compares.
    """
    embed = network.apply if network.head_name == "embedding" else network.embed

    def both(variables: Any, images: jax.Array) -> jax.Array:
        images = normalize(images)
        return embed(variables, images) + embed(variables, images[:, :, ::-1])

    return both


def classification_scores(logits: np.ndarray, labels: np.ndarray, prefix: str) -> dict[str, float]:
    """Loss, accuracy and balanced accuracy of ``logits [N, C]``, named ``PREFIX_loss`` and so on."""
    confusion = metrics.confusion_matrix(logits.argmax(1), labels, logits.shape[1])
    return {
        f"{prefix}_loss": metrics.cross_entropy(logits, labels),
        f"{prefix}_accuracy": metrics.accuracy(logits, labels),
        f"{prefix}_balanced_accuracy": metrics.balanced_accuracy(confusion),
    }
