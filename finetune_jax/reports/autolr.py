"""Tables and figure of a study of AutoLR."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.reports import figures
from finetune_jax.reports.comparison import compared, methods_table, tried_table
from finetune_jax.reports.pruning import prune_table
from finetune_jax.reports.tables import Files, json_text, spoken


def files(result: Mapping[str, Any]) -> Files:
    """``results.json``, ``results.txt`` and ``methods.png`` of a result of ``studies.autolr``."""
    entries = result["entries"]
    scores = {
        spoken(metric): {entry["name"]: entry["test"][metric] for entry in entries}
        for metric in dict.fromkeys((entries[0]["score"], *compared(entries[0]["test"])))
    }
    return {
        "results.json": json_text(result),
        "results.txt": text(result) + "\n",
        "methods.png": figures.compare_methods(scores),
    }


def text(result: Mapping[str, Any]) -> str:
    """Pruning depths, the table of methods, and everything that was tried."""
    return "\n\n".join(
        [
            f"{result['dataset']}, {result['configurations']} configurations tried",
            prune_table(result["pruning"]),
            methods_table(result["entries"]),
            tried_table(result["entries"]),
        ]
    )
