"""What a run writes at its end."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.feeds import Arrays
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.compositions.routed import RoutedNetwork
from finetune_jax.reports import run_page
from finetune_jax.reports.run_result import Classified, PolicyDecisions, Retrieved, RunResult


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
        test = Classified(outputs, images.labels, job.class_names)
    policy = None
    if decisions is not None and isinstance(job.setup.model, RoutedNetwork):
        routed = job.setup.model.routed
        policy = PolicyDecisions(decisions, images.labels, names, routed, job.source.name)
    result = RunResult(
        flags=dataclasses.asdict(config),
        score=job.task.score,
        rows=rows,
        passes=directory.read_passes(),
        summary=summary,
        test=test,
        policy=policy,
    )
    for name, content in run_page.files(result).items():
        directory.write_file(name, content if isinstance(content, bytes) else content.encode())
