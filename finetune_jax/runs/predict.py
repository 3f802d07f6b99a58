"""Using a finished (or running) run: its best checkpoint as a callable."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.data.decode import preprocess, read_image
from finetune_jax.models.card import Card, read_best
from finetune_jax.models.network import Variables
from finetune_jax.models.normalization import normalizer
from finetune_jax.training import evaluation

_BATCH = 32


class Predictor:
    """A trained network with its preprocessing.

    Calling it gives probabilities ``[N, num_classes]``; :meth:`embed` gives features.

    Attributes:
        class_names: of the columns.
    """

    def __init__(self, card: Card, variables: Variables) -> None:
        self.card = card
        self.class_names = card.class_names
        network = card.model(dtype=jnp.bfloat16 if card.bfloat16 else jnp.float32)
        normalize = normalizer(card.mean, card.std)
        logits = evaluation.classifier(network, normalize)
        self._variables = jax.device_put(variables)
        self._probabilities = jax.jit(lambda variables, images: jax.nn.softmax(logits(variables, images)))
        self._embed = jax.jit(evaluation.embedder(network, normalize))

    def __call__(self, images: Any) -> np.ndarray:
        """Class probabilities, float32 ``[N, num_classes]``.

        Args:
            images: a path, a uint8 array ``[h, w, 3]`` or ``[N, h, w, 3]``, or a sequence of paths and arrays.

        Raises:
            UserError: an image cannot be read.
        """
        return self._map(self._probabilities, images)

    def embed(self, images: Any) -> np.ndarray:
        """Embeddings, float32 ``[N, D]``: pooled output of the last block, image and mirror image summed."""
        return self._map(self._embed, images)

    def _map(self, function: Any, images: Any) -> np.ndarray:
        outputs = []
        for chunk in _chunks(_as_sequence(images), _BATCH):
            ready = np.stack([self._prepare(image) for image in chunk])
            filled = np.zeros((_BATCH, *ready.shape[1:]), np.uint8)
            filled[: len(ready)] = ready
            outputs.append(np.asarray(function(self._variables, filled))[: len(ready)])
        if not outputs:
            raise ValueError("no images given")
        return np.concatenate(outputs)

    def _prepare(self, image: Any) -> np.ndarray:
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"an image must be uint8 [h, w, 3], not {pixels.dtype} {pixels.shape}")
        return preprocess(pixels, self.card.preprocessing)


def load(run_directory: str | Path) -> Predictor:
    """The best checkpoint of a run as a callable from images to probabilities.

    Raises:
        UserError: the directory holds no checkpoint, or it cannot be read.
    """
    card, variables = read_best(Path(run_directory))
    return Predictor(card, variables)


def _as_sequence(images: Any) -> Sequence[Any]:
    if isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim == 3):
        return [images]
    return images


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
