"""Results of studies for people: text tables, Markdown and JSON beside the runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_jax import figures
from finetune_jax.metrics import spoken
from finetune_jax.published import Table
from finetune_jax.published.autolr import GAMMA_TABLE
from finetune_jax.report import table as table_of
from finetune_jax.studies.comparison import is_tie, mean_and_spread
from finetune_jax.studies.runs import Runs


def write_autolr(result: Mapping[str, Any], runs: Runs) -> None:
    """Write ``results.json``, ``results.txt`` and ``methods.png`` of ``studies.autolr``."""
    runs.write_json("results.json", result)
    runs.write("results.txt", autolr_text(result) + "\n")
    entries = result["entries"]
    scores = {
        spoken(metric): {entry["name"]: entry["test"][metric] for entry in entries}
        for metric in dict.fromkeys((entries[0]["score"], *_compared(entries[0]["test"])))
    }
    runs.write("methods.png", figures.compare_methods(scores))


def write_prune(found: Mapping[str, Any], runs: Runs) -> None:
    """Write ``results.json`` and ``results.txt`` of ``studies.prune`` into the study's directory."""
    runs.write_json("results.json", found)
    runs.write("results.txt", prune_text(found) + "\n")


def prune_text(found: Mapping[str, Any]) -> str:
    """The table of depths and what to do with the best."""
    best, last = found["best_depth"], found["depths"][-1]["depth"]
    if best == last:
        ending = f"{best} was the largest depth tried; the score had not fallen yet"
    else:
        ending = f"the score fell at {last}"
    return f"{prune_table(found)}\n\nbest depth: {best} ({ending}); train with --prune_depth={best}"


def autolr_text(result: Mapping[str, Any]) -> str:
    """Pruning depths, the table of methods, and everything that was tried."""
    return "\n\n".join(
        [
            f"{result['dataset']}, {result['configurations']} configurations tried",
            prune_table(result["pruning"]),
            methods_table(result["entries"]),
            tried_table(result["entries"]),
        ]
    )


def prune_table(found: Mapping[str, Any]) -> str:
    """One row per pruning depth; the chosen one is marked."""
    whole = found["depths"][0]
    rows = [
        [
            f"{row['depth']}{' *' if row['depth'] == found['best_depth'] else ''}",
            _with_spread(row["scores"]),
            row["parameters"],
            _saved(row["parameters"], whole["parameters"]),
            f"{row['flops'] / 1e6:.0f}",
            _saved(row["flops"], whole["flops"]),
            f"{row['seconds']:.1f}",
            _saved(row["seconds"], whole["seconds"]),
        ]
        for row in found["depths"]
    ]
    columns = ["blocks pruned", spoken(found["score"]), "parameters", "saved", "MFLOPs", "saved"]
    return table_of([*columns, "seconds/epoch", "saved"], rows)


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
                *[_with_spread(entry["test"][name]) for name in shown],
                mark,
                _mean(entry["epochs"]),
                _mean(entry["passes"]),
                f"{mean_and_spread(entry['seconds'])[0]:.0f}",
            ]
        )
    columns = ["method", "rate", *map(spoken, shown), "", "epochs", "epochs with rejected trials", "seconds"]
    return table_of(columns, rows)


def tried_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Validation score of every method at every starting rate; the chosen one is marked."""
    rates = sorted({tried["rate"] for entry in entries for tried in entry["tried"]})
    rows = []
    for entry in entries:
        found = {tried["rate"]: tried["validation"] for tried in entry["tried"]}
        cells = []
        for rate in rates:
            scores = found.get(rate)
            text = "–" if scores is None else "diverged" if None in scores else _with_spread(scores)
            cells.append(text + (" *" if rate == entry["rate"] else ""))
        rows.append([entry["name"], *cells])
    return table_of(["validation at the starting rate", *[f"{rate:g}" for rate in rates]], rows)


def write_alpha_beta(found: Mapping[str, Any], runs: Runs) -> None:
    """Write ``results.json``, ``results.txt`` and ``map.png`` of ``studies.alpha_beta``."""
    runs.write_json("results.json", found)
    runs.write("results.txt", alpha_beta_text(found) + "\n")
    picture = figures.alpha_beta_grid(
        np.array(found["scores"], np.float64),
        found["alphas"],
        found["betas"],
        np.array(found["unavailable"]),
        score_name=spoken(found["score"]),
    )
    runs.write("map.png", picture)


def alpha_beta_text(found: Mapping[str, Any]) -> str:
    """Scores with a row per α and a column per β."""
    rows = []
    for alpha, scores, unavailable in zip(
        found["alphas"], found["scores"], found["unavailable"], strict=True
    ):
        cells = [
            "unavailable" if hatched else "–" if score is None else f"{100 * score:.2f}"
            for score, hatched in zip(scores, unavailable, strict=True)
        ]
        rows.append([f"{alpha:g}", *cells])
    return table_of([f"{spoken(found['score'])}, α \\ β", *[f"{beta:g}" for beta in found["betas"]]], rows)


def gamma_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """γ of each block, ours beside the paper's."""
    printed = GAMMA_TABLE["gamma"]
    cells = [
        [
            row["block"],
            *(f"{rate:.3g}" for rate in row["rates"]),
            *(f"{norm:.4g}" for norm in row["norms"]),
            f"{row['gamma']:.2f}",
            f"{printed[i]:.2f}" if i < len(printed) else "–",
        ]
        for i, row in enumerate(rows)
    ]
    columns = ["", "first rate", "last rate", "‖∇L_acc‖, first", "last", "γ", "γ, paper (ResNet-50, CUB-200)"]
    return table_of(columns, cells)


def reproduction_text(
    name: str, table: Table, dataset: str, rows: Sequence[Mapping[str, Any]], data: str = ""
) -> str:
    """Ours beside the paper's numbers: those of ``data``, or where that is empty of the table's first data set."""
    same = data
    data = data or next(iter(table.metrics))
    metrics = table.metrics[data]
    cells = []
    for row in rows:
        printed = row["numbers"].get(data) or [None] * len(metrics)
        ours = row["test"] or {}
        cells.append([row["name"]])
        for metric, number in zip(metrics, printed, strict=True):
            if metric in ours:
                text = _with_spread(ours[metric])
            else:
                text = "not run" if not row["run"] else "–" if ours else "diverged"
            cells[-1] += [text, "–" if number is None else f"{number:.2f}"]
        cells[-1] += [_mean(row["passes"]) if row["passes"] else "–"]
    whose = f"paper, {data}" if not same else "paper"
    columns = [part for metric in metrics for part in (f"{spoken(metric)}, ours", whose)]
    lines = [f"{name}: {table.title}, {dataset}", "", table_of(["", *columns, "epochs trained"], cells)]
    for row in rows:
        if row.get("chosen"):
            point = ", ".join(f"{field} {value:g}" for field, value in row["chosen"].items())
            lines.append(
                f"{row['name']}: {point}, the best of {len(row['tried'])} by {spoken(row['chosen_by'])}"
            )
    if not same:
        lines.append(f"the paper's numbers are of {data}, another data set: for orientation only")
    if table.note:
        lines.append(f"note: {table.note}")
    return "\n".join(lines)


def _with_spread(values: Sequence[float]) -> str:
    mean, spread = mean_and_spread(values)
    return f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if len(values) > 1 else "")


def _compared(names: Iterable[str]) -> list[str]:
    return [name for name in names if name in ("test_accuracy", "test_recall_at_1", "test_map_at_r")]


def _mean(values: Sequence[float]) -> str:
    return f"{mean_and_spread(values)[0]:.1f}".removesuffix(".0")


def _saved(part: float, whole: float) -> str:
    return f"{100 * (1 - part / whole):.0f} %"
