"""Grad-CAM: where in an image a block finds what speaks for a score.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV 2017);
equation numbers are theirs. A block's channels are weighted with the mean gradient of a score with respect to
them, and what they add up to is kept where it is positive::

    maps = grad_cam(network, variables, images, "block_16")                      # of the class predicted
    maps = grad_cam(network, variables, images, "block_16", logit_of(labels))    # of a given class
    maps = grad_cams(network, variables, images, ("block_01", "block_08", "block_16"))

Under ``jax.jit`` a score is made within the compiled function, so that classes and embeddings may be arguments::

    compiled = jax.jit(lambda variables, images, labels: grad_cam(
        network, variables, images, "block_16", logit_of(labels)))

The gradient weighs channels, not places: a place that the score ignores shows up too where the same channels
answer to it.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from finetune_jax.models.network import Network

Score = Callable[[Network, Mapping[str, Mapping[str, Any]], jax.Array], jax.Array]
"""``(network, variables, output of its last block [B, h, w, C]) → score of each image, [B]``.

The score of an image depends on that image alone; a map does not change if it is multiplied by a positive
number.
"""


def predicted_logit(
    network: Network, variables: Mapping[str, Mapping[str, Any]], features: jax.Array
) -> jax.Array:
    """Score: the largest logit, that is the logit of the class predicted.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import grad_cam, models
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
        >>> variables = network.init(jax.random.key(1), images)
        >>> maps = grad_cam.grad_cam(network, variables, images, "block_02", grad_cam.predicted_logit)
        >>> maps.shape
        (2, 4, 4)
    """
    logits, _ = network.run(("head",), variables, features)
    return _of_class(logits, logits.argmax(1))


def logit_of(classes: ArrayLike) -> Score:
    """Score: the logit (before the softmax, as in the paper) of a given class.

    Args:
        classes: int ``[B]``, or ``[]`` for the same class in every image.

    Raises:
        ValueError: when the score is taken, if the network has no such class.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import grad_cam, models
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
        >>> variables = network.init(jax.random.key(1), images)
        >>> maps = grad_cam.grad_cam(network, variables, images, "block_02", grad_cam.logit_of([0, 3]))
        >>> maps.shape
        (2, 4, 4)
    """

    def score(network: Network, variables: Mapping[str, Mapping[str, Any]], features: jax.Array) -> jax.Array:
        logits, _ = network.run(("head",), variables, features)
        count = logits.shape[1]
        # Out of range, JAX would read another class or give a gradient of 0, silently. A traced class cannot
        # be looked at.
        if not isinstance(classes, jax.core.Tracer):
            absent = np.setdiff1d(np.asarray(classes), np.arange(count))
            if absent.size:
                raise ValueError(f"classes must be from 0 to {count - 1}, got {absent.tolist()}")
        return _of_class(logits, jnp.broadcast_to(jnp.asarray(classes), logits.shape[:1]))

    return score


def summed_logits(
    network: Network, variables: Mapping[str, Mapping[str, Any]], features: jax.Array
) -> jax.Array:
    """Score: the sum of all logits; of a head that asks of each grade whether it is exceeded, what speaks for more.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import grad_cam, models
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
        >>> variables = network.init(jax.random.key(1), images)
        >>> grad_cam.grad_cam(network, variables, images, "block_02", grad_cam.summed_logits).shape
        (2, 4, 4)
    """
    logits, _ = network.run(("head",), variables, features)
    return logits.sum(1)


def embedding_norm(
    network: Network, variables: Mapping[str, Mapping[str, Any]], features: jax.Array
) -> jax.Array:
    """Score: the squared norm of the embedding, for networks whose classes are not those of the images.

    A retrieval network is tested on classes that its classifier has never seen, so no logit means anything.
    The squared norm is the image's similarity with itself, see `similarity_to`: the map of the last block
    shows where the features resemble those of the whole image, without need of a second one.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import grad_cam, models
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
        >>> variables = network.init(jax.random.key(1), images)
        >>> maps = grad_cam.grad_cam(network, variables, images, "block_03", grad_cam.embedding_norm)
        >>> bool((maps.max((1, 2)) <= 1).all())
        True
    """
    return jnp.square(network.pool(variables, features)).sum(1)


def similarity_to(embeddings: ArrayLike) -> Score:
    """Score: the inner product of the embedding with that of another image.

    Where one image resembles another, as in Stylianou et al., "Visualizing Deep Similarity Networks" (WACV
    2019): at the last block the map is each place's share of the cosine similarity, if positive. The norm of
    the image's own embedding counts as a constant, as there: it is a positive factor, which no map depends
    on, while its derivative would take away what both images have in common, and all there is for two equal
    images.

    Args:
        embeddings: ``[B, C]``, one per image, or ``[C]`` for all; as ``network.embed`` gives them, of any
            length.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import grad_cam, models
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
        >>> variables = network.init(jax.random.key(1), images)
        >>> other = network.embed(variables, images[:1])
        >>> grad_cam.grad_cam(network, variables, images, "block_03", grad_cam.similarity_to(other[0])).shape
        (2, 2, 2)
    """

    def score(network: Network, variables: Mapping[str, Mapping[str, Any]], features: jax.Array) -> jax.Array:
        image_embeddings, other = network.pool(variables, features), jnp.asarray(embeddings, jnp.float32)
        if other.shape not in (image_embeddings.shape, image_embeddings.shape[1:]):
            raise ValueError(
                f"embeddings must have the shape {image_embeddings.shape} or {image_embeddings.shape[1:]}, "
                f"got {other.shape}"
            )
        return (image_embeddings * other).sum(1)

    return score


def grad_cam(
    network: Network,
    variables: Mapping[str, Mapping[str, Any]],
    images: jax.Array,
    block: str,
    score: Score = predicted_logit,
) -> jax.Array:
    """Where ``block`` finds what speaks for ``score``, Eq. 1–2.

    Args:
        network: any, whole or truncated (`pruning.truncate`).
        variables: of all its parts.
        images: ``[B, H, W, C]``, normalised, float32.
        block: name of a block, or ``stem``.
        score: what is to be explained, by default the logit of the class predicted.

    Returns:
        ``[B, h, w]`` float32 in [0, 1], of the size of the block's output, for tokens of the grid of patches. Each
        map is divided by its own maximum, so that 0 still means "nothing in favour"; a map without anything in favour
        is 0 everywhere. Where a class token alone is read from the last block, its map is of the tokens it reads.

    Raises:
        ValueError: there is no such block, its output is no ``[B, h, w, C]``, or the score is no ``[B]``.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import grad_cam, models
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
        >>> variables = network.init(jax.random.key(1), images)
        >>> maps = grad_cam.grad_cam(network, variables, images, "block_02")
        >>> maps.shape, bool((maps >= 0).all() and (maps <= 1).all())
        ((2, 4, 4), True)
    """
    return grad_cams(network, variables, images, (block,), score)[block]


def grad_cams(
    network: Network,
    variables: Mapping[str, Mapping[str, Any]],
    images: jax.Array,
    blocks: Sequence[str],
    score: Score = predicted_logit,
) -> dict[str, jax.Array]:
    """`grad_cam` at several blocks for one forward and one backward pass.

    The backward pass ends at the lowest of the blocks.

    Args:
        network: any, whole or truncated.
        variables: of all its parts.
        images: ``[B, H, W, C]``, normalised, float32.
        blocks: names, in any order.
        score: what is to be explained, by default the logit of the class predicted.

    Returns:
        ``{block: [B, h, w]}`` in the order of ``blocks``, see `grad_cam`.

    Raises:
        ValueError: ``blocks`` is empty, or as in `grad_cam`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import grad_cam, models
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
        >>> variables = network.init(jax.random.key(1), images)
        >>> maps = grad_cam.grad_cams(network, variables, images, ("block_01", "block_03"))
        >>> {block: map.shape for block, map in maps.items()}
        {'block_01': (2, 8, 8), 'block_03': (2, 2, 2)}
    """
    parts = network.part_names[:-1]
    unknown = [name for name in blocks if name not in parts]
    if unknown or not blocks:
        raise ValueError(f"blocks must be out of {', '.join(parts)}, got {', '.join(unknown) or 'none'}")

    def run(names: Sequence[str], x: jax.Array) -> jax.Array:
        return network.run(names, variables, x)[0]

    def scores(names: Sequence[str], x: jax.Array) -> jax.Array:
        return score(network, variables, run(names, x))

    end_of = {name: _end(network, name) for name in blocks}
    ends = sorted(set(end_of.values()))
    output = run(parts[: ends[0]], images)
    outputs, pullbacks = [output], []
    for begin, end in itertools.pairwise(ends):
        output, pullback = jax.vjp(functools.partial(run, parts[begin:end]), output)
        outputs.append(output)
        pullbacks.append(pullback)
    values, pullback = jax.vjp(functools.partial(scores, parts[ends[-1] :]), output)
    pullbacks.append(pullback)
    if values.shape != images.shape[:1]:
        raise ValueError(f"the score must be one number per image, got the shape {values.shape}")

    # Images do not influence each other in evaluation mode, so the gradient of the sum is that of each.
    gradient = jnp.ones_like(values)
    maps = {}
    while ends:
        (gradient,) = pullbacks.pop()(gradient)
        end = ends.pop()
        maps[end] = _map(parts[end - 1], *(_grid(network, x) for x in (outputs.pop(), gradient)))
    return {name: maps[end_of[name]] for name in blocks}


def _end(network: Network, name: str) -> int:
    """How many parts run before the features that a block's map is made of: up to the block, as a rule.

    A class token alone goes from the last block of a transformer to the head, so nothing depends on the other tokens
    there; the block's map is of the tokens that it reads.
    """
    ends_in_token = network.tokens is not None and network.options.pool == "token"
    return network.part_names.index(name) + (not (ends_in_token and name == network.block_names[-1]))


def _grid(network: Network, x: jax.Array) -> jax.Array:
    """The patches among tokens ``[B, S, C]`` as ``[B, h, w, C]``; anything else as it is."""
    if network.tokens is None:
        return x
    side = network.tokens.side
    return x[:, network.tokens.prefix :].reshape(len(x), side, side, -1)


def _map(name: str, output: jax.Array, gradient: jax.Array) -> jax.Array:
    """The normalised map ``[B, h, w]`` of an output ``[B, h, w, C]`` and the score's gradient by it."""
    if output.ndim != 4:
        raise ValueError(f"Grad-CAM needs an output [B, h, w, C], but that of {name} is {output.shape}")
    weights = gradient.astype(jnp.float32).mean((1, 2), keepdims=True)
    summed = jax.nn.relu((weights * output).sum(3))
    largest = summed.max((1, 2), keepdims=True)
    return summed / jnp.where(largest == 0, 1, largest)


def _of_class(logits: jax.Array, classes: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
