"""The rows of a paper's table, run on the data set that is given."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.config import FinetuneConfig
from finetune_jax.errors import Diverged
from finetune_jax.published import DATASETS, Row, Table
from finetune_jax.studies.comparison import Train


def rows_of(
    table: Table, base: FinetuneConfig, train: Train, *, given: Sequence[str], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Train every row that can be run, with the settings of the table.

    Args:
        table: of ``finetune_jax.published``.
        base: data set, network, and whatever else the user has set.
        train: trains one config.
        given: names of the fields that the user has set; the table does not change them.
        seeds: of each row.

    Returns:
        JSON, per row ``name``, ``settings`` (None where the row cannot be run), ``test`` (``{metric: one value
        per seed}``, None where it was not run or diverged), ``passes``, ``seconds`` and ``numbers``, as
        printed.
    """
    found = []
    for number, row in enumerate(table.rows, 1):
        summaries = _summaries(number, row, table, base, train, given, seeds)
        metrics = [name for name in summaries[0] if name.startswith("test_")] if summaries else []
        found.append(
            {
                "name": row.name,
                "settings": None if row.settings is None else dict(row.settings),
                "test": {m: [s[m] for s in summaries] for m in metrics} if summaries else None,
                "passes": [summary["passes"] for summary in summaries],
                "seconds": [summary["seconds"] for summary in summaries],
                "numbers": {data: list(values) for data, values in row.numbers.items()},
            }
        )
    return found


def configured(table: Table, row: Row, base: FinetuneConfig, given: Sequence[str]) -> FinetuneConfig:
    """The config of a row; settings that make the row go before what the user has set."""
    of_data = [own for data, own in table.of_data.items() if DATASETS[data] == base.dataset]
    settings = {**table.settings, **(of_data[0] if of_data else {})}
    shared = {name: value for name, value in settings.items() if name not in given}
    protocol = shared.get("protocol", base.protocol)
    ks = _ks(table)
    if protocol == "retrieval" and ks and "ks" not in given:
        shared["ks"] = ks
    return dataclasses.replace(base, **{**shared, **(row.settings or {})})


def _summaries(
    number: int,
    row: Row,
    table: Table,
    base: FinetuneConfig,
    train: Train,
    given: Sequence[str],
    seeds: Sequence[int],
) -> list[Mapping[str, Any]]:
    if row.settings is None:
        return []
    config = configured(table, row, base, given)
    try:
        return [
            train(dataclasses.replace(config, seed=seed), f"row_{number:02d}-seed{seed}") for seed in seeds
        ]
    except Diverged:  # a row of its own fate; the message is printed where it happened
        return []


def _ks(table: Table) -> tuple[int, ...]:
    names = {name for metrics in table.metrics.values() for name in metrics}
    return tuple(sorted(int(name.rsplit("_", 1)[1]) for name in names if "recall_at_" in name))
