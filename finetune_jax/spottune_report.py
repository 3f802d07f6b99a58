"""Results of ``studies.spottune`` for people: Table 2 as text, Figures 3 and 4 as CSV and PNG."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_jax import figures
from finetune_jax.report import table
from finetune_jax.studies import spottune
from finetune_jax.studies.runs import Runs
from finetune_jax.study_report import methods_table, tried_table


def write(result: Mapping[str, Any], runs: Runs) -> None:
    """Write ``results.json``, ``results.txt``, and the figures ``policy_usage`` and ``policy_counts``."""
    runs.write_json("results.json", result)
    runs.write("results.txt", text(result) + "\n")
    usage = spottune.usage_rows(result)
    blocks = list(next(iter(usage.values())))
    shares = {name: np.array([row[block] for block in blocks]) for name, row in usage.items()}
    counts = {name: np.array(row) for name, row in spottune.count_rows(result).items()}
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
