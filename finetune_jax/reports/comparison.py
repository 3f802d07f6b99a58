"""Tables and figure of methods that were compared."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_jax.algorithms.metrics import is_tie, mean_and_spread
from finetune_jax.reports import figures
from finetune_jax.reports.study_report import Picture
from finetune_jax.reports.tables import Table, epochs_text, interval_of, spoken, with_spread

Entries = Sequence[Mapping[str, Any]]
"""Of ``studies.comparison.tested``."""


def methods_table(entries: Entries) -> Table:
    """One row per method: the chosen rate, test scores in percent, what they cost.

    With several seeds the best method is marked, and those within its spread as ties with it; with a single one, which
    cannot tell methods apart, the highest score is, and its interval stands beside it.
    """
    score = entries[0]["score"]
    shown = [score, *[name for name in compared(entries[0]["test"]) if name != score]]
    marks = _marks(entries)
    rows = [
        [
            entry["name"],
            f"{entry['rate']:g}{' (edge)' if entry['at_edge'] else ''}",
            *[_score(entry, name) for name in shown],
            epochs_text(entry["epochs"], entry["passes"]),
            f"{mean_and_spread(entry['seconds'])[0]:.0f}",
            mark,
        ]
        for entry, mark in zip(entries, marks, strict=True)
    ]
    rejected = any(entry["epochs"] != entry["passes"] for entry in entries)
    epochs = "epochs (with rejected trials)" if rejected else "epochs"
    return Table(
        ["method", "rate", *[f"{spoken(name)}, %" for name in shown], epochs, "seconds", "remark"], rows
    )


def tried_table(entries: Entries) -> Table:
    """Validation score of every method at every starting rate; the chosen one is marked."""
    rates = sorted({tried["rate"] for entry in entries for tried in entry["tried"]})
    rows = []
    for entry in entries:
        validation = {tried["rate"]: tried["validation"] for tried in entry["tried"]}
        cells = []
        for rate in rates:
            scores = validation.get(rate)
            text = "–" if scores is None else "diverged" if None in scores else with_spread(scores)
            cells.append(text + (" *" if rate == entry["rate"] else ""))
        rows.append([entry["name"], *cells])
    return Table(["validation score in % at the rate", *[f"{rate:g}" for rate in rates]], rows)


def methods_picture(entries: Entries) -> Picture:
    """All seeds of every method, by the scores that methods are compared by."""
    metrics = list(dict.fromkeys((entries[0]["score"], *compared(entries[0]["test"]))))
    scores = {
        spoken(metric): {entry["name"]: [100 * value for value in entry["test"][metric]] for entry in entries}
        for metric in metrics
    }
    intervals = {}
    for metric in metrics:
        ends = {entry["name"]: _interval(entry, metric) for entry in entries}
        known = {name: (100 * pair[0], 100 * pair[1]) for name, pair in ends.items() if pair is not None}
        if known:
            intervals[spoken(metric)] = known
    caption = "Test scores of every seed; the mean where there are several."
    if intervals:
        caption += (
            " The line is the 95 % Wilson interval, how far chance in the choice of test images reaches."
        )
    figure = figures.draw_compare_methods(scores, intervals=intervals, unit="%")
    return Picture("methods", caption, figure)


def uncertainty_note(entries: Entries) -> str:
    """What differences in the table are worth."""
    seeds = min(len(entry["test"][entry["score"]]) for entry in entries)
    if seeds > 1:
        return (
            "± is the standard deviation over seeds; a method whose mean is within the larger of both deviations of "
            "the best one's is a tie with it."
        )
    images = entries[0].get("test_images")
    note = (
        "One seed of some methods or of all: the highest score is marked, which need not be the best method"
    )
    if not images:
        return f"{note}."
    point = f"{100 / images:.2f} points"
    return f"{note}. One of the {images:,} test images is {point}; brackets are 95 % Wilson intervals."


def compared(names: Iterable[str]) -> list[str]:
    """The test scores by which methods are compared, of all names."""
    return [name for name in names if "test_recall" in name or name in ("test_accuracy", "test_map_at_r")]


def _marks(entries: Entries) -> list[str]:
    score = entries[0]["score"]
    means = [mean_and_spread(entry["test"][score])[0] for entry in entries]
    best = entries[max(range(len(entries)), key=means.__getitem__)]
    several = all(len(entry["test"][score]) > 1 for entry in entries)
    marks = []
    for entry, mean in zip(entries, means, strict=True):
        if not several:
            mark = "highest" if mean == max(means) else ""
        elif entry is best:
            mark = "best"
        else:
            mark = "tie" if is_tie(entry["test"][score], best["test"][score]) else ""
        diverged = f"({entry['diverged']} diverged)" if entry["diverged"] else ""
        marks.append(f"{mark} {diverged}".strip())
    return marks


def _score(entry: Mapping[str, Any], name: str) -> str:
    return with_spread(entry["test"][name], _interval(entry, name))


def _interval(entry: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Of a single seed; several show their spread."""
    values = entry["test"][name]
    return interval_of(name, values[0], entry.get("test_images")) if len(values) == 1 else None
