"""Data sets whose best effective learning rates are known, and what they recommend for another one."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_jax.algorithms import domain_similarity, hyperparameters
from finetune_jax.algorithms.hyperparameters import Reference
from finetune_jax.errors import DAMAGE, UserError, readable
from finetune_jax.files import readers
from finetune_jax.runs.domains import Domain

_COLUMN_OF = {
    "resnet101": "resnet101",
    "resnet101v2": "resnet101",
    "densenet121": "densenet121",
    "mobilenet": "mobilenet",
}
"""The network of Table 4 that an architecture of ours is."""


@dataclasses.dataclass(frozen=True)
class References:
    """Reference data sets in the features of one network.

    Attributes:
        name: of the column of Table 4, ``SOURCE/NETWORK``, or the file.
        cells: similarity and best rate by data set.
        remark: what the reader must know, empty where there is nothing.
    """

    name: str
    cells: Mapping[str, Reference]
    remark: str = ""


def load(reference: str, architecture: str) -> References:
    """What ``--reference`` names.

    Args:
        reference: ``auto``, ``SOURCE/NETWORK`` of Table 4, or a JSON file ``{data set: {"similarity": …,
            "effective_learning_rate": …}}`` made with the same network.
        architecture: of the network that gives the features.

    Raises:
        UserError: there is no such column, or the file is no such table.
    """
    if reference.endswith(".json"):
        return References(reference, _read(Path(reference).expanduser(), reference))
    columns = {"/".join(column): cells for column, cells in hyperparameters.TABLE_4.items()}
    column = _COLUMN_OF.get(architecture, "")
    name = f"imagenet/{column or 'resnet101'}" if reference == "auto" else reference
    if name not in columns:
        raise UserError(
            f"--reference={reference} is not known; give auto, FILE.json, or {', '.join(columns)}"
        )
    network = name.partition("/")[2]
    remark = ""
    if network != column:
        remark = (
            f"the similarities of Table 4 are those of a {network}; in the features of this {architecture} all "
            "distances have another scale, so the nearest data set is no more than a guess: give --reference=FILE.json "
            "with data sets of your own, or choose among all rates on validation"
        )
    return References(name, columns[name], remark)


def judge(source: Domain, target: Domain, references: References) -> dict[str, Any]:
    """How like the source a target is, and the effective learning rates to search for it (section 3.3).

    Returns:
        JSON: ``name``, ``classes`` and ``images`` of the target, ``distance``, ``similarity``, the nearest
        ``reference`` with its ``reference_similarity``, its best ``effective_learning_rate``, the range around it
        (``effective_learning_rates``), and the ``reason`` in a sentence.
    """
    distance = source.distance(target)
    similarity = float(domain_similarity.similarity(distance))
    if not 0 < similarity <= 1:
        raise UserError(
            f"{target.name} is at distance {distance:g} from {source.name}, which leaves no similarity to compare"
        )
    advice = hyperparameters.recommend_among(references.cells, similarity)
    low, high = advice.effective_learning_rates
    reason = (
        f"the similarity of {target.name} to {source.name} is {similarity:.4f}; of {references.name}, "
        f"{advice.reference} is nearest ({advice.similarity:.3f}), where {advice.effective_learning_rate:g} is the "
        f"best effective learning rate: search {low:g} to {high:g}"
    )
    return {
        "name": target.name,
        "classes": len(target.weights),
        "images": target.images,
        "distance": distance,
        "similarity": similarity,
        "reference": advice.reference,
        "reference_similarity": advice.similarity,
        "effective_learning_rate": advice.effective_learning_rate,
        "effective_learning_rates": [low, high],
        "reason": reason,
    }


def _read(file: Path, flag: str) -> dict[str, Reference]:
    try:
        content = readers.json_object(file, "give a JSON file of reference data sets")
    except UserError as error:
        raise UserError(f"--reference={readable(flag)} is no JSON file that can be read: {error}") from error
    try:
        cells = {
            str(name): Reference(float(cell["similarity"]), float(cell["effective_learning_rate"]))
            for name, cell in content.items()
        }
    except DAMAGE:
        cells = {}
    if not cells or not all(0 < s <= 1 and 0 < rate < math.inf for s, rate in cells.values()):
        raise UserError(
            f'--reference={flag}: give {{"DATA SET": {{"similarity": 0.85, "effective_learning_rate": 0.01}}, …}} with '
            "similarities in (0, 1] and rates above 0"
        )
    return cells
