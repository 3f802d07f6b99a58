"""Range tests of steps whose loss is a formula: each part is found the rate that it bears."""

import math

import numpy as np
import pytest

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.training import rate_finder, tuning

# The rate from which on the loss rises, of each part.
LIMITS = {"stem": 0.3, "block_01": 0.003, "block_02": 0.03}
HEAD = 0.1


def tuner(config):
    rates = dict.fromkeys((*LIMITS, "head"), config.learning_rate)
    return tuning.FixedRates(tuple(LIMITS), lambda epoch: rates)


class Rehearsals:
    """Losses that fall with the rate of each part up to its limit and rise beyond it; notes what it is asked."""

    def __init__(self):
        self.asked, self.before, self.said = [], None, []

    def after(self, rates, steps):
        self.before = rates, steps
        return self

    def losses(self, rates, worst):
        self.asked.append(rates)
        losses = []
        for of_step in rates:
            far = [
                abs(math.log(of_step[part] / limit)) for part, limit in LIMITS.items() if of_step[part] > 0
            ]
            losses.append(1 + sum(far))
            if worst(losses):
                break
        return losses

    def say(self, line):
        self.said.append(line)


@pytest.mark.parametrize(("optimizer", "divisor"), [("sgd", 3), ("adamw", 10)])
def test_each_part_gets_the_share_of_the_rate_with_its_own_lowest_loss(optimizer, divisor):
    made = Rehearsals()
    config = FinetuneConfig(optimizer=optimizer)
    factors, reason = rate_finder.find_factors(config, tuner, made, 0.03)
    assert list(factors) == list(LIMITS)
    for part, limit in LIMITS.items():
        # The average over the steps before is lowest a little later; steps are 27 % apart.
        assert 1 <= 0.03 * factors[part] * divisor / limit < 3
    assert reason.startswith("each part by a test of its own, from ")


def test_the_head_learns_first_and_then_one_part_at_a_time_with_it():
    made = Rehearsals()
    rate_finder.find_factors(FinetuneConfig(), tuner, made, 0.03)
    still = dict.fromkeys(LIMITS, 0.0)
    assert made.before == ({**still, "head": 0.03}, 20)
    for part, rates in zip(LIMITS, made.asked, strict=True):
        values = [of_step.pop(part) for of_step in rates]
        np.testing.assert_allclose(values, 0.03 * np.geomspace(0.01, 100, 40), rtol=1e-6)
        others = {name: 0.0 for name in LIMITS if name != part}
        assert all(of_step == {**others, "head": 0.03} for of_step in rates)
