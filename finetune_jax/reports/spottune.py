"""Results of ``studies.spottune`` for people: Table 2 as text, Figures 3 and 4 as CSV and PNG."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_jax.reports import figures
from finetune_jax.reports.comparison import methods_table, tried_table
from finetune_jax.reports.tables import table
from finetune_jax.studies.runs import Runs


def write(result: Mapping[str, Any], runs: Runs) -> None:
    """Write ``results.json``, ``results.txt``, and the figures ``policy_usage`` and ``policy_counts``."""
    runs.write_json("results.json", result)
    runs.write("results.txt", text(result) + "\n")
    usage = usage_rows(result)
    blocks = list(next(iter(usage.values())))
    shares = {name: np.array([row[block] for block in blocks]) for name, row in usage.items()}
    counts = {name: np.array(row) for name, row in count_rows(result).items()}
    runs.write("policy_usage.csv", _csv(["", *blocks], {name: row.tolist() for name, row in shares.items()}))
    runs.write("policy_usage.png", figures.policy_usage(shares, blocks))
    numbers = range(len(blocks) + 1)
    runs.write(
        "policy_counts.csv", _csv(["", *numbers], {name: row.tolist() for name, row in counts.items()})
    )
    runs.write("policy_counts.png", figures.policy_counts(counts))


def text(result: Mapping[str, Any]) -> str:
    """The table of methods, their parameters, and everything that was tried."""
    parts = [f"{result['dataset']}, {result['configurations']} configurations tried"]
    parts += [f"{name} is left out: no weights were given" for name in result["without"]]
    entries = result["entries"]
    sizes = table(
        ["method", "parameters", "of them trained"],
        [[entry["name"], entry["parameters"], entry["parameters_trained"]] for entry in entries],
    )
    return "\n\n".join([*parts, methods_table(entries), sizes, tried_table(entries)])


def _csv(head: Sequence[Any], rows: Mapping[str, Sequence[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([head, *[[name, *row] for name, row in rows.items()]])
    return file.getvalue()


SPOTTUNE = "SpotTune"


def usage_rows(result: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """``{row: {block: share of test images fine-tuned}}`` of SpotTune's runs (Figure 3)."""
    (entry,) = [entry for entry in result["entries"] if entry["name"] == SPOTTUNE]
    seeds = result["protocol"]["seeds"]
    return {
        f"{result['dataset']}, seed {seed}": usage for seed, usage in zip(seeds, entry["usage"], strict=True)
    }


def count_rows(result: Mapping[str, Any]) -> dict[str, list[int]]:
    """``{row: test images with 0, 1 … L fine-tuned blocks}`` of SpotTune's runs (Figure 4)."""
    (entry,) = [entry for entry in result["entries"] if entry["name"] == SPOTTUNE]
    seeds = result["protocol"]["seeds"]
    counts = entry["tuned_block_counts"]
    return {f"{result['dataset']}, seed {seed}": row for seed, row in zip(seeds, counts, strict=True)}
