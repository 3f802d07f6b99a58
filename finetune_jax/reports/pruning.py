"""Table and text of a pruning study."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.reports.comparison import with_spread
from finetune_jax.reports.tables import spoken
from finetune_jax.reports.tables import table as table_of
from finetune_jax.studies.runs import Runs


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


def prune_table(found: Mapping[str, Any]) -> str:
    """One row per pruning depth; the chosen one is marked."""
    whole = found["depths"][0]
    rows = [
        [
            f"{row['depth']}{' *' if row['depth'] == found['best_depth'] else ''}",
            with_spread(row["scores"]),
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


def _saved(part: float, whole: float) -> str:
    return f"{100 * (1 - part / whole):.0f} %"
