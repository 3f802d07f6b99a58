"""A batch of images as a train step sees it."""

from typing import NamedTuple

import jax


class Batch(NamedTuple):
    """One replica's share of a batch.

    Attributes:
        images: uint8 ``[B, H, W, C]``.
        labels: int32 ``[B]``, or float32 ``[B, D]`` where images have several labels or numbers.
        slots: int32 ``[B]``, place of each example in the batch over all replicas; random draws of an example
            depend on it and not on the replica.
        aspects: float32 ``[B]``, width over height of the images before they were stretched to squares; None where
            that is not to be undone.
        mix_probability: float32 ``[]``, the probability with which the batch is mixed; None is as configured.
        weights: float32 ``[B]``, factors of the losses of the images; None where all count alike.
    """

    images: jax.Array
    labels: jax.Array
    slots: jax.Array
    aspects: jax.Array | None = None
    mix_probability: jax.Array | None = None
    weights: jax.Array | None = None
