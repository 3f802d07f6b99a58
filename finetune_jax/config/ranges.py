"""The ranges of numbers that settings accept."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Values that a setting accepts.

    Attributes:
        words: what to give, as it ends the sentence of an error.
        accepts: whether a value is among them; false for NaN.
    """

    words: str
    accepts: Callable[[Any], bool]


NOT_NEGATIVE = Range("0 or more", lambda v: 0 <= v < math.inf)
POSITIVE = Range("a number above 0", lambda v: 0 < v < math.inf)
RATIO = Range("0, or a number above 1", lambda v: v == 0 or 1 < v < math.inf)
AT_LEAST_ONE = Range("a number of at least 1", lambda v: 1 <= v < math.inf)
COUNT = Range("a whole number of at least 1", lambda v: v >= 1)
BITS = Range("a number of bits from 1 to 16", lambda v: 1 <= v <= 16)
COUNTS = Range("whole numbers of at least 1", lambda v: len(v) > 0 and min(v) >= 1)
RISING_EPOCHS = Range("rising epochs", lambda v: list(v) == sorted(set(v)) and all(e > 0 for e in v))
FACTOR = Range("a factor in (0, 1]", lambda v: 0 < v <= 1)
WIDTH = Range("a factor in (0, 8]", lambda v: 0 < v <= 8)
DECAY = Range("a decay between 0 and 1", lambda v: 0 < v < 1)
BELOW_ONE = Range("a number in [0, 1)", lambda v: 0 <= v < 1)
UP_TO_ONE = Range("a number from 0 to 1", lambda v: 0 <= v <= 1)
UP_TO_HALF = Range("a number from 0 to 0.5", lambda v: 0 <= v <= 0.5)
QUALITY = Range("a sorting quality in [0, 1]", lambda v: 0 <= v <= 1)
SHARE = Range("a share between 0 and 1", lambda v: 0 < v < 1)
CHANNELS = Range("a whole number from 1 to 13", lambda v: 1 <= v <= 13)
PERCENTILES = Range(
    "none, or two numbers from 0 to 100, the lower one first",
    lambda v: not v or (len(v) == 2 and 0 <= v[0] < v[1] <= 100),
)
SHARE_OR_ZERO = Range("a share from 0 to below 1", lambda v: 0 <= v < 1)
