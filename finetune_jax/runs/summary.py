"""The summary of a run: what it was and what it came to, in numbers."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.config import resolution
from finetune_jax.runs import recorded_data
from finetune_jax.runs.chosen_rate import Settings
from finetune_jax.runs.program import Program
from finetune_jax.training.methods.method import Findings
from finetune_jax.training.state import parameter_count

Rows = Sequence[Mapping[str, str]]


def summarise(
    program: Program,
    settings: Settings,
    rows: Rows,
    best: Mapping[str, str],
    test_scores: Mapping[str, float],
    findings: Findings,
    seconds: float,
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        program: of the run.
        settings: of the run.
        rows: of ``metrics.csv``.
        best: the one of the epoch that was chosen.
        test_scores: of its weights.
        findings: of the method.
        seconds: of this start of the run.
    """
    config, images, network = settings.config, program.images, program.method.network
    of_validation = f"validation_{program.task.score}"
    params = {
        name: tree
        for name, tree in program.variables["params"].items()
        if name not in program.method.references
    }
    reason = [f"learning rate: {settings.reason}"] if settings.reason else []
    return {
        "method": config.method,
        "protocol": config.protocol,
        "task": program.task.name,
        "network": network.architecture,
        "blocks": len(network.blocks),
        "pretrained": config.pretrained if program.method.from_pretrained else "none",
        "dataset": images.source.name,
        "classes": len(images.class_names),
        "images": {split: len(arrays.labels) for split, arrays in images.splits.items()},
        **recorded_data.resolved(images.source),
        "notes": [*images.source.notes, *reason, *settings.search.get("notes", ()), *findings.notes],
        "score": f"test_{program.task.score}",
        "selected_on": config.select_on,
        "best_epoch": int(best["epoch"]),
        "epochs_trained": len(rows),
        # Passes over the training images, those that a tuner rejected included.
        "passes": int(rows[-1]["step"]) // images.steps_per_epoch,
        **resolution.values(config),
        **({"search": dict(settings.search)} if settings.search else {}),
        of_validation: float(best[of_validation]) if best.get(of_validation) else None,
        **test_scores,
        "parameters": parameter_count(params),
        "parameters_trained": parameter_count({name: params[name] for name in program.trained}),
        "parameters_of_parts": {name: parameter_count(tree) for name, tree in params.items()},
        "trained_parts": list(program.trained),
        "seconds": round(sum(float(row["seconds"]) for row in rows), 3),
        # Without the first epoch, which compiles, where there are others.
        "seconds_per_epoch": statistics.median(float(row["seconds"]) for row in rows[len(rows) > 1 :]),
        "seconds_of_this_start": round(seconds, 3),
        "devices": program.replicas.count,
        **findings.summary,
    }
