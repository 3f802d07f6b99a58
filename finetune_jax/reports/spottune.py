"""Results of ``studies.spottune`` for people: Table 2 as text, Figures 3 and 4 as CSV and PNG."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.reports import figures
from finetune_jax.reports.comparison import methods_table, tried_table
from finetune_jax.reports.tables import Files, csv_text, json_text, table

SPOTTUNE = "SpotTune"
"""Name of the method's entry."""


def files(result: Mapping[str, Any]) -> Files:
    """``results.json``, ``results.txt``, and ``policy_usage`` and ``policy_counts`` as CSV and PNG."""
    usage = usage_rows(result)
    blocks = list(next(iter(usage.values())))
    shares = {name: np.array([row[block] for block in blocks]) for name, row in usage.items()}
    counts = {name: np.array(row) for name, row in count_rows(result).items()}
    numbers = range(len(blocks) + 1)
    return {
        "results.json": json_text(result),
        "results.txt": text(result) + "\n",
        "policy_usage.csv": csv_text([["", *blocks], *_named_rows(shares)]),
        "policy_usage.png": figures.policy_usage(shares, blocks),
        "policy_counts.csv": csv_text([["", *numbers], *_named_rows(counts)]),
        "policy_counts.png": figures.policy_counts(counts),
    }


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


def _named_rows(rows: Mapping[str, np.ndarray]) -> list[list[Any]]:
    return [[name, *values.tolist()] for name, values in rows.items()]


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
