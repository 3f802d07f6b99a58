"""The search of ``--method=auto`` over losses that are formulas: which rate the head ends with."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from finetune_jax.config.recipes import recipe
from finetune_jax.training import rates
from finetune_jax.training.methods.auto import Auto
from finetune_jax.training.methods.method import RateChoice

PARTS = ("stem", "block_01", "head")


class Bare(Auto):
    """Without a network."""

    trained = PARTS

    def tuner(self, config: Any, trained: tuple[str, ...]) -> Any:
        return rates.fixed(config, trained)


@dataclasses.dataclass
class Rehearsals:
    """The head learns up to the rate ``bearable``, the rest best at ``best``."""

    bearable: float
    best: float
    head: float = 0.0
    asked: list[float] = dataclasses.field(default_factory=list)
    state = SimpleNamespace(params=dict.fromkeys(PARTS))
    steps_of_run = 100
    from_probe: Any = None
    held_out = np.arange(10)

    def judge(self) -> float:
        return 2.3 if self.head <= self.bearable * 1.001 else 50.0

    def after(self, alone: dict[str, float], steps: int) -> "Rehearsals":
        assert alone["stem"] == alone["block_01"] == 0
        self.asked.append(alone["head"])
        return dataclasses.replace(self, head=alone["head"])

    def run(self, peaks: dict[str, float], steps: int) -> Any:
        assert peaks["head"] == self.head
        return SimpleNamespace(loss=1 + (math.log10(peaks["stem"]) - math.log10(self.best)) ** 2)


def chosen(rehearsals: Rehearsals) -> RateChoice:
    return object.__new__(Bare).find(
        dataclasses.replace(recipe("standard"), learning_rate=0.01, schedule="constant"), rehearsals
    )


def found(bearable: float, best: float) -> tuple[list[float], dict[str, Any]]:
    rehearsals = Rehearsals(bearable, best)
    return rehearsals.asked, dict(chosen(rehearsals).settings)


@pytest.mark.parametrize(
    ("bearable", "best", "heads", "rate", "head"),
    [
        (1.0, 0.03, [0.1], 0.032, 0.1),
        (1.0, 0.001, [0.1], 0.001, 0.01),  # in proportion to the rest
        (0.0032, 0.03, [0.1, 0.032, 0.01, 0.0032], 0.032, 0.0032),  # what the head can bear
    ],
)
def test_the_head_learns_as_fast_as_it_can_bear_and_ten_times_as_fast_as_the_rest_at_most(
    bearable, best, heads, rate, head
):
    asked, settings = found(bearable, best)
    assert asked == pytest.approx(heads, rel=0.02)
    assert settings["learning_rate"] == pytest.approx(rate, rel=0.02)
    assert settings["head_learning_rate"] == pytest.approx(head, rel=0.02)


def test_a_head_that_learns_at_no_rate_is_told_of():
    rehearsals = Rehearsals(bearable=1e-5, best=0.03)
    (note,) = chosen(rehearsals).notes
    assert len(rehearsals.asked) == 5
    assert "at all of 5 rates, from 0.1 down to 0.001," in note
    assert "feature_extractor" in note


@pytest.mark.parametrize("bearable", [1.0, 0.001])  # the last of the five rates is enough
def test_a_head_that_learns_at_some_rate_is_no_news(bearable):
    assert chosen(Rehearsals(bearable, best=0.03)).notes == ()


@dataclasses.dataclass
class FromProbe(Rehearsals):
    """All parts learn best at ``best``, the head with them."""

    tried: list[float] = dataclasses.field(default_factory=list)

    def run(self, peaks: dict[str, float], steps: int) -> Any:
        assert set(peaks) == set(PARTS)
        (rate,) = set(peaks.values())
        self.tried.append(rate)
        return SimpleNamespace(loss=1 + (math.log10(rate) - math.log10(self.best)) ** 2)


def test_where_the_head_learns_nothing_the_run_starts_from_a_probe():
    probe = FromProbe(bearable=0, best=0.001)
    fresh = Rehearsals(bearable=0.03, best=0.03, from_probe=lambda: probe)
    choice = chosen(fresh)
    assert fresh.asked == [0.1], "no slower heads"
    assert probe.tried == pytest.approx([0.01 / 10**1.5, 0.001, 0.01 / 10**0.5], rel=0.01)
    assert choice.settings == {"learning_rate": 0.001, "from_probe": True}
    assert choice.notes == ()


def test_a_head_that_learns_needs_no_probe():
    settings = chosen(Rehearsals(bearable=1.0, best=0.03, from_probe=lambda: 1 / 0)).settings
    assert "from_probe" not in settings
