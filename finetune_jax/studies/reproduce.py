"""The rows of a paper's table, run on the data set that is given."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from finetune_jax.config.choices import ALTERNATIVES
from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import Diverged
from finetune_jax.reports.published import Row, Table
from finetune_jax.studies.comparison import Train
from finetune_jax.studies.progress import Progress


def rows_of(
    table: Table,
    base: FinetuneConfig,
    train: Train,
    *,
    given: Sequence[str],
    seeds: Sequence[int],
    data: str = "",
    weights: Mapping[str, str] | None = None,
    only: Collection[int] = (),
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Train every row that can be run, with the settings of the table.

    Args:
        table: of ``finetune_jax.published``.
        base: data set, network, and whatever else the user has set.
        train: trains one config.
        given: names of the fields that the user has set; the table does not change them.
        seeds: of each row.
        data: which data set of the table ``base`` has; empty for any other.
        weights: ``{source: --pretrained}`` of rows that do not start from ``base``'s weights.
        only: numbers of the rows to run, from 1; empty for all.
        progress: is told of every run.

    Returns:
        JSON, per row ``name``, ``settings`` (None where the row cannot be run), ``run`` (whether it was), ``test``
        (``{metric: one value per seed}``, None where it was not run or diverged), ``passes``, ``seconds`` and
        ``numbers``, as printed. A row that is the best of a grid has ``tried``, a list of ``settings`` and their
        ``score`` (None where it diverged), in ``chosen`` the settings of the best, and in ``chosen_by`` the name of
        the score: that of the validation images, where the runs have some, else, as in the papers, of the test images.
    """
    progress = progress or Progress()
    planned = [row for number, row in enumerate(table.rows, 1) if _is_run(row, number, weights or {}, only)]
    progress.expect(sum(math.prod(map(len, row.grid.values())) for row in planned) * len(seeds))
    entries = []
    for number, row in enumerate(table.rows, 1):
        entry: dict[str, Any] = {
            "name": row.name,
            "settings": None if row.settings is None else dict(row.settings),
            "run": False,
            "test": None,
            "passes": [],
            "seconds": [],
            "numbers": {name: list(values) for name, values in row.numbers.items()},
        }
        entries.append(entry)
        if not _is_run(row, number, weights or {}, only):
            continue
        config = configured(table, row, base, given, data)
        if row.source:
            config = dataclasses.replace(config, pretrained=(weights or {})[row.source])
        name = f"row_{number:02d}"
        summaries, more = _best_of_grid(row, config, train, seeds, name, progress)
        measured = [_measured(summary) for summary in summaries]
        entry |= {
            "run": True,
            "test": {m: [s[m] for s in measured] for m in measured[0]} if measured else None,
            "passes": [summary["passes"] for summary in summaries],
            "seconds": [summary["seconds"] for summary in summaries],
            **more,
        }
    return entries


def _is_run(row: Row, number: int, weights: Mapping[str, str], only: Collection[int]) -> bool:
    """Whether a row has settings, and the weights that it starts from, and is one of those to run."""
    known = not row.source or row.source in weights
    return row.settings is not None and known and (not only or number in only)


def configured(
    table: Table, row: Row, base: FinetuneConfig, given: Sequence[str], data: str = ""
) -> FinetuneConfig:
    """The config of a row; settings that make the row go before what the user has set."""
    given = [*given, *(plain for plain, effective in ALTERNATIVES if effective in given)]
    shared = {**table.settings, **table.of_data.get(data, {})}
    shared = {name: value for name, value in shared.items() if name not in given}
    protocol = shared.get("protocol", base.protocol)
    ks = _ks(table)
    if protocol == "retrieval" and ks and "ks" not in given:
        shared["ks"] = ks
    return changed(base, **{**shared, **(row.settings or {})})


def _best_of_grid(
    row: Row, config: FinetuneConfig, train: Train, seeds: Sequence[int], name: str, progress: Progress
) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    """Summaries of the best point, and everything that was tried."""
    if not row.grid:
        return _summaries(row.name, config, train, seeds, name, progress), {}
    best: list[Mapping[str, Any]] = []
    best_score, chosen, score_name, tried = float("-inf"), None, "", []
    for values in itertools.product(*row.grid.values()):
        point = dict(zip(row.grid, values, strict=True))
        setting = "-".join(f"{field}{value:g}" for field, value in point.items())
        label = ", ".join([row.name, *(f"{field} {value:g}" for field, value in point.items())])
        config_of_point = changed(config, **point)
        summaries = _summaries(label, config_of_point, train, seeds, f"{name}-{setting}", progress)
        score = None
        if summaries:
            test = summaries[0]["score"]
            validation = test.replace("test", "validation")
            score_name = test if summaries[0].get(validation) is None else validation
            score = statistics.fmean(summary[score_name] for summary in summaries)
            if score > best_score:
                best, best_score, chosen = summaries, score, point
        tried.append({"settings": point, "score": score})
    return best, {"tried": tried, "chosen": chosen, "chosen_by": score_name}


def _summaries(
    label: str,
    config: FinetuneConfig,
    train: Train,
    seeds: Sequence[int],
    name: str,
    progress: Progress,
) -> list[Mapping[str, Any]]:
    summaries = []
    try:
        for seed in seeds:
            progress.begin(f"{label}, seed {seed}")
            summaries.append(train(dataclasses.replace(config, seed=seed), f"{name}-seed{seed}"))
    except Diverged:  # a row of its own fate; the message is printed where it happened
        return []
    return summaries


def _measured(summary: Mapping[str, Any]) -> dict[str, float]:
    """Test scores, and the errors that some papers print in their place."""
    scores = {name: value for name, value in summary.items() if name.startswith("test_")}
    for score, error in (("test_accuracy", "test_error"), ("test_balanced_accuracy", "test_class_error")):
        if score in scores:
            scores[error] = 1 - scores[score]
    return scores


def _ks(table: Table) -> tuple[int, ...]:
    names = {name for metrics in table.metrics.values() for name in metrics}
    return tuple(sorted(int(name.rsplit("_", 1)[1]) for name in names if "recall_at_" in name))
