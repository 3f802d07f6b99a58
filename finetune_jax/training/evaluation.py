"""Running a network over whole splits: every example once, whatever the batch size and the devices."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import metrics, views
from finetune_jax.data.decode import Preprocessing
from finetune_jax.data.feeds import Feed
from finetune_jax.data.order import evaluation_order, evaluation_order_of_shards
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.errors import UserError
from finetune_jax.models.network import Model

BATCH_SIZES = (32, 64, 128, 256)
"""Images of a batch in evaluation, over all devices: one of these."""
_MOST_FILLING = 0.1

# How many batches of outputs may wait on the devices; those of a whole data set could fill their memory.
_BATCHES_AHEAD = 16

Evaluation = Callable[[Any, Feed, int], np.ndarray]
"""``(variables on the devices, feed, number of examples) → outputs [N, …]`` on the host of every process."""


def batch_size_for(*counts: int) -> int:
    """Images of a batch for splits of so many examples, which one program evaluates.

    Last batches are filled up, and filled places cost what examples do: a batch of 256 for 20 validation images would
    take longer than the epoch of a small data set.

    Returns:
        The largest of :data:`BATCH_SIZES` that computes at most a tenth more than the best of them.

    Examples:
        >>> batch_size_for(20), batch_size_for(36, 1438), batch_size_for(10_000)
        (32, 64, 256)
    """
    computed = {size: sum(-(-count // size) * size for count in counts) for size in BATCH_SIZES}
    least = min(computed.values())
    return max(size for size, places in computed.items() if places <= (1 + _MOST_FILLING) * least)


def compile_evaluation(
    function: Callable[[Any, jax.Array], jax.Array],
    replicas: Replicas,
    batch_size: int | None = None,
    axes: Callable[[Any], Any] = lambda variables: None,
) -> Evaluation:
    """``function(variables, images uint8 [B, H, W, C]) → [B, …]`` over the examples of a feed.

    Any number of examples gives that many rows.

    Args:
        function: of one replica.
        replicas: where.
        batch_size: images of a batch over all devices; None is :func:`batch_size_for` the examples of each call.
        axes: variables on the devices to what ``Replicas.map`` takes for them, None where all are replicated.
    """
    batches = compile_batches(function, replicas, batch_size, axes)

    def run(variables: Any, feed: Feed, count: int) -> np.ndarray:
        outputs = np.concatenate(list(batches(variables, feed, count)))
        if feed.rows is None:
            return outputs
        order, is_example = _order_of_shards(feed.rows, replicas, batch_size)
        in_order = np.empty((count, *outputs.shape[1:]), outputs.dtype)
        in_order[order[is_example]] = outputs[is_example.reshape(-1)]
        return in_order

    return run


def compile_batches(
    function: Callable[[Any, jax.Array], jax.Array],
    replicas: Replicas,
    batch_size: int | None = None,
    axes: Callable[[Any], Any] = lambda variables: None,
) -> Callable[[Any, Feed, int], Iterator[np.ndarray]]:
    """:func:`compile_evaluation` batch by batch, for outputs that need not be held at once.

    The last batch is filled up and the surplus dropped; examples in shards come with it, in the order of
    ``order.evaluation_order_of_shards``.
    """

    def gathered(variables: Any, images: jax.Array) -> jax.Array:
        return jax.lax.all_gather(function(variables, images), AXIS, tiled=True)

    mapped: Callable[..., jax.Array] | None = None

    def run(variables: Any, feed: Feed, count: int) -> Iterator[np.ndarray]:
        nonlocal mapped
        if mapped is None:
            mapped = replicas.map(gathered, (axes(variables), 0))
        waiting: collections.deque[jax.Array] = collections.deque()
        if feed.rows is None:
            images_at_once = batch_size or batch_size_for(count)
            order = evaluation_order(count, -(-images_at_once // replicas.count) * replicas.count)
            left = count
        else:
            order, _ = _order_of_shards(feed.rows, replicas, batch_size)
            left = order.size
        for images in feed.batches(order):
            waiting.append(mapped(variables, images))
            if len(waiting) > _BATCHES_AHEAD:
                yield jax.device_get(waiting.popleft())
                left -= order.shape[1]
        while waiting:
            yield jax.device_get(waiting.popleft())[:left]
            left -= order.shape[1]

    return run


def _order_of_shards(
    rows: Sequence[np.ndarray], replicas: Replicas, batch_size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    batch_size = batch_size or batch_size_for(sum(map(len, rows)))
    unit = math.lcm(replicas.count, len(rows))
    return evaluation_order_of_shards(rows, -(-batch_size // unit) * unit)


Counts = Callable[[Any, Feed, np.ndarray], tuple[float, np.ndarray, np.ndarray]]
"""``(variables, feed, labels [N]) → sum of the losses, images of each class [C], and how many of them are right``."""


def compile_counts(
    function: Callable[[Any, jax.Array], jax.Array],
    replicas: Replicas,
    num_classes: int,
    batch_size: int | None = None,
    axes: Callable[[Any], Any] = lambda variables: None,
) -> Counts:
    """What accuracies and the loss are made of, counted on the devices: no output leaves them.

    Args:
        function: of one replica, variables and uint8 images to logits ``[B, C]``.
        replicas: where.
        num_classes: C.
        batch_size: images of a batch over all devices; None is :func:`batch_size_for` the examples.
        axes: see :func:`compile_evaluation`.
    """

    def counted(variables: Any, images: jax.Array, labels: jax.Array, weights: jax.Array) -> Any:
        logits = function(variables, images).astype(jnp.float32)
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
        right = (logits.argmax(1) == labels) * weights
        of_class = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
        # A filled place weighs nothing, whatever its loss.
        total = jnp.where(weights > 0, loss, 0.0).sum()
        return jax.lax.psum((total, weights @ of_class, right @ of_class), AXIS)

    mapped: Callable[..., Any] | None = None

    def run(variables: Any, feed: Feed, labels: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        nonlocal mapped
        assert feed.rows is not None
        if mapped is None:
            mapped = replicas.map(counted, (axes(variables), 0, 0, 0))
        order, is_example = _order_of_shards(feed.rows, replicas, batch_size)
        local_order, real = replicas.local_columns(order), replicas.local_columns(is_example)
        counts = []
        for row, is_real, images in zip(local_order, real, feed.batches(order), strict=True):
            counts.append(mapped(variables, images, *replicas.split((labels[row], np.float32(is_real)))))
            if len(counts) > _BATCHES_AHEAD:
                jax.block_until_ready(counts[-_BATCHES_AHEAD])
        totals = jax.device_get(counts)
        loss, seen, right = [np.stack(part).astype(np.float64).sum(0) for part in zip(*totals, strict=True)]
        return float(loss), seen, right

    return run


def scores_of_counts(counts: tuple[float, np.ndarray, np.ndarray], prefix: str) -> dict[str, float]:
    """:func:`classification_scores` of what :func:`compile_counts` counts, the loss to rounding.

    >>> scores_of_counts((3.0, np.array([4.0, 2.0]), np.array([3.0, 2.0])), "test")["test_balanced_accuracy"]
    0.875
    """
    loss, seen, right = counts
    there = seen > 0
    return {
        f"{prefix}_loss": loss / float(seen.sum()),
        f"{prefix}_accuracy": float(right.sum() / seen.sum()),
        f"{prefix}_balanced_accuracy": float(np.mean(right[there] / seen[there])),
    }


def classifier(
    network: Model, normalize: Callable[[jax.Array], jax.Array]
) -> Callable[[Any, jax.Array], jax.Array]:
    """Per-replica function of variables and uint8 images to logits ``[B, num_classes]``."""
    return lambda variables, images: network.apply(variables, normalize(images))


def of_centre(
    function: Callable[[Any, jax.Array], jax.Array], size: int
) -> Callable[[Any, jax.Array], jax.Array]:
    """``function(variables, images [B, H, W, C])`` of the centre of images that are larger than the network's.

    Training images are stored larger where their augmentation crops them, and must be judged as test images are.

    Args:
        function: of images of ``size`` pixels.
        size: side of the centre.
    """

    def central(variables: Any, images: jax.Array) -> jax.Array:
        above, left = ((side - size) // 2 for side in images.shape[1:3])
        if above or left:
            images = images[:, above : above + size, left : left + size]
        return function(variables, images)

    return central


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
