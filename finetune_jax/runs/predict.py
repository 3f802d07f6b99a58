"""Using a finished (or running) run: its best checkpoint as a callable."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.config import object_stores
from finetune_jax.data.decode import Decoding, Preprocessing, preprocess
from finetune_jax.data.image_inputs import one_by_one, pixels_of
from finetune_jax.files import working_copies
from finetune_jax.models import answers
from finetune_jax.models.card import Card, read_best
from finetune_jax.models.network import Variables
from finetune_jax.models.normalization import normalizer
from finetune_jax.training import evaluation

_BATCHES = (1, 8, 32)
"""Sizes of the batches that are compiled, each at its first use; the smallest that holds the images is taken."""


class Predictor:
    """A trained network with its preprocessing.

    Calling it gives probabilities ``[N, num_classes]``, calibrated where the run has a temperature, or the numbers of a
    regression; :meth:`top` names the most likely classes, :meth:`logits` and
    :meth:`embed` give what the probabilities are computed from.

    Everywhere, ``images`` is one image or several: paths, encoded files as ``bytes`` or file objects, Pillow images,
    arrays uint8 ``[h, w]``, ``[h, w, 1]``, ``[h, w, 3]``, ``[h, w, 4]`` or ``[N, h, w, C]`` of NumPy or JAX, or an
    iterable of these. Grey becomes RGB, transparency white.

    It may be called from several threads at once: it keeps nothing of what it is given.

    Attributes:
        card: of the checkpoint.
        class_names: of the columns.
        decoding: how files and wide grey values become pixels.
    """

    def __init__(
        self, card: Card, variables: Variables, *, views: str = "one", calibrated: bool = True
    ) -> None:
        """Take them into use.

        Args:
            card: of the checkpoint.
            variables: what it says.
            views: of every image, over which logits are averaged; one of ``config.choices.VIEWS``.
            calibrated: whether logits are divided by the temperature that was fitted to the validation images.

        Raises:
            UserError: crops are asked for, and images are no larger than the network's input.
        """
        card = card if calibrated else dataclasses.replace(card, temperature=1.0)
        self.card = card
        self._viewed = evaluation.preprocessing_for(views, card.preprocessing)
        self.class_names = card.class_names
        self.decoding: Decoding = card.preprocessing.decoding
        network = card.model(dtype=jnp.bfloat16 if card.bfloat16 else jnp.float32)
        normalize = normalizer(card.mean, card.std)
        logits = evaluation.over_views(
            evaluation.classifier(network, normalize), views, card.preprocessing.image_size
        )
        answer = answers.of_outputs(card)
        self._variables = jax.device_put(variables)
        self._logits = jax.jit(logits)
        self._probabilities = jax.jit(lambda variables, images: answer(logits(variables, images)))
        self._embed = jax.jit(evaluation.embedder(network, normalize))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the columns."""
        return self.class_names

    def __call__(self, images: Any) -> np.ndarray:
        """Class probabilities, float32 ``[N, num_classes]``; of a regression its numbers.

        Rows of ``multilabel`` do not add up to 1: every class is a question of its own.

        Args:
            images: one or several, see the class.

        Raises:
            UserError: an image cannot be read.
            TypeError: something is no image.
            ValueError: an array has another shape or type, or there is no image.
        """
        return self._map(self._probabilities, images, self._viewed)

    def logits(self, images: Any) -> np.ndarray:
        """Outputs before the softmax and the temperature, float32 ``[N, num_classes]``."""
        return self._map(self._logits, images, self._viewed)

    def labels(self, images: Any) -> list[Any]:
        """What each image is: the name of its class, a tuple of names of ``multilabel``, a number or several.

        Args:
            images: one or several, see the class.
        """
        values = self(images)
        if self.card.task == "regression":
            return [float(row[0]) if len(row) == 1 else tuple(map(float, row)) for row in values]
        if self.card.task == "multilabel":
            return [tuple(self.class_names[i] for i in np.flatnonzero(row)) for row in self.present(values)]
        return [self.class_names[i] for i in values.argmax(1)]

    def present(self, probabilities: np.ndarray) -> np.ndarray:
        """Which classes images have by their probabilities ``[N, C]``, bool ``[N, C]``: from the thresholds on."""
        thresholds = self.card.thresholds or (0.5,) * len(self.class_names)
        return probabilities >= np.asarray(thresholds, np.float32)

    def top(self, images: Any, k: int = 5) -> list[list[tuple[str, float]]]:
        """The most likely classes of each image with their probabilities, the most likely first.

        Args:
            images: one or several, see the class.
            k: how many classes; all where there are fewer.
        """
        probabilities = self(images)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, : max(k, 0)]
        return [
            [(self.class_names[i], float(row[i])) for i in indices]
            for row, indices in zip(probabilities, best, strict=True)
        ]

    def embed(self, images: Any) -> np.ndarray:
        """Embeddings, float32 ``[N, D]``: pooled output of the last block, image and mirror image summed."""
        return self._map(self._embed, images, self.card.preprocessing)

    def of_prepared(self, images: np.ndarray, *, embed: bool = False) -> np.ndarray:
        """Class probabilities, or embeddings, of images that are prepared already.

        Args:
            images: uint8 ``[N, S, S, 3]``, as ``card.preprocessing`` makes them; may be mapped from a file.
            embed: give what :meth:`embed` does.
        """
        function = self._embed if embed else self._probabilities
        return self._run(
            function, (images[i : i + _BATCHES[-1]] for i in range(0, len(images), _BATCHES[-1]))
        )

    def _map(self, function: Any, images: Any, preprocessing: Preprocessing) -> np.ndarray:
        rest = one_by_one(images)

        def batches() -> Iterator[np.ndarray]:
            while chunk := list(itertools.islice(rest, _BATCHES[-1])):
                yield np.stack(
                    [preprocess(pixels_of(image, self.decoding), preprocessing) for image in chunk]
                )

        return self._run(function, batches())

    def _run(self, function: Any, batches: Iterable[np.ndarray]) -> np.ndarray:
        outputs = []
        for ready in batches:
            size = next(size for size in _BATCHES if size >= len(ready))
            filled = np.zeros((size, *ready.shape[1:]), np.uint8)
            filled[: len(ready)] = ready
            outputs.append(np.asarray(function(self._variables, filled))[: len(ready)])
        if not outputs:
            raise ValueError("no images given")
        return np.concatenate(outputs)


def load(run_directory: str | Path, *, views: str = "one", calibrated: bool = True) -> Predictor:
    """The best checkpoint of a run as a callable from images to probabilities.

    Args:
        run_directory: of the run, or its address on an object store.
        views: of every image, over which logits are averaged: ``one``, ``mirror``, ``five_crops`` or ``ten_crops``.
        calibrated: whether logits are divided by the temperature that was fitted to the validation images, so that
            probabilities are as often right as they say; runs without validation images or from before have none.

    Raises:
        UserError: the directory holds no checkpoint, or it cannot be read.

    Examples:
        >>> import tempfile
        >>> import finetune_jax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     settings = {"method": "feature_extractor", "epochs": 1, "image_size": 8, "report": False}
        ...     run = finetune_jax.fit("digits", workdir=folder, **settings)
        ...     classify = finetune_jax.load(folder)
        >>> classify.class_names
        ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    if isinstance(run_directory, str) and object_stores.is_read(run_directory):
        run_directory = working_copies.read(run_directory)
    card, variables = read_best(Path(run_directory))
    return Predictor(card, variables, views=views, calibrated=calibrated)
