"""Run directories that nobody has trained: their flags and tables, as a run writes them."""

import json
from pathlib import Path
from typing import Any


def write_run(
    path: Path,
    *,
    epochs: int = 4,
    done: int = 4,
    score: float | None = 0.75,
    passes: list[dict[str, Any]] | None = None,
    **flags: Any,
) -> Path:
    """A run of ``epochs``, ``done`` of them behind it; with a score it has ended."""
    path.mkdir(parents=True)
    settings = {"epochs": epochs, "method": "standard", "dataset": "folder:photos", **flags}
    (path / "flags.json").write_text(json.dumps(settings))
    lines = ["epoch,step,train_loss,train_accuracy,validation_loss,validation_accuracy,seconds"]
    lines += [f"{i},{10 * i},{2 / i},{0.1 * i},{2.1 / i},{0.09 * i},1.5" for i in range(1, done + 1)]
    if done:
        (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    if passes:
        rows = [",".join(passes[0]), *(",".join(map(str, row.values())) for row in passes)]
        (path / "passes.csv").write_text("\n".join(rows) + "\n")
    (path / "report.html").write_text("<!doctype html><title>report</title><p>the report</p>")
    if score is not None:
        summary = {"score": "test_accuracy", "test_accuracy": score, "notes": [], "remarks": ["a remark"]}
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def trials() -> list[dict[str, Any]]:
    """Two trials of AutoLR over two blocks, the first rejected."""
    rows = []
    for trial, accepted, quality, values in ((1, 0, 0.5, (2e-6, 1e-6)), (2, 1, 1.0, (1e-6, 3e-6))):
        row = {"epoch": 1, "step": 10 * trial, "trial": trial, "accepted": accepted, "finite": 1}
        row |= {"sorting_quality": quality, "threshold": 0.94}
        for name, column in (("rate", (0.01, 0.02)), ("variation", values)):
            row |= {f"{name}/block_{i:02d}": value for i, value in enumerate(column, 1)}
        wanted = ("", "") if accepted else (1.5e-6, 2e-6)
        row |= {f"target/block_{i:02d}": value for i, value in enumerate(wanted, 1)}
        rows.append(row)
    return rows
