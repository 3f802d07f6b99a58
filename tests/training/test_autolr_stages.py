"""AutoLR over stages: blocks that count as one."""

import numpy as np
import pytest

from finetune_jax.algorithms.autolr import AutoLRConfig
from finetune_jax.errors import UserError
from finetune_jax.training.methods.autolr import AutoLRTuner, Stage, of_stage
from finetune_jax.training.tuning import Pass

BLOCKS = ("block_01", "block_02", "block_03", "block_04")
CONFIG, RATE, HEAD_RATE = AutoLRConfig(), 0.02, 0.01


def constant(epoch):
    return 1.0


STAGES = (Stage(BLOCKS[:1], (6,)), Stage(BLOCKS[1:3], (6, 10)), Stage(BLOCKS[3:], (2,)))


@pytest.mark.parametrize("measure", ["mean", "rms", "relative"])
def test_the_blocks_of_a_stage_count_as_one_and_have_one_rate(measure):
    rng = np.random.default_rng(3)
    moved = {name: rng.normal(size=count) for name, count in zip(BLOCKS, (6, 6, 10, 2), strict=True)}
    length = dict.fromkeys(BLOCKS, 3.0)  # of the weights before

    def variation(*names):
        together = np.concatenate([moved[name] for name in names])
        norm, count = np.linalg.norm(together), together.size
        if measure == "relative":
            # Root mean square of ‖Δw‖ / ‖w‖, weighted by elements.
            ratios = np.array([np.linalg.norm(moved[name]) / length[name] for name in names])
            return np.sqrt(np.average(ratios**2, weights=[moved[name].size for name in names]))
        return norm / count if measure == "mean" else norm / np.sqrt(count)

    of_stages = [variation(*stage.blocks) for stage in STAGES]
    found = [of_stage([variation(name) for name in stage.blocks], stage.counts, measure) for stage in STAGES]
    np.testing.assert_allclose(found, of_stages, rtol=1e-6)
    over = AutoLRTuner(CONFIG, BLOCKS, RATE, {"head": HEAD_RATE}, "stem", constant, measure, STAGES)
    alone = AutoLRTuner(CONFIG, BLOCKS[:3], RATE, {"head": HEAD_RATE}, "stem", constant, measure)
    outcome = Pass(0, np.array([variation(name) for name in BLOCKS], np.float32), True)
    state, verdict = over.judge(over.initial(), outcome)
    expected_state, expected = alone.judge(alone.initial(), Pass(0, np.array(of_stages, np.float32), True))
    assert (verdict.accepted, verdict.quality) == (expected.accepted, expected.quality)
    of_three = alone.rates(expected_state, 1)
    rates = over.rates(state, 1)
    found = [rates[name] for name in ("stem", *BLOCKS, "head")]
    wanted = [of_three[name] for name in ("stem", BLOCKS[0], BLOCKS[1], BLOCKS[1], BLOCKS[2], "head")]
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_single_stage_has_nothing_to_order():
    with pytest.raises(UserError, match="--tuned_over=stages: all blocks that are trained"):
        AutoLRTuner(CONFIG, BLOCKS, RATE, {}, None, constant, stages=(Stage(BLOCKS, (6, 6, 6, 6)),))
