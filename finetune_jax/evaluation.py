"""Running a network over whole splits: every example once, whatever the batch size and the devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from finetune_jax import metrics
from finetune_jax.data.feeds import Feed
from finetune_jax.data.order import evaluation_order
from finetune_jax.models.network import Model
from finetune_jax.parallel import AXIS, Replicas

Evaluation = Callable[[Any, Feed, int], np.ndarray]
"""``(variables on the devices, feed, number of examples) → outputs [N, …]`` on the host of every process."""


def compile_evaluation(
    function: Callable[[Any, jax.Array], jax.Array], replicas: Replicas, batch_size: int
) -> Evaluation:
    """``function(variables, images uint8 [B, H, W, C]) → [B, …]`` over the examples of a feed.

    The last batch is filled up and the surplus dropped, so any number of examples gives that many rows.
    """
    batch_size = -(-batch_size // replicas.count) * replicas.count

    def gathered(variables: Any, images: jax.Array) -> jax.Array:
        return jax.lax.all_gather(function(variables, images), AXIS, tiled=True)

    mapped = replicas.map(gathered, (None, 0))

    def run(variables: Any, feed: Feed, count: int) -> np.ndarray:
        outputs = [mapped(variables, images) for images in feed.batches(evaluation_order(count, batch_size))]
        return np.concatenate(jax.device_get(outputs))[:count]

    return run


def classifier(
    network: Model, normalize: Callable[[jax.Array], jax.Array]
) -> Callable[[Any, jax.Array], jax.Array]:
    """Per-replica function of variables and uint8 images to logits ``[B, num_classes]``."""
    return lambda variables, images: network.apply(variables, normalize(images))


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
