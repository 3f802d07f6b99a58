"""Tables of comparisons of methods."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_jax.algorithms.metrics import is_tie, mean_and_spread
from finetune_jax.reports.tables import spoken, table


def methods_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """One row per method: the chosen rate, test scores with their spread, what they cost.

    A method whose first score is within the spread of the best one's is marked as a tie with it.
    """
    names = list(entries[0]["test"])
    score = entries[0]["score"]
    shown = [score, *[name for name in names if name != score and "recall" in name]]
    if "test_map_at_r" in names and score != "test_map_at_r":
        shown.append("test_map_at_r")
    best = max(entries, key=lambda entry: mean_and_spread(entry["test"][score])[0])
    rows = []
    for entry in entries:
        mark = ""
        if entry is best:
            mark = "best"
        elif is_tie(entry["test"][score], best["test"][score]):
            mark = "tie"
        edge = " (edge)" if entry["at_edge"] else ""
        if entry["diverged"]:
            mark = f"{mark} ({entry['diverged']} diverged)".strip()
        rows.append(
            [
                entry["name"],
                f"{entry['rate']:g}{edge}",
                *[with_spread(entry["test"][name]) for name in shown],
                mark,
                mean_of(entry["epochs"]),
                mean_of(entry["passes"]),
                f"{mean_and_spread(entry['seconds'])[0]:.0f}",
            ]
        )
    columns = ["method", "rate", *map(spoken, shown), "", "epochs", "epochs with rejected trials", "seconds"]
    return table(columns, rows)


def tried_table(entries: Sequence[Mapping[str, Any]]) -> str:
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
    return table(["validation at the starting rate", *[f"{rate:g}" for rate in rates]], rows)


def with_spread(values: Sequence[float]) -> str:
    """Shares as percent, mean ± spread where there are several."""
    mean, spread = mean_and_spread(values)
    return f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if len(values) > 1 else "")


def compared(names: Iterable[str]) -> list[str]:
    """The test scores by which methods are compared, of all names."""
    return [name for name in names if name in ("test_accuracy", "test_recall_at_1", "test_map_at_r")]


def mean_of(values: Sequence[float]) -> str:
    """The mean with one digit, none where that is 0."""
    return f"{mean_and_spread(values)[0]:.1f}".removesuffix(".0")
