"""Mixup and CutMix: images of a batch mixed in pairs, and their labels with them.

The image in slot ``s`` of a batch of ``B`` is mixed with the one in slot ``B - 1 - s``, as in timm. A replica holds a
consecutive share of the slots, so the partners of its images are exactly the images of the replica opposite: one
exchange brings them, and the pairs do not depend on the number of devices. What is drawn is one decision, one share
and one box per batch, from a key that is the same on all replicas.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> images = jnp.stack([jnp.zeros((4, 4, 3)), jnp.ones((4, 4, 3))])
    >>> mix = draw(jax.random.key(0), (4, 4), mixup=0.2)
    >>> mixed = apply(mix, images, partners(images))
    >>> labels = soft_labels(mix, jnp.array([0, 1]), jnp.array([1, 0]), num_classes=2)
    >>> bool(jnp.allclose(mixed[:, 0, 0, 0], labels[:, 1]))
    True
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mix(NamedTuple):
    """How the images of a batch are mixed.

    Attributes:
        mask: float32 ``[H, W, 1]``, share of an image in its mixture, pixel by pixel.
        share: float32 ``[]``, share of its label: the mean of ``mask``.
    """

    mask: jax.Array
    share: jax.Array


def draw(
    key: jax.Array,
    size: tuple[int, int],
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    probability: float | jax.Array = 1.0,
    switch_probability: float = 0.5,
) -> Mix:
    """How a batch is mixed: by mixup, by CutMix or not at all.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018): the share is drawn from
    ``Beta(mixup, mixup)``. Yun et al., "CutMix" (ICCV 2019): a box around a uniformly drawn pixel with the share of
    ``1 - Beta(cutmix, cutmix)`` of the area comes from the partner, cut off at the borders; the share of the label is
    that of the pixels.

    Args:
        key: of the batch, the same on all replicas.
        size: height and width of the images.
        mixup: α of mixup; 0 is no mixup.
        cutmix: α of CutMix; 0 is no CutMix.
        probability: that the batch is mixed; may be a traced value.
        switch_probability: of CutMix where both have an α (timm's ``--mixup-switch-prob``).

    Raises:
        ValueError: both are 0, or one is negative.
    """
    if min(mixup, cutmix) < 0 or not (mixup or cutmix):
        raise ValueError(f"one of mixup and cutmix must be above 0 and none below, got {mixup} and {cutmix}")
    key_mixed, key_switch, key_share, key_box = jax.random.split(key, 4)
    height, width = size
    if not cutmix:
        cuts = jnp.asarray(False)
    else:
        cuts = jax.random.bernoulli(key_switch, switch_probability) if mixup else jnp.asarray(True)
    alpha = jnp.where(cuts, cutmix or 1.0, mixup or 1.0)
    share = jax.random.beta(key_share, alpha, alpha, dtype=jnp.float32)
    key_y, key_x = jax.random.split(key_box)
    box = box_mask(
        jax.random.randint(key_y, (), 0, height), jax.random.randint(key_x, (), 0, width), share, size
    )
    mask = jnp.where(cuts, box, share)
    mask = jnp.where(jax.random.bernoulli(key_mixed, probability), mask, 1.0)
    return Mix(mask[..., None], mask.mean())


def box_mask(center_y: jax.Array, center_x: jax.Array, share: jax.Array, size: tuple[int, int]) -> jax.Array:
    """CutMix's box: 0 inside, 1 outside, float32 ``[H, W]``.

    Its sides are ``sqrt(1 - share)`` of the image's, in whole pixels as in timm; what lies beyond the borders is cut
    off.

    Args:
        center_y: int ``[]``.
        center_x: int ``[]``.
        share: of the image that is kept, ``[]``.
        size: height and width.
    """
    height, width = size
    sides = jnp.sqrt(1 - share)
    tall, wide = jnp.floor(sides * height).astype(int), jnp.floor(sides * width).astype(int)
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
    inside_y = (y >= center_y - tall // 2) & (y < center_y + (tall + 1) // 2)
    inside_x = (x >= center_x - wide // 2) & (x < center_x + (wide + 1) // 2)
    return 1.0 - (inside_y & inside_x).astype(jnp.float32)


def partners(values: jax.Array, axis_name: str | None = None) -> jax.Array:
    """What stands in the opposite slots of the whole batch, ``[B, …]``.

    Args:
        values: ``[B, …]`` of this replica's slots, which follow those of the replica before it.
        axis_name: mapped axis of the replicas; None for one.
    """
    if axis_name is not None:
        count = jax.lax.axis_size(axis_name)
        if count > 1:
            opposite = [(replica, count - 1 - replica) for replica in range(count)]
            values = jax.lax.ppermute(values, axis_name, opposite)
    return values[::-1]


def apply(mix: Mix, images: jax.Array, partners: jax.Array) -> jax.Array:
    """The mixtures, ``[B, H, W, C]`` of the dtype of the images."""
    mask = mix.mask.astype(images.dtype)
    return mask * images + (1 - mask) * partners


def soft_labels(
    mix: Mix, labels: jax.Array, partners: jax.Array, *, num_classes: int, smoothing: float = 0.0
) -> jax.Array:
    """Probabilities of the classes of the mixtures, float32 ``[B, num_classes]``.

    Args:
        mix: of the batch.
        labels: int ``[B]``.
        partners: int ``[B]``, labels of the partners.
        num_classes: number of classes.
        smoothing: share spread evenly over all classes.
    """

    def smoothed(labels: jax.Array) -> jax.Array:
        return (1 - smoothing) * jax.nn.one_hot(labels, num_classes) + smoothing / num_classes

    return mix.share * smoothed(labels) + (1 - mix.share) * smoothed(partners)
