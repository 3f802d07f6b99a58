"""Successive halving: who goes on, when it ends, and what is recommended."""

import math

import numpy as np
import pytest
from scipy import stats

from finetune_jax.algorithms.halving import Judged, Rung, Trial, next_rung, verdict
from finetune_jax.algorithms.uncertainty import mcnemar


def trials(*scores: float, epochs: int = 2, per_epoch: float = 1.0) -> list[Trial]:
    return [Trial("abcdefgh"[i], epochs, score, 2.0, per_epoch) for i, score in enumerate(scores)]


def test_the_better_half_goes_on_twice_as_long_until_two_are_left() -> None:
    rung = next_rung(trials(0.1, 0.5, 0.3, 0.4, 0.2, 0.6), seconds_left=1e9, most_epochs=20)
    assert rung == Rung(4, ("f", "b", "d"))
    rung = next_rung(trials(0.5, 0.4, 0.6, epochs=4), seconds_left=1e9, most_epochs=20)
    assert rung == Rung(8, ("c", "a"))
    assert next_rung(trials(0.5, 0.4, epochs=16), seconds_left=1e9, most_epochs=20) == Rung(20, ("a", "b"))
    assert next_rung(trials(0.5, 0.4, epochs=20), seconds_left=1e9, most_epochs=20) is None


def test_seconds_measured_say_how_many_go_on() -> None:
    """Each is predicted at 4 seconds: 2 epochs took 2 s."""
    four = trials(0.4, 0.3, 0.2, 0.1)
    assert next_rung(four, seconds_left=8.0, most_epochs=9) == Rung(4, ("a", "b"))
    assert next_rung(four, seconds_left=7.9, most_epochs=9) == Rung(4, ("a",))
    assert next_rung(four, seconds_left=3.9, most_epochs=9) is None


def test_what_diverged_does_not_go_on_and_of_equals_the_cheaper_is_first() -> None:
    assert next_rung(trials(math.nan, math.nan), seconds_left=1e9, most_epochs=9) is None
    dear, cheap = Trial("dear", 2, 0.5, 9.0, 4.0), Trial("cheap", 2, 0.5, 2.0, 1.0)
    rung = next_rung([dear, *trials(math.nan), cheap], seconds_left=1e9, most_epochs=9)
    assert rung == Rung(4, ("cheap", "dear"))


def test_a_tie_recommends_the_cheapest_and_a_difference_the_best() -> None:
    count = np.arange(100)
    best, near, far = count < 90, (count < 90) & (count >= 3), count < 70
    tied = verdict([Judged("full", best, 9.0), Judged("head", near, 1.0), Judged("probe", far, 0.1)])
    assert (tied.best, tied.tied, tied.recommended) == ("full", ("head", "full"), "head")
    clear = verdict([Judged("full", best, 9.0), Judged("head", far, 1.0)])
    assert (clear.tied, clear.recommended) == (("full",), "full")


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (8, 2), (3, 3), (600, 700)])
def test_mcnemar_is_the_binomial_test_of_the_images_on_which_they_differ(
    only_first: int, only_second: int
) -> None:
    first = np.array([1] * only_first + [0] * only_second + [1, 0], bool)
    second = np.array([0] * only_first + [1] * only_second + [1, 0], bool)
    expected = stats.binomtest(only_first, only_first + only_second).pvalue if first.size > 2 else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)
    with pytest.raises(ValueError, match="shape"):
        mcnemar(first, second[1:])
