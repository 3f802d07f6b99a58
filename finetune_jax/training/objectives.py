"""What a train step minimises: images through a network (the method's part), then a loss (the task's part).

Both parts are pure functions of one replica, put together by :func:`objective`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import losses
from finetune_jax.algorithms.augmentation import Augmentation
from finetune_jax.data.batch import Batch
from finetune_jax.models.network import Network
from finetune_jax.training.step import Objective, Outcome

Tree = Any

_FORWARD_STREAM = 0xFFFFFFFF  # beside the slots of the batch, each of which has a random stream of its own


class Prediction(NamedTuple):
    """What a forward pass gives.

    Attributes:
        outputs: float32 ``[B, …]``, logits or embeddings.
        batch_stats: ``{part: tree}``, new statistics of the parts that changed theirs.
        penalty: ``[]``, added to the loss.
        totals: ``{name: float32 []}``, sums over the examples of the batch, beside those of the loss.
    """

    outputs: jax.Array
    batch_stats: Tree
    penalty: jax.Array | float = 0.0
    totals: dict[str, jax.Array] = {}  # noqa: RUF012 (never changed)


Forward = Callable[[Tree, Tree, Tree, jax.Array, jax.Array], Prediction]
"""``(params, frozen, batch_stats, images [B, H, W, C], keys [B]) → Prediction`` in training mode.

Each example has a random key that depends on its place in the batch over all replicas, whatever their number.
"""

Loss = Callable[[jax.Array, Tree, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""``(outputs [B, …], params, labels [B]) → (loss [], {name: sum over the batch})``."""


def objective(
    forward: Forward, loss: Loss, *, normalize: Callable[[jax.Array], jax.Array], augment: Augmentation
) -> Objective:
    """The loss of augmented images.

    Args:
        forward: images to outputs.
        loss: outputs to the loss.
        normalize: uint8 or float images of 0 to 255 to the network's input.
        augment: of one image, before normalisation.
    """

    def function(
        params: Tree, frozen: Tree, batch_stats: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Outcome]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.slots)
        images = normalize(jax.vmap(augment)(keys, batch.images.astype(jnp.float32), batch.aspects))
        forward_key = jax.random.fold_in(key, _FORWARD_STREAM)
        forward_keys = jax.vmap(jax.random.fold_in, (None, 0))(forward_key, batch.slots)
        prediction = forward(params, frozen, batch_stats, images, forward_keys)
        value, totals = loss(prediction.outputs, params, batch.labels)
        totals = {**totals, **prediction.totals, "examples": jnp.float32(batch.labels.size)}
        return value + prediction.penalty, Outcome(prediction.batch_stats, totals)

    return function


def random_streams(keys: jax.Array) -> dict[str, jax.Array]:
    """What a network in training mode draws from, of the keys ``[B]`` of its examples.

    Every replica drops out on its own: its first example tells it from the others. Blocks are left out of each example
    by itself.
    """
    return {"dropout": keys[0], "drop_path": keys}


def forward(network: Network, batch_norm_parts: tuple[str, ...]) -> Forward:
    """The network itself.

    Args:
        network: gives the outputs.
        batch_norm_parts: parts in training mode: they normalise with batch statistics and drop out; the
            others keep their statistics.
    """

    def function(
        params: Tree, frozen: Tree, batch_stats: Tree, images: jax.Array, keys: jax.Array
    ) -> Prediction:
        variables = {"params": {**frozen, **params}, "batch_stats": batch_stats}
        rngs = random_streams(keys)
        outputs, updated = network.apply(variables, images, train=batch_norm_parts, rngs=rngs)
        return Prediction(outputs, {name: updated[name] for name in batch_norm_parts})

    return function


def cross_entropy(*, label_smoothing: float = 0.0, class_weights: np.ndarray | None = None) -> Loss:
    """Mean cross-entropy of logits ``[B, C]``.

    Args:
        label_smoothing: see ``losses.cross_entropy``.
        class_weights: ``[C]``, factor of an example's loss by its class.
    """

    def function(
        logits: jax.Array, params: Tree, labels: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        del params
        example_losses = losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        if class_weights is not None:
            example_losses *= jnp.asarray(class_weights)[labels]
        correct = (logits.argmax(-1) == labels).sum(dtype=jnp.float32)
        return example_losses.mean(), {"loss": example_losses.sum(), "correct": correct}

    return function


def proxy_anchor(*, margin: float = 0.1, alpha: float = 32.0) -> Loss:
    """Proxy-Anchor loss of embeddings ``[B, D]``; the proxies ``[C, D]`` are ``params["proxies"]["kernel"]``.

    See ``losses.proxy_anchor`` for the arguments. With several replicas each takes its own share of the
    batch.
    """

    def function(
        embeddings: jax.Array, params: Tree, labels: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        value = losses.proxy_anchor(embeddings, labels, params["proxies"]["kernel"], margin, alpha)
        return value, {"loss": value * labels.size}

    return function
