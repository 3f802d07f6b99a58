"""Results for people: text tables, and a run's report as one HTML file."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


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
    """What ``finetune_jax.measuring`` found, as text."""
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(PREDICTION_COLUMNS)
    writer.writerows(
        [name, int(label), class_names[label]] for name, label in zip(names, labels, strict=True)
    )
    return text.getvalue()


def cell(value: Any) -> str:
    """A value as the text of a table's cell."""
    if value is None:
        return "–"
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return f"{value:.3g}"
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
