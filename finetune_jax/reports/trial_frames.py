"""AutoLR's trials one after the other, for whoever shows them as a movie."""

import math
from typing import Any

from finetune_jax.reports.run_result import Rows


def frames(passes: Rows) -> dict[str, Any]:
    """Every trial of a run as plain values.

    Args:
        passes: of ``passes.csv``.

    Returns:
        JSON: ``blocks``, their names from the input up, and ``frames``, of each trial ``epoch``, ``trial``,
        ``accepted``, ``quality`` and ``threshold``, and per block ``variations``, ``rates`` and ``targets``. What is
        empty or not finite is None.
    """
    if not passes or not passes[0].get("threshold"):
        return {"blocks": [], "frames": []}
    blocks = [name.removeprefix("variation/") for name in passes[0] if name.startswith("variation/")]
    return {
        "blocks": blocks,
        "frames": [
            {
                "epoch": int(row["epoch"]),
                "trial": int(row["trial"]),
                "accepted": row["accepted"] == "1",
                "quality": _number(row.get("sorting_quality")),
                "threshold": _number(row.get("threshold")),
                **{
                    name: [_number(row.get(f"{column}/{block}")) for block in blocks]
                    for name, column in (
                        ("variations", "variation"),
                        ("rates", "rate"),
                        ("targets", "target"),
                    )
                },
            }
            for row in passes
        ],
    }


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
