"""Results of ``studies.similarity`` for people: one table with the reference data sets, and a figure."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.reports import figures
from finetune_jax.reports.tables import Files, json_text, table


def files(result: Mapping[str, Any]) -> Files:
    """``results.json``, ``results.txt`` and ``similarity.png`` of a result of ``studies.similarity``."""
    references = {
        name: (cell["similarity"], cell["effective_learning_rate"])
        for name, cell in result["references"].items()
    }
    targets = {
        row["name"]: (row["similarity"], *row["effective_learning_rates"]) for row in result["targets"]
    }
    return {
        "results.json": json_text(result),
        "results.txt": text(result) + "\n",
        "similarity.png": figures.similarities(references, targets, title=result["reference"]),
    }


def text(result: Mapping[str, Any]) -> str:
    """Targets and reference data sets by falling similarity, then the reason of each recommendation."""
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
    lines = [
        f"source: {source['name']}, {source['classes']} classes; images of {result['image_size']} pixels",
        "",
        table(columns, [cells for _, cells in rows]),
        "",
        *[f"{row['reason']}." for row in result["targets"]],
    ]
    if result["remark"]:
        lines.append(f"note: {result['remark']}")
    return "\n".join(lines)
