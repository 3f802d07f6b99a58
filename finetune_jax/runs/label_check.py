"""Images that a run gets wrong, those among them whose labels are probably wrong, and a table of corrections."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from finetune_jax.algorithms import label_errors
from finetune_jax.errors import UserError
from finetune_jax.models.card import Card
from finetune_jax.reports import run_result, value_page
from finetune_jax.runs.photo import Labelled

_AT_LEAST = 0.5  # more likely than all other classes together

COLUMNS = ("image", "label", "was", "split", "probability")
"""Of the table of corrections: the first two are those that ``--dataset=csv:FILE`` reads."""


class Finding(NamedTuple):
    """An image that the run takes for another class than its label.

    Attributes:
        number: of the finding, within its split.
        place: among the examples of the split.
        name: of the image.
        label: number of the class that it is labelled as.
        predicted: number of the class that it is taken for.
        label_chance: probability of the first.
        chance: probability of the second.
        suspected: whether the label is probably wrong.
    """

    number: int
    place: int
    name: str
    label: int
    predicted: int
    label_chance: float
    chance: float
    suspected: bool


def findings(split: Labelled) -> list[Finding]:
    """The images that are taken for another class, those with suspected labels first.

    Suspected are those of ``algorithms.label_errors``; the others follow by how sure the network is.
    """
    chances, labels = split.probabilities, split.labels
    if not len(labels):
        return []
    suspects = label_errors.suspects(chances, labels, at_least=_AT_LEAST)
    suggested = dict(zip(suspects.places.tolist(), suspects.suggested.tolist(), strict=True))
    predicted = chances.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    others = wrong[np.argsort(-chances[wrong].max(1, initial=0.0), kind="stable")].tolist()
    order = [*suggested, *(place for place in others if place not in suggested)]
    findings = []
    for number, place in enumerate(order):
        label, taken_for = int(labels[place]), int(suggested.get(place, predicted[place]))
        findings.append(
            Finding(
                number,
                int(split.places[place]),
                split.examples.names[int(split.places[place])],
                label,
                taken_for,
                float(chances[place, label]),
                float(chances[place, taken_for]),
                place in suggested,
            )
        )
    return findings


def by_distance(split: Labelled, card: Card) -> list[tuple[int, list[tuple[str, str]]]]:
    """The images of several labels or numbers that a run is furthest from, ``(place, lines of text)``.

    Args:
        split: of a run that learned several labels or numbers.
        card: of the run.
    """
    if card.task == "regression":
        test: run_result.Labelled | run_result.Measured = run_result.Measured(
            split.probabilities, split.labels, card.class_names
        )
    else:
        thresholds = np.array(card.thresholds or (0.5,) * len(card.class_names))
        test = run_result.Labelled(
            split.probabilities, split.labels, thresholds, card.class_names, split.probabilities
        )
    if not len(split.labels):
        return []
    return [
        (int(split.places[place]), value_page.lines_of(test, place)) for place in value_page.furthest(test)
    ]


def corrections_csv(
    findings: Sequence[Finding], chosen: Mapping[int, str], class_names: Sequence[str], split: str
) -> str:
    """The labels that somebody has changed, as CSV with the columns :data:`COLUMNS`.

    Args:
        findings: of one split.
        chosen: ``{number of a finding: name of the right class}``; those that keep their label are left out.
        class_names: of the run.
        split: name of the split.

    Raises:
        UserError: there is no such finding or class.
    """
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for number, right in sorted(chosen.items()):
        if not (0 <= number < len(findings) and right in class_names):
            raise UserError("these corrections are of another list of images; load the page again")
        finding = findings[number]
        was, predicted = class_names[finding.label], class_names[finding.predicted]
        if right != was:
            chance = f"{finding.chance:.4f}" if right == predicted else ""
            writer.writerow([finding.name, right, was, split, chance])
    return file.getvalue()
