"""What a train step minimises: images through a network (the method's part), then a loss (the task's part).

Both parts are pure functions of one replica, put together by :func:`objective`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import losses, mixing
from finetune_jax.algorithms.augmentation import Augmentation
from finetune_jax.data.batch import Batch
from finetune_jax.devices import shares
from finetune_jax.models.network import Network
from finetune_jax.training.step import Objective, Outcome, Prepared

Tree = Any

# Beside the slots of the batch, each of which has a random stream of its own.
_FORWARD_STREAM = 0xFFFFFFFF
_MIX_STREAM = 0xFFFFFFFE
_ERASE_STREAM = 0xFFFFFFFD


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

Weights = jax.Array | None

Loss = Callable[[jax.Array, Tree, jax.Array, Weights], tuple[jax.Array, dict[str, jax.Array]]]
"""``(outputs [B, …], params, labels [B], weights [B]) → (loss [], {name: sum over the batch})``; of classifiers, labels
may also be probabilities ``[B, C]``. Weights multiply the losses of the images, of which the mean is taken over their
number; None is 1 for all."""


class Mixing(NamedTuple):
    """How batches are mixed; see ``algorithms.mixing.draw``.

    Attributes:
        num_classes: of the soft labels.
        mixup: α of mixup.
        cutmix: α of CutMix.
        probability: that a batch is mixed.
        switch_probability: of CutMix where both have an α.
        axis_name: mapped axis of the replicas; None for a single one.
    """

    num_classes: int
    mixup: float
    cutmix: float
    probability: float = 1.0
    switch_probability: float = 0.5
    axis_name: str | None = None


def objective(
    forward: Forward,
    loss: Loss,
    *,
    normalize: Callable[[jax.Array], jax.Array],
    augment: Augmentation,
    mix: Mixing | None = None,
    erase: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Objective:
    """The loss of augmented images.

    Args:
        forward: images to outputs.
        loss: outputs to the loss.
        normalize: uint8 or float images of 0 to 255 to the network's input.
        augment: of one image, before normalisation.
        mix: how images and labels are mixed, after it.
        erase: of one normalised image, ``(key, image) → image``; before images are mixed.
    """

    def prepare(batch: Batch, key: jax.Array) -> Prepared:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.slots)
        images = normalize(jax.vmap(augment)(keys, batch.images.astype(jnp.float32), batch.aspects))
        if erase is not None:
            erase_key = jax.random.fold_in(key, _ERASE_STREAM)
            images = jax.vmap(erase)(jax.vmap(jax.random.fold_in, (None, 0))(erase_key, batch.slots), images)
        labels, weights = batch.labels, batch.weights
        if mix is not None:
            images, labels, weights = _mixed(mix, jax.random.fold_in(key, _MIX_STREAM), images, batch)
        forward_key = jax.random.fold_in(key, _FORWARD_STREAM)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(forward_key, batch.slots)
        return Prepared(images, labels, keys, weights)

    def of_prepared(
        params: Tree, frozen: Tree, batch_stats: Tree, prepared: Prepared
    ) -> tuple[jax.Array, Outcome]:
        prediction = forward(params, frozen, batch_stats, prepared.images, prepared.keys)
        value, totals = loss(prediction.outputs, params, prepared.labels, prepared.weights)
        totals = {**totals, **prediction.totals, "examples": jnp.float32(len(prepared.labels))}
        return value + prediction.penalty, Outcome(prediction.batch_stats, totals)

    return Objective(prepare, of_prepared)


def _mixed(
    mix: Mixing, key: jax.Array, images: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array, Weights]:
    """Images, soft labels and weights of the mixtures."""
    drawn = mixing.draw(
        key,
        (images.shape[1], images.shape[2]),
        mixup=mix.mixup,
        cutmix=mix.cutmix,
        probability=mix.probability if batch.mix_probability is None else batch.mix_probability,
        switch_probability=mix.switch_probability,
    )
    images = mixing.apply(drawn, images, mixing.partners(images, mix.axis_name))
    weights = batch.weights
    if weights is not None:
        weights = drawn.share * weights + (1 - drawn.share) * mixing.partners(weights, mix.axis_name)
    partner_labels = mixing.partners(batch.labels, mix.axis_name)
    if batch.labels.ndim == 2:
        return images, drawn.share * batch.labels + (1 - drawn.share) * partner_labels, weights
    labels = mixing.soft_labels(drawn, batch.labels, partner_labels, num_classes=mix.num_classes)
    return images, labels, weights


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
        logits: jax.Array, params: Tree, labels: jax.Array, weights: Weights = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        del params
        example_losses = losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        if class_weights is not None:
            example_losses *= jnp.asarray(class_weights)[labels]
        example_losses = _weighted(example_losses, weights)
        correct = (logits.argmax(-1) == labels).sum(dtype=jnp.float32)
        return example_losses.mean(), {"loss": example_losses.sum(), "correct": correct}

    return function


def soft_classification(
    example_loss: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    label_smoothing: float = 0.0,
    class_weights: np.ndarray | None = None,
) -> Loss:
    """Mean of a loss of logits ``[B, C]`` and probabilities ``[B, C]``.

    An image counts as correct where the likeliest class is that of its label, or of the larger part of a mixed one.

    Args:
        example_loss: of the logits and the smoothed labels, ``[B]``.
        label_smoothing: share of the labels that is spread evenly over all classes.
        class_weights: ``[C]``, factor of an example's loss by its class, mixed like its label.
    """

    def function(
        logits: jax.Array, params: Tree, labels: jax.Array, weights: Weights = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        del params
        classes = logits.shape[-1]
        targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, classes, dtype=logits.dtype)
        smoothed = (1 - label_smoothing) * targets + label_smoothing / classes
        example_losses = example_loss(logits, smoothed)
        if class_weights is not None:
            example_losses *= targets @ jnp.asarray(class_weights)
        example_losses = _weighted(example_losses, weights)
        correct = (logits.argmax(-1) == targets.argmax(-1)).sum(dtype=jnp.float32)
        return example_losses.mean(), {"loss": example_losses.sum(), "correct": correct}

    return function


def of_examples(example_loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Loss:
    """Mean of a loss of outputs ``[B, D]`` and what they should be, ``[B]`` or ``[B, D]``.

    Args:
        example_loss: of both, ``[B]``.
    """

    def function(
        outputs: jax.Array, params: Tree, labels: jax.Array, weights: Weights = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        del params
        example_losses = _weighted(example_loss(outputs, labels), weights)
        return example_losses.mean(), {"loss": example_losses.sum()}

    return function


def _weighted(example_losses: jax.Array, weights: Weights) -> jax.Array:
    return example_losses if weights is None else example_losses * weights


def with_whole_parts(loss: Loss, shapes: Mapping[str, Any], axis_name: str) -> Loss:
    """A loss that reads parameters beside the network, which are in shares over the replicas.

    Args:
        loss: of the whole parameters.
        shapes: ``{part: tree}`` of those parts, of anything with the shapes of the whole arrays.
        axis_name: of the replicas.
    """

    def function(
        outputs: jax.Array, params: Tree, labels: jax.Array, weights: Weights = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        whole = {name: shares.gathered(params[name], shapes[name], axis_name) for name in shapes}
        return loss(outputs, {**params, **whole}, labels, weights)

    return function


def proxy_anchor(*, margin: float = 0.1, alpha: float = 32.0) -> Loss:
    """Proxy-Anchor loss of embeddings ``[B, D]``; the proxies ``[C, D]`` are ``params["proxies"]["kernel"]``.

    See ``losses.proxy_anchor`` for the arguments. With several replicas each takes its own share of the
    batch. It compares the images of a batch, so that none has a loss of its own that a weight could multiply.
    """

    def function(
        embeddings: jax.Array, params: Tree, labels: jax.Array, weights: Weights = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if weights is not None:
            raise ValueError("Proxy-Anchor has no loss of single images")
        value = losses.proxy_anchor(embeddings, labels, params["proxies"]["kernel"], margin, alpha)
        return value, {"loss": value * labels.size}

    return function
