"""Durations as people type them."""

import math
import re

from finetune_jax.errors import UserError

_UNITS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])")


def seconds_of(text: str, flag: str) -> float:
    """The seconds of a duration such as ``90s``, ``30m``, ``1.5h`` or ``1h30m``.

    Args:
        text: as typed.
        flag: whose value it is, for the message.

    Raises:
        UserError: it is no duration, or none at all.

    >>> seconds_of("30m", "budget"), seconds_of("1h30m", "budget"), seconds_of("1.5h", "budget")
    (1800.0, 5400.0, 5400.0)
    """
    parts = _DURATION.findall(text)
    seconds = math.fsum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text or not 0 < seconds < math.inf:
        raise UserError(f"--{flag}={text} is no time above 0; give such as 90s, 30m, 2h or 1h30m")
    return seconds


def spoken(seconds: float) -> str:
    """Seconds as people read them.

    >>> spoken(8.42), spoken(95), spoken(5400)
    ('8.4 s', '95 s', '90 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
