"""Tables of results as aligned text, Markdown, LaTeX, CSV and JSON; one way to write a score.

Scores are shares in files and percent with two decimals for people.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_jax.algorithms.metrics import mean_and_spread
from finetune_jax.algorithms.uncertainty import wilson_interval

Files = dict[str, str | bytes]
"""``{file name: content}``: what a report is."""


def spoken(name: str) -> str:
    """A metric's name as people write it: ``test_recall_at_1`` is ``test Recall@1``."""
    for written, shown in _SPOKEN.items():
        name = name.replace(written, shown)
    return name.replace("_", " ")


_SPOKEN = {
    "recall_at_": "Recall@",
    "map_at_r": "MAP@R",
    "mean_average_precision": "mAP",
    "top5_accuracy": "top-5 accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "cohen_kappa": "Cohen's kappa",
    "auroc": "AUROC",
    "uncalibrated_error": "calibration error without the temperature",
    "rank_mae": "MAE of ranks",
    "rmse": "RMSE",
    "_mae": " MAE",
    "_r2": " R²",
}


PREDICTION_COLUMNS = ("image", "label", "class")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells under the names of their columns.

    Attributes:
        columns: names, at least one.
        rows: as many cells each: text, numbers, or None for nothing.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[cell(value) for value in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it holds only numbers, which stand to the right."""
        return [
            all(isinstance(row[i], int | float) or row[i] is None for row in self.rows)
            for i in range(len(self.columns))
        ]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned text; numbers to the right."""
    return as_text(Table(columns, rows))


def as_text(table: Table) -> str:
    """Aligned text; numbers to the right."""
    cells, numeric = [list(table.columns), *table.cells], table.numeric
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def as_markdown(table: Table) -> str:
    """A table of GitHub-flavoured Markdown."""
    rows = [table.columns, ["---:" if right else "---" for right in table.numeric], *table.cells]
    escaped = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def as_latex(table: Table) -> str:
    """A ``tabular`` with the rules of the package booktabs."""
    letters = "".join("r" if right else "l" for right in table.numeric)
    head, *rows = [" & ".join(map(latex_text, row)) + r" \\" for row in (table.columns, *table.cells)]
    lines = [
        rf"\begin{{tabular}}{{{letters}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "′": r"$'$",
    "−": r"$-$",
    "‖": r"$\|$",
    "∇": r"$\nabla$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "η": r"$\eta$",
    "λ": r"$\lambda$",
}


def latex_text(text: str) -> str:
    """Text with the characters escaped that mean something to LaTeX, and with Greek letters as mathematics."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def percent(share: float) -> str:
    """A share as people read it: ``0.5333`` is ``53.33 %``."""
    return f"{100 * share:.2f} %"


_IN_UNITS = ("loss", "entropy", "mae", "rmse", "r2", "kappa")


def is_share(name: str) -> bool:
    """Whether a score is a share that people read in percent, by its name.

    >>> is_share("test_accuracy"), is_share("test_rmse")
    (True, False)
    """
    return not name.endswith(_IN_UNITS)


def score_text(name: str, value: float) -> str:
    """A score as people read it.

    >>> score_text("test_accuracy", 0.5), score_text("test_rmse", 0.5)
    ('50.00 %', '0.5000')
    """
    return percent(value) if is_share(name) else f"{value:.4f}"


def ends_text(name: str, ends: Sequence[float]) -> str:
    """An interval of a score.

    >>> ends_text("test_rmse", (0.5, 0.75))
    '0.5000 to 0.7500'
    """
    low, high = ends
    return between((low, high)) if is_share(name) else f"{low:.4f} to {high:.4f}"


def between(ends: tuple[float, float]) -> str:
    """An interval of shares: ``43.10 to 63.29 %``."""
    return f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f} %"


def interval_of(name: str, score: float, images: int | None) -> tuple[float, float] | None:
    """The 95 % Wilson interval of a score that is a share of images; None for other scores.

    Args:
        name: of the score, e.g. ``test_accuracy``.
        score: in [0, 1].
        images: how many were looked at; None where that is unknown.
    """
    share_of_images = (name.endswith("_accuracy") and "balanced" not in name) or "recall_at_" in name
    if not images or not share_of_images or not 0 <= score <= 1:
        return None
    return wilson_interval(score * images, images)


def with_spread(values: Sequence[float], ends: tuple[float, float] | None = None) -> str:
    """Shares as percent without its sign: mean ± deviation of several seeds, else the interval of the only one."""
    mean, spread = mean_and_spread(values)
    if len(values) > 1:
        return f"{100 * mean:.2f} ± {100 * spread:.2f}"
    return f"{100 * mean:.2f}" + ("" if ends is None else f" [{100 * ends[0]:.2f}, {100 * ends[1]:.2f}]")


def result_line(summary: Mapping[str, Any]) -> str:
    """A run in one line: its score on the test images, and how it came about."""
    name, images = summary["score"], summary["images"].get("test")
    ends = interval_of(name, summary[name], images) or summary.get("intervals", {}).get(name)
    certainty = "" if ends is None else f" of {images:,} images (95 %: {ends_text(name, ends)})"
    return (
        f"{spoken(name)} {score_text(name, summary[name])}{certainty}, epoch {summary['best_epoch']} of "
        f"{summary['epochs_trained']} chosen on {summary['selected_on']}; {summary['seconds']:.0f} s"
    )


PROBES = {
    "ridge": "a linear probe, before fine-tuning",
    "neighbours": "the nearest neighbours, before fine-tuning",
    "frozen": "the features before fine-tuning",
}
"""What the probes of ``summary.json`` are, for people."""


def probed_scores(summary: Mapping[str, Any]) -> dict[str, float]:
    """``{probe: its score}``, the one that the run is measured by; empty where nothing was probed.

    Args:
        summary: content of ``summary.json``.

    >>> probed_scores({"score": "test_accuracy", "probe": {"ridge": {"test_accuracy": 0.5}, "images": 40}})
    {'ridge': 0.5}
    """
    probes = {name: value for name, value in summary.get("probe", {}).items() if name in PROBES}
    return {name: scores[summary["score"]] for name, scores in probes.items() if summary["score"] in scores}


def comparison_table(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per run: scores in percent, epochs, passes, seconds, parameters; all runs have the same score."""
    first = next(iter(summaries.values()))
    score = first["score"]
    columns = ("accuracy", "test_balanced_accuracy", "recall_at", "map_at_r", "mean_average_precision")
    more = [
        name
        for name in first
        if name.startswith("test_")
        and name != score
        and any(word in name for word in columns)
        and "top5" not in name
    ]
    chosen = score.replace("test", "validation")
    shown = [score, *more, *([chosen] if first.get(chosen) is not None else [])]
    return table(
        [
            "scores in %",
            *(spoken(column).removeprefix("test ") for column in shown),
            "epochs",
            "seconds",
            "trained",
        ],
        [
            [
                name,
                *(f"{100 * summary[column]:.2f}" for column in shown),
                epochs_text([summary["epochs_trained"]], [summary["passes"]]),
                round(summary["seconds"]),
                f"{summary['parameters_trained'] / 1e6:.2f} M",
            ]
            for name, summary in summaries.items()
        ],
    )


def measurement_table(result: Mapping[str, Any]) -> str:
    """Scores of ``runs.evaluate``, and for classification a row per class."""
    lines = [f"{result['images']} {result['split']} images of {result['dataset']}"]
    known = result.get("intervals", {})
    # What people look for first; losses last.
    order = sorted(result["scores"].items(), key=lambda score: score[0] in ("cross-entropy", "loss"))
    for name, value in order:
        ends = interval_of(f"_{name}".replace(" ", "_"), value, result["images"]) or known.get(name)
        certainty = "" if ends is None else f" (95 %: {ends_text(name, ends)})"
        lines.append(f"{spoken(name)}: {score_text(name, value)}{certainty}")
    if "recall_per_class" in result:
        rows = [
            [
                name,
                result["images_per_class"][name],
                percent(recall),
                "  ".join(result["confused_with"][name]),
            ]
            for name, recall in result["recall_per_class"].items()
        ]
        lines += ["", table(["class", "images", "recall", "most often taken for"], rows)]
    if "per_class" in result:
        lines += ["", as_text(mappings_table("class", result["per_class"]))]
    if "groups" in result:
        lines += ["", as_text(mappings_table("group", result["groups"]))]
    return "\n".join(lines)


def measurements_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per data set: its images, and the scores with their intervals.

    >>> result = {"images": 4, "scores": {"accuracy": 0.5}, "intervals": {}}
    >>> measurements_table({"a": result, "b": result}).columns
    ['data set', 'images', 'accuracy']
    """
    names = list(dict.fromkeys(name for result in results.values() for name in result["scores"]))
    rows = []
    for data_set, result in results.items():
        cells: list[Any] = [data_set, result["images"]]
        for name in names:
            value = result["scores"].get(name)
            ends = result.get("intervals", {}).get(name)
            if value is None:
                cells.append(None)
                continue
            between_ends = (
                "" if ends is None else f" [{ends_text(name, ends).replace(' to ', ', ').removesuffix(' %')}]"
            )
            cells.append(score_text(name, value) + between_ends)
        rows.append(cells)
    return Table(["data set", "images", *map(spoken, names)], rows)


def turned(table: Table) -> Table:
    """Rows as columns: the first column gives their names.

    >>> turned(Table(["data set", "images"], [["a", 4], ["b", 5]])).rows
    [['images', '4', '5']]
    """
    names, *columns = zip(*table.cells, strict=True)
    rows = [[name, *column] for name, column in zip(table.columns[1:], columns, strict=True)]
    return Table([table.columns[0], *names], rows)


def mappings_table(name: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per name with what is known of it, such as the scores of classes or groups.

    >>> mappings_table("group", {"a": {"images": 3, "accuracy": 0.5}}).cells
    [['a', '3', '50.00 %']]
    """
    columns = list(next(iter(rows.values()), {}))
    return Table(
        [name, *map(spoken, columns)],
        [
            [row_name, *(_of_column(column, row[column]) for column in columns)]
            for row_name, row in rows.items()
        ],
    )


def _of_column(name: str, value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if value != value else score_text(name, value) if name != "threshold" else f"{value:.3f}"


def epochs_text(epochs: Sequence[int], passes: Sequence[int]) -> str:
    """Epochs trained, the mean of several runs, and in brackets with trials that were rejected where there are any."""
    trained, tried = mean_of(epochs), mean_of(passes)
    return trained if trained == tried else f"{trained} ({tried})"


def mean_of(values: Sequence[float]) -> str:
    """The mean with one digit, none where that is 0."""
    return f"{mean_and_spread(values)[0]:.1f}".removesuffix(".0")


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
