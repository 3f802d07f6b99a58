"""Report of the Visual Decathlon: Table 3 of SpotTune's paper with a row of ours."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.algorithms import decathlon
from finetune_jax.algorithms.decathlon import DATASETS, TABLE_3
from finetune_jax.reports.study_report import StudyReport
from finetune_jax.reports.tables import Table, json_text

_PRINTED = ("ImNet", "Airc.", "C100", "DPed", "DTD", "GTSR", "Flwr", "OGlt", "SVHN", "UCF")
_WHERE = (
    "ours: accuracy on the validation split, which is not trained on, wherever the test split has no labels; the "
    "published numbers are of the test split, whose labels only the challenge's server has"
)


def report(result: Mapping[str, Any]) -> StudyReport:
    """The published rows and ours, with the score of what was run, and what is missing.

    Args:
        result: of ``studies.decathlon.run``.
    """
    accuracies = {entry["dataset"]: entry["accuracy"] for entry in result["entries"]}
    measured = [name for name in DATASETS if accuracies.get(name) is not None]
    of_some = 0 < len(measured) < len(DATASETS)
    rows = []
    for method, row in TABLE_3.items():
        published = dict(zip(DATASETS, row.accuracies, strict=True))
        some = [decathlon.score_of({name: published[name] for name in measured})] if of_some else []
        rows.append(_row(method, row.parameters, row.accuracies, [float(row.score), *some]))
    score = result["score"]
    scores = [None, score] if of_some else [score if measured else None]
    ours = [accuracies.get(name) for name in DATASETS]
    rows.append(_row(f"ours: {result['method']}", result["multiple"], ours, scores))
    columns = ["", "#par", *_PRINTED, "Score", *["of those run"] * of_some]
    lines = [_WHERE]
    diverged = [entry["dataset"] for entry in result["entries"] if entry["accuracy"] is None]
    if diverged:
        lines.append(f"training diverged on {', '.join(diverged)}")
    if result["missing"]:
        lines.append(
            f"missing: {', '.join(result['missing'])}; the score of ours is over the other "
            f"{len(measured)} of {len(DATASETS)}"
        )
    return StudyReport(
        title="Visual Decathlon",
        parts=[Table(columns, rows), "\n".join(lines)],
        data={"decathlon.json": json_text(result)},
        name="decathlon",
    )


def _row(
    name: str, multiple: float | None, accuracies: Sequence[float | None], scores: Sequence[float | None]
) -> list[str]:
    parameters = "–" if multiple is None else f"{multiple:.3g}x"
    return [
        name,
        parameters,
        *["–" if value is None else f"{value:.2f}" for value in accuracies],
        *["–" if value is None else f"{value:.0f}" for value in scores],
    ]
