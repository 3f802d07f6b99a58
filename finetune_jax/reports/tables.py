"""Text of results: aligned tables, CSV and JSON, and the names of scores as people write them."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Files = dict[str, str | bytes]
"""``{file name: content}``: what a report is."""


def spoken(name: str) -> str:
    """A metric's name as people write it: ``test_recall_at_1`` is ``test Recall@1``."""
    return name.replace("recall_at_", "Recall@").replace("map_at_r", "MAP@R").replace("_", " ")


PREDICTION_COLUMNS = ("image", "label", "class")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned text; numbers to the right."""
    cells = [list(columns), *[[cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    numeric = [
        all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(columns))
    ]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def result_line(summary: Mapping[str, Any]) -> str:
    """A run in one line: its score on the test images, and how it came about."""
    name = summary["score"]
    return (
        f"{spoken(name)} {summary[name]:.4f} (epoch {summary['best_epoch']} of {summary['epochs_trained']}, "
        f"chosen on {summary['selected_on']}; {summary['seconds']:.0f} s)"
    )


def comparison_table(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per run: scores, epochs, passes, seconds, parameters; all runs have the same score."""
    first = next(iter(summaries.values()))
    score = first["score"]
    more = [name for name in first if name.startswith("test_") and name != score and "loss" not in name]
    chosen = score.replace("test", "validation")
    shown = [score, *more, *([chosen] if first.get(chosen) is not None else [])]
    return table(
        ["", *map(spoken, shown), "epochs", "with rejected trials", "seconds", "trained parameters"],
        [
            [
                name,
                *(summary[column] for column in shown),
                summary["epochs_trained"],
                summary["passes"],
                round(summary["seconds"]),
                summary["parameters_trained"],
            ]
            for name, summary in summaries.items()
        ],
    )


def measurement_table(result: Mapping[str, Any]) -> str:
    """Scores of ``runs.evaluate``, and for classification a row per class."""
    lines = [f"{result['images']} {result['split']} images of {result['dataset']}"]
    lines += [f"{name}: {value:.4f}" for name, value in result["scores"].items()]
    if "recall_per_class" in result:
        rows = [
            [name, result["images_per_class"][name], recall, "  ".join(result["confused_with"][name])]
            for name, recall in result["recall_per_class"].items()
        ]
        lines += ["", table(["class", "images", "recall", "most often taken for"], rows)]
    return "\n".join(lines)


def predictions_csv(names: Sequence[str], labels: Sequence[int], class_names: Sequence[str]) -> str:
    """One row ``image,label,class`` for each image: its name, and the number and name of its class."""
    rows = ([name, int(label), class_names[label]] for name, label in zip(names, labels, strict=True))
    return csv_text([PREDICTION_COLUMNS, *rows])


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of cells, the names of the columns first, as CSV with a newline after every row."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def json_text(content: Any) -> str:
    """A JSON document, indented for people."""
    return json.dumps(content, indent=2) + "\n"


def cell(value: Any) -> str:
    """A value as the text of a table's cell."""
    if value is None:
        return "–"
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return f"{value:.3g}"
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
