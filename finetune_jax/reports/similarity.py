"""Report of similarities: targets among the reference data sets, as a table and a figure."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.reports import figures
from finetune_jax.reports.study_report import Picture, StudyReport
from finetune_jax.reports.tables import Table, json_text


def report(result: Mapping[str, Any]) -> StudyReport:
    """Targets and reference data sets by falling similarity, then the reason of each recommendation.

    Args:
        result: of ``studies.similarity.compare``.
    """
    source = result["source"]
    rows: list[tuple[float, list[str]]] = []
    for row in result["targets"]:
        low, high = row["effective_learning_rates"]
        cells = [
            row["name"],
            row["classes"],
            row["images"],
            f"{row['distance']:.3f}",
            f"{row['similarity']:.4f}",
        ]
        rows.append((row["similarity"], [*map(str, cells), f"search {low:g} to {high:g}"]))
    for name, cell in result["references"].items():
        cells = [f"({result['reference']}) {name}", "", "", "", f"{cell['similarity']:.3f}"]
        rows.append((cell["similarity"], [*cells, f"best {cell['effective_learning_rate']:g}"]))
    rows.sort(key=lambda row: -row[0])
    columns = ["data set", "classes", "images", "distance", "similarity", "effective learning rate"]
    guess = bool(result["remark"])
    reasons = [f"{row['reason']}." for row in result["targets"]]
    if guess:
        reasons.append(f"note: {result['remark']}")
    return StudyReport(
        title=f"Similarity to {source['name']}",
        parts=[
            f"source: {source['name']}, {source['classes']} classes; images of {result['image_size']} pixels",
            Table(columns, [cells for _, cells in rows]),
            "\n".join(reasons),
        ],
        pictures=[_picture(result, guess=guess)],
        data={"results.json": json_text(result)},
    )


def _picture(result: Mapping[str, Any], *, guess: bool) -> Picture:
    references = {
        name: (cell["similarity"], cell["effective_learning_rate"])
        for name, cell in result["references"].items()
    }
    targets = {
        row["name"]: (row["similarity"], *row["effective_learning_rates"]) for row in result["targets"]
    }
    figure = figures.draw_similarities(references, targets, title=result["reference"], recommended=not guess)
    caption = "Best effective learning rates of the reference data sets over their similarity to the source"
    if guess:
        caption += "; the targets have a place among them and no recommended rates, which would be a guess."
    else:
        caption += "; bars are the rates to search for the targets."
    return Picture("similarity", caption, figure)
