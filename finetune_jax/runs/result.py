"""What a run writes at its end."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.algorithms import policies
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.feeds import Arrays
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.compositions.routed import RoutedNetwork
from finetune_jax.reports import run_figures
from finetune_jax.reports.run_page import run_page


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
    found = run_figures.of_training(rows, directory.read_passes(), summary["best_epoch"], job.task.score)
    test = job.splits["test"]
    if config.protocol == "classification":
        found += run_figures.of_classification(outputs, test.labels, job.class_names)
    else:
        found += run_figures.of_retrieval(outputs, test, job.source.class_names, gallery)
    if decisions is not None and isinstance(job.setup.model, RoutedNetwork):
        told = (decisions, test.labels, job.source.class_names, job.setup.model.routed)
        found += run_figures.of_policy(*told, job.source.name)
        for name, text in policies.tables(*told).items():
            directory.write_file(name, text.encode())
    for picture in found:
        directory.write_file(f"{picture.name}.png", picture.png)
    captions = {picture.caption: picture.png for picture in found}
    page = run_page(summary, dataclasses.asdict(config), rows, captions)
    directory.write_file("report.html", page.encode())
