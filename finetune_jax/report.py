"""Results for people: text tables, and a run's report as one HTML file."""

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.metrics import spoken

PREDICTION_COLUMNS = ("image", "label", "class")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned text; numbers to the right."""
    cells = [list(columns), *[[_cell(value) for value in row] for row in rows]]
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


def run_page(
    summary: Mapping[str, Any],
    flags: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    figures: Mapping[str, bytes],
) -> str:
    """A run's report: result, curves, confusion matrix, epochs and flags, one self-contained HTML page.

    Args:
        summary: of ``summary.json``.
        flags: of ``flags.json``.
        rows: of ``metrics.csv``.
        figures: caption to PNG.
    """
    facts = [
        (name.replace("_", " "), _cell(value))
        for name, value in summary.items()
        if isinstance(value, int | float | str)
    ]
    facts += [("images", ", ".join(f"{split} {count}" for split, count in summary["images"].items()))]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in summary["notes"])
    pictures = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture).decode()}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for caption, picture in figures.items()
    )
    title, line = f"{summary['method']} on {summary['dataset']}", result_line(summary)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; font-size: 13px }} td, th {{ padding: .2rem .7rem; text-align: left }}
tr:nth-child(even) {{ background: #f4f6f8 }} figure {{ margin: 1.5rem 0 }} img {{ max-width: 100% }}
.result {{ font-size: 1.3rem }} .scroll {{ overflow-x: auto }}
</style>
<h1>{html.escape(title)}</h1>
<p class="result">{html.escape(line[0].upper() + line[1:])}</p>
<ul>{notes}</ul>
{pictures}
<h2>Result</h2>{_html_table(("", ""), facts)}
<h2>Epochs</h2><div class="scroll">{_html_table(list(rows[0]), [_short(row) for row in rows])}</div>
<h2>Flags</h2>{_html_table(("flag", "value"), [(f"--{name}", str(value)) for name, value in flags.items()])}
</html>
"""


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _short(row: Mapping[str, str]) -> list[str]:
    return [f"{float(value):.4g}" if "." in value else value for value in row.values()]


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return f"{value:.3g}"
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
