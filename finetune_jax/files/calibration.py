"""What was fitted to the validation images when a run had ended, beside the checkpoint that it is of."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_jax.files import readers

FILE = "calibration.json"
"""Name of the file in a run directory."""

_CHECKPOINT = "checkpoint"


def read(run: Path, step: int) -> dict[str, Any]:
    """The entries of the card of a checkpoint that were fitted after it was saved; empty where none were.

    Args:
        run: its directory.
        step: number of the checkpoint.

    Raises:
        UserError: the file is damaged.
    """
    file = run / FILE
    if not file.exists():
        return {}
    values = readers.json_object(file, "delete it to use the run without temperature and thresholds")
    return (
        {name: value for name, value in values.items() if name != _CHECKPOINT}
        if values.get(_CHECKPOINT) == step
        else {}
    )


def content(step: int, entries: Mapping[str, Any]) -> bytes:
    """The file of a checkpoint.

    Args:
        step: its number.
        entries: of the card, JSON.
    """
    return (json.dumps({_CHECKPOINT: step, **entries}, indent=2) + "\n").encode()
