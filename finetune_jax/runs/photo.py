"""One photo before a run: what it is taken for, where the network looks, which training images are like it."""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from finetune_jax import data as datasets
from finetune_jax.algorithms import retrieval
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data import pixels
from finetune_jax.data.cache import Arrays
from finetune_jax.data.decode import decode_image, preprocess
from finetune_jax.data.examples import Examples, Source
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import config_of_run
from finetune_jax.models.card import read_best
from finetune_jax.reports import figures, tables
from finetune_jax.runs import evaluate, labelling
from finetune_jax.runs.explain import Explainer, Route, seen_part
from finetune_jax.runs.predict import Predictor

_SHOWN_SIDE = 640
_LIKELIEST = 5
GALLERY = 4000
"""Training images that a photo is compared with at most, evenly spread over the split."""


class Neighbour(NamedTuple):
    """A training image that is like the photo.

    Attributes:
        photo: uint8 ``[h, w, 3]``, as it was read.
        label: name of its class.
        similarity: cosine of the embeddings.
        name: of its file.
    """

    photo: np.ndarray
    label: str
    similarity: float
    name: str


class Labelled(NamedTuple):
    """A split as a run sees it.

    Attributes:
        examples: what can be read.
        places: int ``[N]``, those of the examples that could be.
        probabilities: ``[N, C]``, or numbers.
        labels: int ``[N]``, columns; of several labels and numbers float ``[N, C]``.
    """

    examples: Examples
    places: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray


class PhotoPrediction(NamedTuple):
    """What a run says of a photo.

    Attributes:
        heading: in a few words.
        chances: class, probability and whether that is what it says; empty where there are no classes.
        numbers: name and value of a regression's.
    """

    heading: str
    chances: list[tuple[str, float, bool]]
    numbers: list[tuple[str, float]]


class Viewer:
    """The best checkpoint of a run, for looking at photos one by one."""

    def __init__(self, run: Path) -> None:
        """Read it; nothing is compiled, and no training image read, before it is needed.

        Raises:
            UserError: there is no checkpoint yet, or it cannot be read.
        """
        self.run = run
        self.card, self._variables = read_best(run)
        # Images that are looked at again and again are decoded once, however the run did it.
        self.config = dataclasses.replace(config_of_run(run, FinetuneConfig), decode="cache")
        if self.config.protocol == "classification":
            self.config = dataclasses.replace(self.config, task=self.card.task)
        self.predictor = Predictor(self.card, self._variables)

    @property
    def classifies(self) -> bool:
        """Whether the run's classes are those of the images that it is for."""
        return self.config.protocol == "classification" and self.card.head == "classifier"

    def read(self, content: bytes, name: str) -> np.ndarray:
        """A photo, uint8 ``[h, w, 3]``, from an encoded file.

        Raises:
            UserError: it is no image, is damaged, or takes too much memory.
        """
        return decode_image(content, name, self.predictor.decoding)

    @property
    def explained(self) -> tuple[str, ...]:
        """Names of what Grad-CAM can be asked for one by one; none of grades, which are one scale."""
        names = self.card.class_names
        known = self.classifies and self.card.task != "ordinal"
        return names if known and not (self.card.task == "regression" and len(names) == 1) else ()

    def prediction(self, photo: np.ndarray) -> PhotoPrediction:
        """What a run that classifies says of a photo: of classes the likeliest, of grades all in their order."""
        card, values = self.card, self.predictor(photo)[0]
        if card.task == "regression":
            pairs = list(zip(card.class_names, map(float, values), strict=True))
            return PhotoPrediction(labelling.words(card, values), [], pairs if len(pairs) > 1 else [])
        order = np.argsort(-values, kind="stable")
        best = {int(order[0])}
        chance = tables.percent(float(values[order[0]])).replace(" ", "\N{NO-BREAK SPACE}")
        heading = f"{card.class_names[int(order[0])]}, {chance}"
        if card.task == "multilabel":
            best = set(np.flatnonzero(self.predictor.present(values[None])[0]).tolist())
            heading = labelling.words(card, values)
        shown = (
            sorted(order.tolist()) if card.task == "ordinal" else order[: max(_LIKELIEST, len(best))].tolist()
        )
        return PhotoPrediction(
            heading, [(card.class_names[i], float(values[i]), i in best) for i in shown], []
        )

    def maps(self, photo: np.ndarray, of_class: int | None = None) -> dict[str, np.ndarray]:
        """Grad-CAM over the photo at some blocks, ``{block: uint8 [h, w, 3]}``.

        Args:
            photo: uint8 ``[h, w, 3]``.
            of_class: number among :attr:`explained`; by default see ``Explainer.maps``.

        Raises:
            UserError: the run is not one network, or has no such class.
        """
        if of_class is not None and not 0 <= of_class < len(self.explained):
            raise UserError(f"there is no class number {of_class}")
        blocks = self._explainer.blocks
        ready = preprocess(photo, self.card.preprocessing)[None]
        heats = self._explainer.maps(ready, blocks, of_class)
        part = seen_part(self.card.preprocessing, *photo.shape[:2])
        seen = smaller(pixels.shown(photo), _SHOWN_SIDE)
        return {name: figures.heat_over(seen, heat[0], part) for name, heat in heats.items()}

    def routes(self, photo: np.ndarray) -> list[Route]:
        """Which copies of the blocks the photo takes; empty for other methods than SpotTune's."""
        if self.card.composition.get("kind") != "routed":
            return []
        return self._explainer.routes(preprocess(photo, self.card.preprocessing))

    def neighbours(self, photo: np.ndarray, k: int = 6) -> list[Neighbour]:
        """The training images whose embeddings are the most like the photo's, the most similar first.

        Raises:
            UserError: the training images are not there any more.
        """
        examples, arrays, embeddings = self._gallery
        nearest, similarities = retrieval.nearest(self.predictor.embed(photo), k, gallery=embeddings)
        neighbours = []
        for index, similarity in zip(nearest[0], similarities[0], strict=True):
            place = int(arrays.kept[index])
            # The names are those of the data set, which a retrieval network has never been told.
            of_data = dataclasses.replace(self.card, class_names=self._source.class_names)
            name = labelling.label_words(of_data, arrays.labels[index])
            neighbours.append(
                Neighbour(pixels.shown(examples.read(place)), name, float(similarity), examples.names[place])
            )
        return neighbours

    @property
    def gallery_size(self) -> tuple[int, int]:
        """Training images that photos are compared with, and how many there are."""
        return len(self._gallery[1].labels), len(self._source.splits["train"])

    def labelled(self, split: str) -> Labelled:
        """The images of a split with their labels and what the run says of them.

        Raises:
            UserError: the images are not there any more, or their classes are not those of the run.
        """
        source = self._source
        if split not in source.splits:
            raise UserError(f"{source.name} has no split {split}, only {', '.join(source.splits)}")
        examples = source.splits[split]
        arrays = self._arrays(examples, split)
        several = self.card.task in ("multilabel", "regression")
        labels = (
            evaluate.targets_of_run(arrays.labels, source, self.card)
            if several
            else evaluate.labels_of_run(arrays.labels, source, self.card.class_names)
        )
        probabilities = np.zeros((0, len(self.card.class_names)), np.float32)
        if len(labels):
            probabilities = self.predictor.of_prepared(arrays.images)
        return Labelled(examples, arrays.kept, probabilities, labels)

    @functools.cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self.card, self._variables)

    @functools.cached_property
    def _source(self) -> Source:
        return evaluate.data_of_run(self.run, self.config, silent=True, anew=False)[0]

    @functools.cached_property
    def _gallery(self) -> tuple[Examples, Arrays, np.ndarray]:
        examples = self._source.splits["train"]
        if len(examples) > GALLERY:
            examples = examples.subset(np.linspace(0, len(examples) - 1, GALLERY).round().astype(np.int64))
        arrays = self._arrays(examples, "train")
        return examples, arrays, self.predictor.of_prepared(arrays.images, embed=True)

    def _arrays(self, examples: Examples, split: str) -> Arrays:
        return datasets.materialise_split(
            self.config, examples, self.card.preprocessing, silent=True, title=f"decoding {split} images"
        )


def smaller(photo: np.ndarray, side: int) -> np.ndarray:
    """A photo uint8 ``[h, w, 3]`` of at most that many pixels on its longer side."""
    if max(photo.shape[:2]) <= side:
        return photo
    image = Image.fromarray(photo)
    image.thumbnail((side, side))
    return np.asarray(image)
