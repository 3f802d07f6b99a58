"""Report of a study of SpotTune: Table 2 of its paper as table and figure, Figures 3 and 4 as CSV and figures."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.reports import figures
from finetune_jax.reports.comparison import methods_picture, methods_table, tried_table, uncertainty_note
from finetune_jax.reports.study_report import Picture, StudyReport
from finetune_jax.reports.tables import Table, csv_text, json_text

SPOTTUNE = "SpotTune"
"""Name of the method's entry."""


def report(result: Mapping[str, Any]) -> StudyReport:
    """The table of methods with their parameters, everything that was tried, and what the policy does.

    Args:
        result: of ``studies.spottune.run``.
    """
    entries = result["entries"]
    usage = usage_rows(result)
    blocks = list(next(iter(usage.values())))
    shares = {name: np.array([row[block] for block in blocks]) for name, row in usage.items()}
    counts = {name: np.array(row) for name, row in count_rows(result).items()}
    without = [f"{name} is left out: no weights were given" for name in result["without"]]
    return StudyReport(
        title=f"SpotTune on {result['dataset']}",
        parts=[
            f"{result['dataset']}, {result['configurations']} configurations tried",
            *without,
            _with_parameters(methods_table(entries), result),
            uncertainty_note(entries),
            tried_table(entries),
        ],
        pictures=[
            methods_picture(entries),
            Picture(
                "policy_usage",
                "Share of the test images that take the fine-tuned copy of each block (Figure 3 of the paper).",
                figures.draw_policy_usage(shares, blocks),
            ),
            Picture(
                "policy_counts",
                "Test images by their number of fine-tuned blocks (Figure 4 of the paper).",
                figures.draw_policy_counts(counts),
            ),
        ],
        data={
            "results.json": json_text(result),
            "policy_usage.csv": csv_text([["", *blocks], *_named_rows(shares)]),
            "policy_counts.csv": csv_text([["", *range(len(blocks) + 1)], *_named_rows(counts)]),
        },
    )


def _with_parameters(methods: Table, result: Mapping[str, Any]) -> Table:
    sizes = [(entry["parameters"], entry["parameters_trained"]) for entry in result["entries"]]
    rows = [[*row[:-1], *size, row[-1]] for row, size in zip(methods.rows, sizes, strict=True)]
    return Table([*methods.columns[:-1], "parameters", "of them trained", methods.columns[-1]], rows)


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
