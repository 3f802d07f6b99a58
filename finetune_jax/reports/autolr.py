"""Results of studies for people: text tables, Markdown and JSON beside the runs."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.reports import figures
from finetune_jax.reports.comparison import compared, methods_table, tried_table
from finetune_jax.reports.pruning import prune_table
from finetune_jax.reports.tables import spoken
from finetune_jax.studies.runs import Runs


def write_autolr(result: Mapping[str, Any], runs: Runs) -> None:
    """Write ``results.json``, ``results.txt`` and ``methods.png`` of ``studies.autolr``."""
    runs.write_json("results.json", result)
    runs.write("results.txt", autolr_text(result) + "\n")
    entries = result["entries"]
    scores = {
        spoken(metric): {entry["name"]: entry["test"][metric] for entry in entries}
        for metric in dict.fromkeys((entries[0]["score"], *compared(entries[0]["test"])))
    }
    runs.write("methods.png", figures.compare_methods(scores))


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
