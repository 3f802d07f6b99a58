"""What a run writes at its end."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.feeds import Arrays
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.compositions.routed import RoutedNetwork
from finetune_jax.reports import policy_tables, run_figures, run_page
from finetune_jax.reports.run_result import Classified, Retrieved, RunResult
from finetune_jax.reports.study_report import Picture
from finetune_jax.reports.tables import Files


def _write_report(
    directory: RunDirectory,
    config: FinetuneConfig,
    summary: Mapping[str, Any],
    rows: list[dict[str, str]],
    outputs: np.ndarray,
    gallery: tuple[np.ndarray, Arrays] | None,
    decisions: np.ndarray | None,
    job: Any,
) -> None:
    images, names = job.splits["test"], job.source.class_names
    test: Classified | Retrieved = Retrieved(outputs, images, names, gallery)
    if config.protocol == "classification":
        test = Classified(outputs, images.labels, job.class_names, images=images.images)
    pictures: list[Picture] = []
    files: Files = {}
    if decisions is not None and isinstance(job.setup.model, RoutedNetwork):
        columns = (decisions, images.labels, names, job.setup.model.routed)
        pictures = run_figures.of_policy(*columns, job.source.name)
        files = policy_tables.files(*columns)
    result = RunResult(
        flags=dataclasses.asdict(config),
        score=job.task.score,
        rows=rows,
        passes=directory.read_passes(),
        summary=summary,
        test=test,
        pictures=pictures,
        files=files,
    )
    for name, content in run_page.files(result).items():
        directory.write_file(name, content)
