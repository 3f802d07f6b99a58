"""AutoLR's controller: against one written with branches, its threshold, trials and states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autolr_oracle import loop_initial, loop_quality, loop_renewed

from finetune_jax.algorithms import autolr
from finetune_jax.algorithms.autolr import AutoLRConfig


class PlainController:
    """One run of the algorithm with ordinary branches; an epoch's targets are None until a trial sets them."""

    def __init__(self, config, rates):
        self.config, self.rates = config, list(rates)
        self.targets, self.threshold, self.epoch, self.trial = None, config.threshold, 0, 0

    def update(self, v, finite):
        config = self.config
        outcome = dict.fromkeys(("accepted", "capped", "fallback", "diverged", "stop"), False)
        last = self.trial == config.max_trials - 1
        if not finite or not np.isfinite(v).all():
            outcome |= {"diverged": True, "stop": last}
            self.rates = [rate / 10 for rate in self.rates]
            self.trial += 1
            return outcome
        ordered = np.round(loop_quality(v), 3) >= self.threshold
        if ordered or last:
            outcome |= {"accepted": True, "capped": not ordered}
            self.epoch, self.trial, self.targets = self.epoch + 1, 0, None
            if self.threshold > config.threshold_floor:
                self.threshold *= config.threshold_decay
            return outcome
        if self.targets is None:
            if self.epoch == 0:
                self.targets, outcome["fallback"] = loop_initial(v, config.alpha, config.beta)
            else:
                self.targets = loop_renewed(v)
        self.rates = [
            rate if own == 0 else rate * target / own
            for rate, target, own in zip(self.rates, self.targets, v, strict=True)
        ]
        self.trial += 1
        return outcome


def random_trial(rng, count):
    v = rng.uniform(0.1, 1, size=count) * 10.0 ** rng.uniform(-1, 1)
    if rng.uniform() < 0.4:
        v = np.sort(v)
        v[-2:] = v[-2:][:: rng.choice([1, -1])]  # sometimes nearly sorted
    if rng.uniform() < 0.3:
        v = v.max() + v  # close enough to each other for the fallback
    if rng.uniform() < 0.1:
        v[rng.integers(count)] = 0.0
    if rng.uniform() < 0.1:
        v[rng.integers(count)] = rng.choice([np.nan, np.inf])
    return v, bool(rng.uniform() < 0.7)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (AutoLRConfig(), 14),
        (AutoLRConfig(), 7),
        (AutoLRConfig(max_trials=2), 1),
        (AutoLRConfig(max_trials=1), 7),
        (AutoLRConfig(0.5, 2.0, 0.7, 0.9, 0.3, max_trials=3), 7),
        (AutoLRConfig(threshold=1.0, threshold_decay=1.0, max_trials=4), 2),
    ],
)
def test_runs_agree_with_a_controller_written_with_branches(config, count):
    rng = np.random.default_rng(5)
    with jax.enable_x64(True):
        rates = rng.uniform(size=count)
        plain, state = PlainController(config, rates), autolr.init(config, rates)
        seen = dict.fromkeys(("accepted", "capped", "fallback", "diverged", "stop"), 0)
        for trial in range(200):
            v, finite = random_trial(rng, count)
            state, outcome = autolr.update(config, state, v, finite)
            expected = plain.update(v, finite)
            actual = {name: bool(getattr(outcome, name)) for name in expected}
            assert actual == expected
            np.testing.assert_allclose(state.learning_rates, plain.rates, rtol=1e-9)
            np.testing.assert_allclose(
                state.targets, np.full(count, -1.0) if plain.targets is None else plain.targets, rtol=1e-9
            )
            assert float(state.threshold) == pytest.approx(plain.threshold, rel=1e-12)
            assert (int(state.epoch), int(state.trial)) == (plain.epoch, plain.trial)
            if np.isfinite(v).all():
                assert float(outcome.quality) == pytest.approx(loop_quality(v), rel=1e-12)
            for name in expected:
                seen[name] += expected[name]
            if expected["stop"] or trial % 20 == 19:  # on with another run, from its first epoch
                plain, state = PlainController(config, rates), autolr.init(config, rates)
    assert min(seen["accepted"], seen["diverged"], seen["stop"]) > 0
    assert (seen["capped"] > 0) == (count > 1)
    assert (seen["fallback"] > 0) == (count > 1 and config.max_trials > 1 and config.alpha > config.beta)


CONFIG = AutoLRConfig()
RATES = np.full(4, 1e-3, np.float32)


SORTED, UNSORTED = np.asarray([1, 2, 3, 4], np.float32), np.asarray([40, 3, 2, 1], np.float32)


def test_the_first_state_has_the_given_rates_and_threshold():
    state = autolr.init(CONFIG, [0.1, 0.2])
    np.testing.assert_allclose(state.learning_rates, [0.1, 0.2])
    assert (float(state.threshold), int(state.epoch), int(state.trial)) == (np.float32(0.94), 0, 0)
    assert state.learning_rates.dtype == state.targets.dtype == state.threshold.dtype == jnp.float32


def test_further_trials_of_an_epoch_keep_its_targets_and_renew_the_rates():
    state, outcome = autolr.update(CONFIG, autolr.init(CONFIG, RATES), UNSORTED)
    assert not outcome.accepted
    assert not outcome.fallback
    targets = [2.0, 2 + 14 / 3, 2 + 28 / 3, 16.0]
    np.testing.assert_allclose(state.targets, targets, rtol=1e-6)
    np.testing.assert_allclose(state.learning_rates, 1e-3 * np.asarray(targets) / UNSORTED, rtol=1e-6)
    other = np.asarray([9, 1, 8, 2], np.float32)
    again, _ = autolr.update(CONFIG, state, other)
    np.testing.assert_array_equal(again.targets, state.targets)
    np.testing.assert_allclose(
        again.learning_rates, state.learning_rates * np.asarray(targets) / other, rtol=1e-6
    )
    assert (int(again.epoch), int(again.trial)) == (0, 2)


def test_later_epochs_set_their_own_targets_by_the_other_rule():
    state, _ = autolr.update(CONFIG, autolr.init(CONFIG, RATES), UNSORTED)
    accepted_rates = state.learning_rates
    state, outcome = autolr.update(CONFIG, state, SORTED)
    assert outcome.accepted
    np.testing.assert_array_equal(state.learning_rates, accepted_rates)
    assert (int(state.epoch), int(state.trial)) == (1, 0)
    state, _ = autolr.update(CONFIG, state, UNSORTED)
    np.testing.assert_allclose(state.targets, loop_renewed(UNSORTED.tolist()), rtol=1e-6)


def test_variations_within_a_factor_of_five_fall_back_and_say_so():
    state, outcome = autolr.update(CONFIG, autolr.init(CONFIG, RATES), [4.0, 3.0, 2.0, 1.0])
    assert outcome.fallback
    np.testing.assert_allclose(state.targets, [1.0, 2.0, 3.0, 4.0], rtol=1e-6)
    # Only the trial that sets the targets reports it.
    _, outcome = autolr.update(CONFIG, state, [4.0, 3.0, 2.0, 1.0])
    assert not outcome.fallback


def test_quality_is_rounded_to_three_decimals_before_it_meets_the_threshold():
    # 14 blocks, the lowest moved up by two places and the top two exchanged: 1 - 2/196 · 6.
    v = np.asarray([3, 1, 2, *range(4, 13), 14, 13], np.float32)
    value = 1 - 12 / 196  # 0.93878, rounded 0.939
    state = autolr.init(CONFIG, np.ones(14, np.float32))
    for threshold, accepted in ((0.939, True), (0.9391, False), (0.9388, True)):
        _, outcome = autolr.update(CONFIG, state._replace(threshold=np.float32(threshold)), v)
        assert bool(outcome.accepted) == accepted, threshold
        assert float(outcome.quality) == pytest.approx(value, rel=1e-6)  # reported as it is


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("count", "exchanges", "value"),
    [
        *((10, [(0, places)], 1 - 0.04 * places) for places in range(1, 10)),
        # 1 - 2/169 · 42, rounded. In float32, 1000 · 0.503 is above 503.
        (13, [(0, 12), (1, 10)], 0.503),
    ],
)
def test_a_quality_equal_to_the_threshold_is_accepted_in_every_precision(count, exchanges, value, dtype):
    v = np.arange(count, dtype=dtype)
    for pair in exchanges:
        v[list(pair)] = v[list(pair[::-1])]
    with jax.enable_x64(True):
        state = autolr.init(CONFIG, np.ones(count, dtype))
        for excess, accepted in ((0.0, True), (1e-6, False)):
            _, outcome = autolr.update(CONFIG, state._replace(threshold=dtype(value + excess)), v)
            assert bool(outcome.accepted) == accepted
            assert float(outcome.quality) == pytest.approx(value, abs=5e-4)


def test_the_threshold_decays_from_the_second_epoch_on_until_it_is_below_the_floor():
    state = autolr.init(CONFIG, RATES)
    thresholds = []
    for _ in range(20):
        thresholds.append(float(state.threshold))
        state, _ = autolr.update(CONFIG, state, SORTED)
    expected = [0.94 * 0.99 ** min(epoch, 17) for epoch in range(20)]
    assert expected[16] > 0.8 > expected[17]
    np.testing.assert_allclose(thresholds, expected, rtol=1e-5)


def test_a_constant_threshold_is_the_papers():
    config = AutoLRConfig(threshold_decay=1.0)
    state = autolr.init(config, RATES)
    for _ in range(3):
        state, _ = autolr.update(config, state, SORTED)
    assert state.threshold == np.float32(0.94)


def test_the_last_trial_is_taken_as_it_is_and_says_so():
    config = AutoLRConfig(max_trials=3)
    state = autolr.init(config, RATES)
    for trial in range(3):
        before = state
        state, outcome = autolr.update(config, state, UNSORTED)
        assert bool(outcome.accepted) == bool(outcome.capped) == (trial == 2)
    np.testing.assert_array_equal(state.learning_rates, before.learning_rates)
    assert (int(state.epoch), int(state.trial)) == (1, 0)
    assert state.threshold == np.float32(0.94) * np.float32(0.99)
    state, outcome = autolr.update(config, state._replace(trial=before.trial), SORTED)
    assert not outcome.capped  # sorted in its own right


@pytest.mark.parametrize(
    ("variations", "finite"),
    [(SORTED, False), ([1.0, 2.0, 3.0, np.nan], True), ([1.0, 2.0, 3.0, np.inf], True)],
)
def test_a_diverged_trial_is_rejected_whatever_its_quality_and_leaves_the_targets(variations, finite):
    state, _ = autolr.update(CONFIG, autolr.init(CONFIG, RATES), UNSORTED)
    after, outcome = autolr.update(CONFIG, state, variations, finite=finite)
    assert outcome.diverged
    assert not outcome.accepted
    assert not outcome.stop
    np.testing.assert_allclose(after.learning_rates, state.learning_rates / 10, rtol=1e-6)
    np.testing.assert_array_equal(after.targets, state.targets)
    assert (int(after.epoch), int(after.trial)) == (0, 2)


@pytest.mark.parametrize("epoch", [0, 1])
def test_targets_are_set_by_the_first_trial_that_did_not_diverge(epoch):
    state = autolr.init(CONFIG, RATES)
    if epoch:  # the targets of the epoch before must be forgotten
        state, _ = autolr.update(CONFIG, state, UNSORTED[::-1] * [1, 9, 1, 1])
        state, _ = autolr.update(CONFIG, state, SORTED)
    state, _ = autolr.update(CONFIG, state, UNSORTED, finite=False)
    state, outcome = autolr.update(CONFIG, state, UNSORTED)
    assert not outcome.accepted
    expected = loop_renewed(UNSORTED.tolist()) if epoch else loop_initial(UNSORTED.tolist())[0]
    np.testing.assert_allclose(state.targets, expected, rtol=1e-6)


def test_a_run_whose_last_trial_diverges_must_stop():
    config = AutoLRConfig(max_trials=2)
    state = autolr.init(config, RATES)
    state, outcome = autolr.update(config, state, SORTED, finite=False)
    assert outcome.diverged
    assert not outcome.stop
    state, outcome = autolr.update(config, state, SORTED, finite=False)
    assert outcome.stop
    assert not outcome.accepted
    assert int(state.epoch) == 0


def test_where_variations_are_proportional_to_rates_the_second_trial_is_sorted():
    """Supplement B: with equal accumulated gradients the new variations are the targets themselves."""
    per_rate = np.random.default_rng(6).uniform(1, 100, size=14)
    state = autolr.init(CONFIG, np.full(14, 1e-3))
    state, outcome = autolr.update(CONFIG, state, per_rate * state.learning_rates)
    assert not outcome.accepted
    variations = per_rate * state.learning_rates
    np.testing.assert_allclose(variations, state.targets, rtol=1e-5)
    state, outcome = autolr.update(CONFIG, state, variations)
    assert outcome.accepted
    assert outcome.quality == 1


def test_one_block_is_always_in_order():
    _, outcome = autolr.update(CONFIG, autolr.init(CONFIG, [1e-3]), [0.5])
    assert outcome.accepted
    assert not outcome.capped
    assert outcome.quality == 1


def test_a_whole_run_is_compiled_once_and_keeps_its_types(compilations):
    state = autolr.init(CONFIG, RATES)
    first, _ = autolr.update(CONFIG, state, UNSORTED)
    before = compilations.count
    state = first
    for variations in (UNSORTED, SORTED, UNSORTED):
        state, _ = autolr.update(CONFIG, state, variations)
    assert compilations.count == before

    def step(state, variations):
        state, outcome = autolr.update(CONFIG, state, variations)
        return state, outcome.accepted

    # The carry of a scan must keep every type, weak ones included.
    last, accepted = jax.lax.scan(step, first, np.stack([UNSORTED, SORTED, UNSORTED]))
    assert accepted.tolist() == [False, True, False]
    for ours, theirs in zip(last, state, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "compiled",
    [
        jax.jit(autolr.update),
        jax.jit(autolr.update, static_argnums=0),
        lambda config, *rest: jax.jit(functools.partial(autolr.update, config))(*rest),
    ],
    ids=["config is no array", "config is static", "config is bound"],
)
def test_update_works_within_compiled_functions(compiled):
    state, outcome = compiled(CONFIG, autolr.init(CONFIG, RATES), UNSORTED, jnp.asarray(True))
    expected_state, expected_outcome = autolr.update(CONFIG, autolr.init(CONFIG, RATES), UNSORTED)
    jax.tree.map(np.testing.assert_array_equal, (state, outcome), (expected_state, expected_outcome))


def test_update_works_without_compilation():
    with jax.disable_jit():
        state, outcome = autolr.update(CONFIG, autolr.init(CONFIG, RATES), UNSORTED)
        assert not outcome.accepted
        state, outcome = autolr.update(CONFIG, state, SORTED)
        assert outcome.accepted


def test_runs_of_a_map_are_judged_alone():
    rows = np.stack([SORTED, UNSORTED, np.full(4, np.nan, np.float32)])
    states = jax.vmap(lambda rates: autolr.init(CONFIG, rates))(np.stack([RATES] * 3))
    states, outcomes = jax.vmap(lambda state, v: autolr.update(CONFIG, state, v))(states, rows)
    assert outcomes.accepted.tolist() == [True, False, False]
    assert outcomes.diverged.tolist() == [False, False, True]
    alone, _ = autolr.update(CONFIG, autolr.init(CONFIG, RATES), UNSORTED)
    np.testing.assert_allclose(states.learning_rates[1], alone.learning_rates, rtol=1e-6)


def test_the_state_keeps_the_precision_of_its_rates():
    with jax.enable_x64(True):
        for dtype in (np.float32, np.float64):
            state = autolr.init(CONFIG, RATES.astype(dtype))
            for _ in range(2):
                state, outcome = autolr.update(CONFIG, state, UNSORTED.astype(np.float64))
                floats = (state.learning_rates, state.targets, state.threshold, outcome.quality)
                assert {x.dtype for x in floats} == {np.dtype(dtype)}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"alpha": 0.0}, "alpha must be positive and finite, got 0.0"),
        ({"alpha": float("nan")}, "alpha"),
        ({"beta": -1.0}, "beta must be positive"),
        ({"beta": float("inf")}, "beta"),
        ({"threshold": 1.01}, r"threshold must be in \[0, 1\], got 1.01"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold_floor": -0.1}, "threshold_floor must be in"),
        ({"threshold_decay": 0.0}, r"threshold_decay must be in \(0, 1\]"),
        ({"threshold_decay": 1.5}, "threshold_decay"),
        ({"max_trials": 0}, "max_trials must be a whole number of at least 1, got 0"),
        ({"max_trials": 2.5}, "max_trials"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        AutoLRConfig(**setting)


def test_settings_at_the_edge_of_their_range_are_taken():
    AutoLRConfig(alpha=0.4, beta=2.0, threshold=1.0, threshold_decay=1.0, threshold_floor=0.0, max_trials=1)
    AutoLRConfig(threshold=0.5)  # below the floor: constant


def test_rates_and_variations_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"at least 0, got \[0.5, -1.0\]"):
        autolr.init(CONFIG, [0.5, -1.0])
    with pytest.raises(ValueError, match="finite"):
        autolr.init(CONFIG, [np.nan])
    with pytest.raises(ValueError, match=r"got shape \(\)"):
        autolr.init(CONFIG, 1e-3)
    with pytest.raises(ValueError, match=r"shape \(3,\) for rates \(4,\)"):
        autolr.update(CONFIG, autolr.init(CONFIG, RATES), SORTED[:3])


def test_rates_are_tuned_in_the_first_epochs_alone_where_that_is_asked_for():
    config = autolr.AutoLRConfig(tuned_epochs=1, max_trials=2)
    state = autolr.init(config, [0.1, 0.1, 0.1])
    descending = [9.0, 4.0, 1.0]
    state, outcome = autolr.update(config, state, descending)
    assert not outcome.accepted
    state, outcome = autolr.update(config, state, descending)
    assert outcome.capped
    rates = state.learning_rates.tolist()
    for _ in range(2):
        state, outcome = autolr.update(config, state, descending)
        assert (bool(outcome.accepted), bool(outcome.capped)) == (True, False)
        assert state.learning_rates.tolist() == rates
    state, outcome = autolr.update(config, state, descending, finite=False)
    assert not outcome.accepted


def test_the_first_targets_are_spaced_as_the_config_says():
    config = autolr.AutoLRConfig(spacing="geometric")
    state, _ = autolr.update(config, autolr.init(config, [0.1, 0.1, 0.1]), [40.0, 1.0, 5.0])
    np.testing.assert_allclose(state.targets, np.geomspace(2.0, 16.0, 3), rtol=1e-5)
