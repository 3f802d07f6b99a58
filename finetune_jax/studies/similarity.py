"""How like the source of some weights several data sets are, beside Table 4 of "Rethinking the Hyperparameters"."""

from collections.abc import Sequence
from typing import Any

from finetune_jax.runs import references
from finetune_jax.runs.domains import Domain
from finetune_jax.runs.references import References


def compare(source: Domain, targets: Sequence[Domain], known: References) -> dict[str, Any]:
    """The targets by falling similarity.

    Returns:
        JSON: ``source``, ``image_size``, ``targets`` (see ``references.judge``), ``reference`` with its ``references``
        (``{data set: {"similarity", "effective_learning_rate"}}``), and a ``remark``.
    """
    judged = [references.judge(source, target, known) for target in targets]
    return {
        "source": {"name": source.name, "classes": len(source.weights), "images": source.images},
        "image_size": targets[0].image_size,
        "targets": sorted(judged, key=lambda row: -row["similarity"]),
        "reference": known.name,
        "references": {name: cell._asdict() for name, cell in known.cells.items()},
        "remark": known.remark,
    }
