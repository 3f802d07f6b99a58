"""What a run says of images, line by line."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from finetune_jax.algorithms.uncertainty import normalised_entropy
from finetune_jax.errors import UserError
from finetune_jax.models.card import Card
from finetune_jax.reports import predictions
from finetune_jax.runs.predict import Predictor


def words(card: Card, values: np.ndarray) -> str:
    """What a run says of one image, in a few words.

    Args:
        card: of the run.
        values: probabilities or numbers, ``[C]``.
    """
    if card.task == "regression":
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(card.class_names, values, strict=True))
    if card.task == "multilabel":
        present = values >= np.array(card.thresholds or (0.5,) * len(values))
        return label_words(card, present.astype(np.float32))
    return f"{card.class_names[int(values.argmax())]} {100 * values.max():.0f} %"


def label_words(card: Card, label: np.ndarray) -> str:
    """A label as it is: the name of a class number ``[]``, the names of several classes or numbers ``[C]``."""
    if card.task == "regression":
        return words(card, label)
    if card.task == "multilabel":
        return ", ".join(card.class_names[i] for i in np.flatnonzero(label > 0.5)) or "none of the labels"
    return card.class_names[int(label)]


class Labelling:
    """Lines of text for images, by the task of a run."""

    def __init__(
        self,
        predictor: Predictor,
        *,
        format: str = "table",
        top: int = 0,
        threshold: float | None = None,
        uncertainty: bool = False,
    ) -> None:
        """Say how.

        Args:
            predictor: of the run.
            format: one of ``predictions.FORMATS``.
            top: most probable labels per image; 0 is 3 in a table, 1 elsewhere, and all that an image has where it has
                any number.
            threshold: below which an image is none of the classes; of several labels that of every class.
            uncertainty: whether to give it too.

        Raises:
            UserError: numbers are predicted, which have no probabilities.
        """
        task = predictor.card.task
        if task == "regression":
            for flag, value in (
                ("threshold", threshold),
                ("top", top or None),
                ("uncertainty", uncertainty or None),
            ):
                if value is not None:
                    raise UserError(f"--{flag} is for labels, and the run predicts numbers; leave it out")
        self._predictor, self._format = predictor, format
        self._several = task == "multilabel" and not top
        self._top = min(top or (3 if format == "table" else 1), len(predictor.class_names))
        self._threshold, self._uncertainty = threshold, uncertainty

    @property
    def header(self) -> str:
        """What comes before the first image."""
        if self._predictor.card.task == "regression":
            return predictions.number_header(self._format, self._predictor.class_names)
        return predictions.header(
            self._format, self._top, uncertainty=self._uncertainty, several=self._several
        )

    def lines(self, names: Sequence[str], images: Sequence[Any]) -> Iterator[str]:
        """A line per image.

        Args:
            names: of the images.
            images: see ``Predictor``.
        """
        values = self._predictor(images)
        if self._predictor.card.task == "regression":
            for name, row in zip(names, values, strict=True):
                yield predictions.number_line(
                    predictions.Numbers(name, self._predictor.class_names, row), self._format
                )
            return
        of_several = self._predictor.card.task == "multilabel"
        undecided = normalised_entropy(values, several=of_several) if self._uncertainty else None
        for place, (name, row) in enumerate(zip(names, values, strict=True)):
            prediction = self._prediction(name, row, None if undecided is None else float(undecided[place]))
            yield predictions.line(prediction, self._format)

    def _prediction(self, name: str, row: np.ndarray, uncertainty: float | None) -> predictions.Prediction:
        class_names = self._predictor.class_names
        order = np.argsort(-row, kind="stable")
        if self._several:
            present = (
                self._predictor.present(row[None])[0] if self._threshold is None else row >= self._threshold
            )
            order = order[present[order]]
        else:
            order = order[: self._top]
        labels, chances = [class_names[i] for i in order], [float(row[i]) for i in order]
        known = self._several or self._threshold is None or chances[0] >= self._threshold
        return predictions.Prediction(name, labels, chances, uncertainty, known, self._several)
