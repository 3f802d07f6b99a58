"""Report of a study of AutoLR."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.reports import pruning
from finetune_jax.reports.comparison import methods_picture, methods_table, tried_table, uncertainty_note
from finetune_jax.reports.study_report import StudyReport
from finetune_jax.reports.tables import json_text


def report(result: Mapping[str, Any]) -> StudyReport:
    """Pruning depths, the table of methods, and everything that was tried.

    Args:
        result: of ``studies.autolr.run``.
    """
    entries = result["entries"]
    unpruned = "Leaving out top blocks did not help, so no method has a pruned row."
    without = [] if result["pruning"]["best_depth"] else [unpruned]
    return StudyReport(
        title=f"AutoLR on {result['dataset']}",
        parts=[
            f"{result['dataset']}, {result['configurations']} configurations tried",
            pruning.depths_table(result["pruning"]),
            *without,
            methods_table(entries),
            uncertainty_note(entries),
            tried_table(entries),
        ],
        pictures=[methods_picture(entries), pruning.picture(result["pruning"])],
        data={"results.json": json_text(result)},
    )
