"""Table and text of a pruning study."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.reports.comparison import with_spread
from finetune_jax.reports.tables import Files, json_text, spoken, table


def files(result: Mapping[str, Any]) -> Files:
    """``results.json`` and ``results.txt`` of a result of ``studies.prune``."""
    return {"results.json": json_text(result), "results.txt": text(result) + "\n"}


def text(result: Mapping[str, Any]) -> str:
    """The table of depths and what to do with the best."""
    best, last = result["best_depth"], result["depths"][-1]["depth"]
    if best == last:
        ending = f"{best} was the largest depth tried; the score had not fallen yet"
    else:
        ending = f"the score fell at {last}"
    return f"{prune_table(result)}\n\nbest depth: {best} ({ending}); train with --prune_depth={best}"


def prune_table(result: Mapping[str, Any]) -> str:
    """One row per pruning depth; the chosen one is marked."""
    whole = result["depths"][0]
    rows = [
        [
            f"{row['depth']}{' *' if row['depth'] == result['best_depth'] else ''}",
            with_spread(row["scores"]),
            row["parameters"],
            _saved(row["parameters"], whole["parameters"]),
            f"{row['flops'] / 1e6:.0f}",
            _saved(row["flops"], whole["flops"]),
            f"{row['seconds']:.1f}",
            _saved(row["seconds"], whole["seconds"]),
        ]
        for row in result["depths"]
    ]
    columns = ["blocks pruned", spoken(result["score"]), "parameters", "saved", "MFLOPs", "saved"]
    return table([*columns, "seconds/epoch", "saved"], rows)


def _saved(part: float, whole: float) -> str:
    return f"{100 * (1 - part / whole):.0f} %"
