"""What to say where a directory is not the run that somebody meant: which runs there are."""

import difflib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_jax.errors import DAMAGE, readable

_FLAGS = "flags.json"
_DEPTH = 4
_NAMED = 8


def why_unusable(run: Path) -> str:
    """Why nothing can be read from a place that should be a run with an evaluated checkpoint, and what can be given.

    Args:
        run: as it was typed.
    """
    shown = readable(run.absolute())
    if not run.exists():
        above = next((place for place in run.absolute().parents if place.is_dir()), Path("/"))
        return f"there is no directory {shown}{_there(above, run.name)}"
    if (run / _FLAGS).is_file():
        return (
            f"{shown} is a run that has no evaluated checkpoint yet: it has not ended its first epoch (finetune-jax "
            f"resume {readable(run)} goes on with it)"
        )
    if of_study := list(_runs_below(run / "runs", _DEPTH)):
        best = max(of_study, key=_score)
        return (
            f"{shown} is a study of {len(of_study)} runs; give one of them, as its highest, "
            f"{readable(run / best.relative_to(run))}"
        )
    return f"{shown} is no run directory with an evaluated checkpoint{_there(run, '')}"


def _there(folder: Path, meant: str) -> str:
    """``; runs in FOLDER are …``, those first whose names are like the one that was meant."""
    names = [path.relative_to(folder).as_posix() for path in _runs_below(folder, 2)]
    if not names:
        return ""
    close = difflib.get_close_matches(meant, names, n=_NAMED, cutoff=0.6)
    order = [*close, *(name for name in names if name not in close)]
    more = f" and {len(order) - _NAMED} more" if len(order) > _NAMED else ""
    return (
        f"; runs in {readable(folder)} are {', '.join(readable(name, 80) for name in order[:_NAMED])}{more}"
    )


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    """Directories of runs, in alphabetical order; links are not followed."""
    try:
        entries = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return
    for entry in entries:
        if (entry / _FLAGS).is_file():
            yield entry
        elif depth > 1 and not entry.name.startswith("."):
            yield from _runs_below(entry, depth - 1)


def _score(run: Path) -> float:
    """Of a run that has ended; below all others without one."""
    try:
        summary: Any = json.loads((run / "summary.json").read_bytes())
        return float(summary[summary["score"]])
    except OSError:
        return -math.inf
    except DAMAGE:
        return -math.inf
