"""Readers of small files: JSON objects and tables. Damage of any kind is one sentence that names the file."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_jax.errors import DAMAGE, UserError, readable
from finetune_jax.files import causes

Kinds = type | tuple[type, ...]

_LARGEST = 2**28  # bytes; a table of a million rows has fewer


def json_object(file: Path, advice: str, required: Mapping[str, Kinds] | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        file: to read.
        advice: what to do where it is missing or damaged; ends the sentence.
        required: entries that it must have, and of which types. A bool is no number.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        content = json.loads(_text(file))
        _check(content, required or {})
    except OSError as error:
        raise UserError(f"{readable(file)} cannot be read: {causes.reason(error)}; {advice}") from error
    except DAMAGE as error:
        raise UserError(f"{readable(file)} is damaged ({_reason(error)}); {advice}") from error
    return content


def table(file: Path, advice: str, whole_numbers: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file as text by column; none where there is no such file.

    Args:
        file: to read.
        advice: what to do where it is damaged; ends the sentence.
        whole_numbers: columns that hold nothing else. A last row that was cut short may lack them.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    if not file.exists():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(_text(file), newline="")))
        for row in rows:
            if None in row:
                raise ValueError("a row has more cells than the header")
            for name in whole_numbers:
                if name not in row:
                    raise ValueError(f"it has no column {name}")
                if None not in row.values():
                    int(row[name])
    except OSError as error:
        raise UserError(f"{readable(file)} cannot be read: {causes.reason(error)}; {advice}") from error
    except DAMAGE as error:
        raise UserError(f"{readable(file)} is damaged ({_reason(error)}); {advice}") from error
    return rows


def _text(file: Path) -> str:
    if file.stat().st_size > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes")
    return file.read_bytes().decode()


def _check(content: Any, required: Mapping[str, Kinds]) -> None:
    if not isinstance(content, dict):
        raise TypeError("it holds no JSON object")
    for name, kinds in required.items():
        if name not in content:
            raise LookupError(f"it has no entry {name}")
        value = content[name]
        accepted = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            raise TypeError(f"its entry {name} is {readable(repr(value), 40)}")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
    return readable(" ".join(text.split()) or type(error).__name__, 160)
