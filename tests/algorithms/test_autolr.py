"""AutoLR against loops written from the paper, its own published numbers, and a controller in plain Python."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_jax.algorithms import autolr, weight_variation
from finetune_jax.algorithms.autolr import AutoLRConfig

COUNTS = (1, 2, 3, 4, 7, 14)  # few, since every number of blocks is compiled anew

positive_variations = st.sampled_from(COUNTS).flatmap(
    # Whole numbers, so that they and their multiples are exact in float32; the scale is a matter of tests below.
    lambda count: st.lists(st.integers(1, 2**20), min_size=count, max_size=count)
)

quality = jax.jit(autolr.sorting_quality)
initial = jax.jit(autolr.initial_targets)
renewed = jax.jit(autolr.renewed_targets)


def loop_quality(v):
    """Eq. 9; ``sorted`` is stable, so ties keep the order of the blocks."""
    count = len(v)
    order = sorted(range(count), key=lambda k: v[k])
    return 1 - 2 / count**2 * sum(abs(k - order.index(k)) for k in range(count))


def loop_initial(v, alpha=2.0, beta=0.4):
    """Eq. 10–11 with α in the first term; returns the targets and whether α and β were left aside."""
    count, low, high = len(v), alpha * min(v), beta * max(v)
    fallback = high <= low or count == 1
    if fallback:
        low, high = min(v), max(v)
    step = (high - low) / (count - 1) if count > 1 else 0.0
    return [low + k * step for k in range(count)], fallback


def loop_renewed(v):
    """Eq. 12–13, floored."""
    count = len(v)
    step = (max(v) - min(v)) / (count - 1) if count > 1 else 0.0
    centre = count // 2
    t = list(v)
    for k in range(centre + 1, count):
        t[k] = v[k] if v[k] >= t[k - 1] else t[k - 1] + step
    for k in range(centre - 1, -1, -1):
        t[k] = v[k] if v[k] <= t[k + 1] else t[k + 1] - step
    return [max(target, 0.1 * min(v)) for target in t]


# ---------------------------------------------------------------- weight variation


def block(rng, scale=1.0):
    return {
        "conv": {"kernel": scale * rng.normal(size=(3, 3, 2, 4)), "bias": scale * rng.normal(size=4)},
        "norm": {"scale": scale * rng.normal(size=4), "bias": scale * rng.normal(size=4)},
        "dense": {"kernel": scale * rng.normal(size=(4, 5)), "bias": scale * rng.normal(size=5)},
    }


@pytest.fixture
def trees():
    rng = np.random.default_rng(0)
    names = ("stem", *(f"block_{i:02d}" for i in range(1, 4)), "head")
    before = {name: block(rng) for name in names}
    moves = {name: block(rng, 10.0**-i) for i, name in enumerate(names)}
    return before, jax.tree.map(np.add, before, moves)


def loop_variation(before, after, kernels):
    squares = number = 0
    for layer, leaf in kernels:
        for a, b in zip(before[layer][leaf].ravel(), after[layer][leaf].ravel(), strict=True):
            squares += (float(b) - float(a)) ** 2
            number += 1
    return math.sqrt(squares) / number


def test_variation_is_the_norm_over_the_kernels_divided_by_their_number_of_elements(trees):
    kernels = [("conv", "kernel"), ("dense", "kernel")]
    expected = [loop_variation(*(tree[name] for tree in trees), kernels) for name in sorted(trees[0])[:3]]
    actual = jax.jit(weight_variation.weight_variation)(*trees)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-4)  # differences of float32 weights


def test_variation_is_computed_in_float64_where_the_weights_are(trees):
    kernels = [("conv", "kernel"), ("dense", "kernel")]
    expected = [loop_variation(*(tree[name] for tree in trees), kernels) for name in sorted(trees[0])[:3]]
    with jax.enable_x64(True):
        actual = jax.jit(weight_variation.weight_variation)(*trees)
        assert actual.dtype == jnp.float64
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_low_precision_weights_are_subtracted_in_float32():
    before = {"block_01": {"kernel": jnp.full((2, 2), 256.0, jnp.bfloat16)}}
    after = {"block_01": {"kernel": jnp.full((2, 2), 3.0, jnp.bfloat16)}}
    variation = weight_variation.weight_variation(before, after)  # 253 has eight bits, -253 / 4 · 2 as well
    assert variation.dtype == jnp.float32
    assert variation.tolist() == [2 * 253 / 4]


def test_blocks_are_named_or_found_and_ordered_by_their_number():
    names = ["block_10", "head", "block_2", "block_1", "stem"]
    before = {name: {"kernel": np.zeros((2, 2))} for name in names}
    after = {name: {"kernel": np.full((2, 2), 2.0 * i)} for i, name in enumerate(names)}
    assert weight_variation.block_names(after) == ("block_1", "block_2", "block_10")
    # A norm of 4 i, over 4 elements. Under jit JAX hands the keys over sorted as text.
    for variation in (weight_variation.weight_variation, jax.jit(weight_variation.weight_variation)):
        assert variation(before, after).tolist() == [3.0, 2.0, 0.0]
    assert weight_variation.weight_variation(before, after, blocks=("stem", "head")).tolist() == [4.0, 1.0]


def encoder_layer(rng):
    """As Flax names it, with attention kernels of three and biases of two dimensions."""
    return {
        "LayerNorm_0": {"scale": rng.normal(size=8), "bias": rng.normal(size=8)},
        "attention": {
            "query": {"kernel": rng.normal(size=(8, 2, 4)), "bias": rng.normal(size=(2, 4))},
            "out": {"kernel": rng.normal(size=(2, 4, 8)), "bias": rng.normal(size=8)},
            "relative_position_bias_table": rng.normal(size=(5, 2)),
            "relative_position_index": np.arange(6).reshape(2, 3),
        },
        # As PyTorch and hand-written code name them, in a list.
        "mlp": [
            {"weight": rng.normal(size=(16, 8)), "bias": rng.normal(size=16)},
            {"w": rng.normal(size=(8, 16)), "b": rng.normal(size=8)},
            {"weight": rng.normal(size=8)},
        ],
        "pos_embedding": rng.normal(size=(1, 5, 8)),
    }


def test_blocks_of_a_transformer_are_measured_by_their_dense_kernels():
    rng = np.random.default_rng(1)
    blocks = ("embedder", "encoder_1", "encoder_0")
    before = {name: encoder_layer(rng) for name in blocks}
    after = {name: encoder_layer(rng) for name in blocks}
    after["encoder_0"]["attention"]["relative_position_index"] += 100

    def flat(layer):
        attention, mlp = layer["attention"], layer["mlp"]
        kernels = (attention["query"]["kernel"], attention["out"]["kernel"], mlp[0]["weight"], mlp[1]["w"])
        return np.concatenate([kernel.ravel() for kernel in kernels])

    expected = [
        np.linalg.norm(flat(after[name]) - flat(before[name])) / (64 + 64 + 128 + 128) for name in blocks
    ]
    actual = weight_variation.weight_variation(before, after, blocks=blocks)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_the_caller_decides_which_leaves_count(trees):
    before, after = trees
    seen = []

    def biases(path, leaf):
        seen.append((path, leaf.shape))
        return path[-1] == "bias"

    kernels = [("conv", "bias"), ("norm", "bias"), ("dense", "bias")]
    expected = loop_variation(before["block_02"], after["block_02"], kernels)
    actual = weight_variation.weight_variation(before, after, blocks=["block_02"], include=biases)
    np.testing.assert_allclose(actual, [expected], rtol=1e-5)
    assert (("conv", "kernel"), (3, 3, 2, 4)) in seen


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1.0, 1e30])
def test_variations_neither_vanish_nor_overflow_where_the_weights_do_not(scale):
    before = {"block_01": {"kernel": np.zeros((2, 2), np.float32)}}
    after = {"block_01": {"kernel": np.full((2, 2), scale, np.float32)}}
    np.testing.assert_allclose(weight_variation.weight_variation(before, after), [scale / 2], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_weight_makes_its_block_not_finite_and_no_other(trees, bad):
    before, after = trees
    after["block_02"]["dense"]["kernel"][0, 0] = bad
    finite = np.isfinite(weight_variation.weight_variation(before, after))
    assert finite.tolist() == [True, False, True]


def test_variation_has_the_gradient_of_a_norm_and_none_at_rest():
    before = {"block_01": {"kernel": jnp.zeros((2, 2))}, "block_02": {"kernel": jnp.zeros((2, 2))}}
    after = {"block_01": {"kernel": jnp.asarray([[3.0, 0.0], [0.0, 4.0]])}, "block_02": before["block_02"]}
    gradient = jax.jit(jax.grad(lambda current: weight_variation.weight_variation(before, current).sum()))(
        after
    )
    # d‖w‖/dw = w / ‖w‖, divided by four elements.
    np.testing.assert_allclose(gradient["block_01"]["kernel"], [[3 / 20, 0], [0, 4 / 20]], rtol=1e-6)
    np.testing.assert_array_equal(gradient["block_02"]["kernel"], 0)


def test_variations_of_several_runs_are_those_of_each(trees):
    before, after = trees
    runs = jax.tree.map(lambda a, b: np.stack([a, b, (a + b) / 2]), after, before)
    together = jax.jit(jax.vmap(lambda current: weight_variation.weight_variation(before, current)))(runs)
    alone = jax.jit(weight_variation.weight_variation)(before, after)
    np.testing.assert_allclose(together, [alone, 0 * alone, alone / 2], rtol=1e-4)


def test_unusable_blocks_are_named(trees):
    before, after = trees
    with pytest.raises(ValueError, match=r"no block 'block_09' before, only \['block_01'"):
        weight_variation.weight_variation(before, after, blocks=("block_01", "block_09"))
    with pytest.raises(ValueError, match=r"no key is called block_\*.*\['layer'\]"):
        weight_variation.weight_variation({"layer": {}}, {"layer": {}})
    with pytest.raises(ValueError, match="at least one block"):
        weight_variation.weight_variation(before, after, blocks=())
    with pytest.raises(ValueError, match=r"\('block_01',\) before, \('block_01', 'block_02', 'block_03'\)"):
        weight_variation.weight_variation({"block_01": before["block_01"]}, after)
    only_norm = {"block_01": {"norm": before["block_01"]["norm"]}}
    with pytest.raises(ValueError, match=r"'block_01' has no kernels among \['norm/bias', 'norm/scale'\]"):
        weight_variation.weight_variation(only_norm, only_norm)
    with pytest.raises(ValueError, match="'block_01' has no kernels"):
        weight_variation.weight_variation({"block_01": {}}, {"block_01": {}})


def test_blocks_that_changed_their_form_are_named(trees):
    before, after = trees
    reshaped = {**after, "block_02": {**after["block_02"], "dense": {"kernel": np.zeros((5, 4)), "bias": 0}}}
    with pytest.raises(ValueError, match=r"'block_02': dense/kernel has the shape \(4, 5\).*\(5, 4\)"):
        weight_variation.weight_variation(before, reshaped)
    renamed = {**after, "block_03": {**after["block_03"], "extra": {"kernel": np.zeros((1, 1))}}}
    with pytest.raises(ValueError, match=r"'block_03'.*\['extra/kernel'\]"):
        weight_variation.weight_variation(before, renamed)


# ---------------------------------------------------------------- sorting quality


@pytest.mark.parametrize(
    ("variations", "expected"),
    [
        ([5.0], 1.0),
        ([1.0, 2.0, 3.0], 1.0),
        ([2.0, 2.0, 2.0], 1.0),
        ([0.0, 0.0, 1.0, 1.0], 1.0),
        ([2.0, 1.0], 0.0),  # 1 - 2/4 · 2
        ([4.0, 3.0, 2.0, 1.0], 0.0),  # 1 - 2/16 · (3 + 1 + 1 + 3)
        ([3.0, 2.0, 1.0], 1 / 9),  # 1 - 2/9 · 4: an odd number of blocks never gets to 0
        ([1.0, 2.0, 2.0, 1.0], 1 - 2 / 16 * 4),  # ranks 1, 3, 4, 2
        ([np.inf, 1.0], 0.0),
    ],
)
def test_quality_of_hand_worked_orders(variations, expected):
    np.testing.assert_allclose(autolr.sorting_quality(variations), expected, rtol=1e-6)


@given(st.sampled_from(COUNTS).flatmap(lambda n: st.lists(st.integers(0, 4), min_size=n, max_size=n)))
def test_quality_agrees_with_the_loop_and_is_1_only_without_a_descent(levels):
    v = np.asarray(levels, np.float32)
    actual = float(quality(v))
    assert actual == pytest.approx(loop_quality(levels), abs=1e-6)
    assert 0 <= actual <= 1
    assert (actual == 1) == all(a <= b for a, b in itertools.pairwise(levels))


@given(positive_variations, st.integers(-60, 60))
def test_quality_depends_on_the_order_alone(variations, power):
    v = np.asarray(variations, np.float32)
    order = np.unique(v, return_inverse=True)[1].astype(np.float32)
    assert quality(v) == quality(order) == quality(v * np.float32(2.0**power))


def test_a_nan_has_no_rank():
    assert np.isnan(autolr.sorting_quality([1.0, 2.0, np.nan]))


# ---------------------------------------------------------------- targets and rates


def test_initial_targets_are_equally_spaced_between_the_two_ends():
    # α · min = 2, β · max = 8.
    targets = autolr.initial_targets([20.0, 1.0, 5.0, 7.0])
    np.testing.assert_allclose(targets, [2.0, 4.0, 6.0, 8.0], rtol=1e-6)
    targets = autolr.initial_targets([20.0, 1.0, 5.0, 7.0], alpha=3.0, beta=0.6)
    np.testing.assert_allclose(targets, [3.0, 6.0, 9.0, 12.0], rtol=1e-6)


@pytest.mark.parametrize("largest", [4.0, 5.0])
def test_ends_that_do_not_ascend_become_the_smallest_and_the_largest_variation(largest):
    targets = autolr.initial_targets([largest, 1.0, 2.0])
    np.testing.assert_allclose(targets, [1.0, (1 + largest) / 2, largest], rtol=1e-6)


@given(positive_variations, st.sampled_from([(2.0, 0.4), (0.5, 2.0), (3.0, 0.6)]))
def test_initial_targets_agree_with_the_loop_and_never_descend(variations, ends):
    v = np.asarray(variations, np.float32)
    alpha, beta = ends
    actual = np.asarray(initial(v, alpha=alpha, beta=beta))
    np.testing.assert_allclose(actual, loop_initial(v.tolist(), alpha, beta)[0], rtol=1e-5)
    assert (np.diff(actual) >= 0).all()


@pytest.mark.parametrize(
    ("variations", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]),
        # d = 3/2, from the middle: 1; up: 2.5 ≥ 1 stays; down: 4 > 1 becomes 1 - 1.5, floored at 0.1.
        ([4.0, 1.0, 2.5], [0.1, 1.0, 2.5]),
        # d = 1, from the third: 3; up: 1 < 3 becomes 4; down: 4 > 3 becomes 2, then 2 stays.
        ([2.0, 4.0, 3.0, 1.0], [2.0, 2.0, 3.0, 4.0]),
        # d = 4, from the second, which keeps its 1; down: 5 becomes 1 - 4.
        ([5.0, 1.0], [0.1, 1.0]),
        ([3.0], [3.0]),
        ([2.0, 2.0], [2.0, 2.0]),
    ],
)
def test_renewed_targets_of_hand_worked_variations(variations, expected):
    np.testing.assert_allclose(autolr.renewed_targets(variations), expected, rtol=1e-6)


@given(positive_variations)
def test_renewed_targets_agree_with_the_loop_never_descend_and_stay_positive(variations):
    v = np.asarray(variations, np.float32)
    actual = np.asarray(renewed(v))
    np.testing.assert_allclose(actual, loop_renewed(v.tolist()), rtol=1e-4, atol=1e-6 * v.max())
    assert (np.diff(actual) >= 0).all()
    assert (actual >= np.float32(0.0999) * v.min()).all()
    assert actual[len(v) // 2] == v[len(v) // 2]


@given(positive_variations)
def test_renewed_targets_of_sorted_variations_are_these_variations(variations):
    v = np.sort(np.asarray(variations, np.float32))
    np.testing.assert_array_equal(renewed(v), v)


@given(positive_variations, st.integers(-60, 60))
def test_targets_scale_with_the_variations(variations, power):
    v = np.asarray(variations, np.float32)
    factor = np.float32(2.0**power)
    for targets in (initial, renewed):
        np.testing.assert_array_equal(targets(v * factor), targets(v) * factor)


def test_rates_are_scaled_by_target_over_variation_and_kept_where_nothing_moved():
    rates = autolr.renewed_learning_rates([0.1, 0.1, 0.2], [2.0, 3.0, 3.0], [4.0, 0.0, 1.0])
    np.testing.assert_allclose(rates, [0.05, 0.1, 0.6], rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda v: autolr.renewed_learning_rates(jnp.ones(2), jnp.ones(2), v).sum()))
    np.testing.assert_allclose(gradient(jnp.asarray([2.0, 0.0])), [-0.25, 0.0])


def test_small_variations_do_not_vanish_on_the_way_to_the_rates():
    # The product of rate and target does not fit into float32.
    rates = autolr.renewed_learning_rates([1e-6], [3e-35], [1e-35])
    np.testing.assert_allclose(rates, [3e-6], rtol=1e-5)


def test_published_rates_follow_from_the_published_gradients():
    """Table 1 of the supplement: the rates of 14 blocks after the first trial, from their gradients.

    The variation is ``1e-3 · ‖∇L_acc‖ / n`` (Eq. 8) with the number of weights of ResNet-50's bottlenecks. The
    printed rates follow with α in the first term of Eq. 11 (as printed it gives 0.15 for the second block), and
    with an ``n`` that leaves out the projected shortcuts. Only the first rate, printed 0.16, does not (0.185).
    """
    gradients = [66.04, 56.63, 53.57, 87.88, 101.17, 110.24, 87.22]
    gradients += [165.47, 213.56, 140.41, 136.67, 169.35, 285.15, 418.59]
    printed = [0.16, 0.29, 0.33, 0.76, 0.80, 0.78, 1.05, 2.06, 1.91, 3.05, 3.29, 2.78, 1.73, 4.33]
    channels = [(64, 64), *[(256, 64)] * 2, (256, 128), *[(512, 128)] * 3]
    channels += [(512, 256), *[(1024, 256)] * 5, (1024, 512)]
    sizes = [inner * (wide + 9 * inner + 4 * inner) for wide, inner in channels]
    v = 1e-3 * np.asarray(gradients) / np.asarray(sizes)
    rates = autolr.renewed_learning_rates(np.ones(14), autolr.initial_targets(v), v)
    np.testing.assert_allclose(rates[1:], printed[1:], rtol=0, atol=0.006)
    np.testing.assert_allclose(rates[0], 0.185, rtol=0, atol=0.001)


def test_targets_and_rates_keep_float64():
    rng = np.random.default_rng(3)
    v, rates = rng.uniform(1, 9, size=7), rng.uniform(size=7)
    with jax.enable_x64(True):
        first, later = initial(v), renewed(v)
        new = jax.jit(autolr.renewed_learning_rates)(rates, first, v)
        assert {x.dtype.name for x in (first, later, new, quality(v))} == {"float64"}
        np.testing.assert_allclose(first, loop_initial(v.tolist())[0], rtol=1e-14)
        np.testing.assert_allclose(later, loop_renewed(v.tolist()), rtol=1e-14)
        np.testing.assert_allclose(new, rates * np.asarray(first) / v, rtol=1e-14)
        assert initial(v.astype(np.float32)).dtype == jnp.float32


@pytest.mark.parametrize(
    "function",
    [autolr.sorting_quality, autolr.initial_targets, autolr.renewed_targets],
    ids=lambda f: f.__name__,
)
def test_rows_of_a_map_are_computed_alone(function):
    v = np.random.default_rng(4).uniform(1, 9, size=(5, 7)).astype(np.float32)
    alone = jax.jit(function)
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(v), [alone(row) for row in v], rtol=1e-6)


def test_a_map_over_alpha_and_beta_gives_the_grid_of_figure_3():
    v = np.asarray([20.0, 1.0, 5.0, 7.0], np.float32)
    alphas, betas = np.asarray([1.0, 2.0], np.float32), np.asarray([0.4, 0.6, 0.8], np.float32)

    def targets(alpha, beta):
        return autolr.initial_targets(v, alpha=alpha, beta=beta)

    grid = jax.jit(jax.vmap(jax.vmap(targets, (None, 0)), (0, None)))(alphas, betas)
    expected = [[loop_initial(v.tolist(), a, b)[0] for b in betas.tolist()] for a in alphas.tolist()]
    np.testing.assert_allclose(grid, expected, rtol=1e-6)


def test_wrong_shapes_are_named():
    for function in (autolr.sorting_quality, autolr.initial_targets, autolr.renewed_targets):
        with pytest.raises(ValueError, match=r"variations must be .* got shape \(2, 3\)"):
            function(np.ones((2, 3)))
        with pytest.raises(ValueError, match=r"got shape \(0,\)"):
            function([])
    with pytest.raises(ValueError, match=r"\(3,\), \(2,\) and \(3,\)"):
        autolr.renewed_learning_rates(np.ones(3), np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="alpha must be positive"):
        autolr.initial_targets([1.0, 2.0], alpha=0.0)


# ---------------------------------------------------------------- the controller


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


# --- accumulated gradients --------------------------------------------------------------------------------


def test_kernels_are_counted_as_the_variation_counts_them():
    tree = {
        "block_02": {"conv": {"kernel": np.zeros((3, 3, 4, 5), np.float32), "bias": np.zeros(5, np.float32)}},
        "block_10": {
            "dense": {"kernel": np.zeros((7, 2), np.float32)},
            "norm": {"scale": np.ones(2, np.float32)},
        },
        "head": {"kernel": np.zeros((100, 100), np.float32)},
    }
    counts = weight_variation.kernel_counts(tree)
    np.testing.assert_array_equal(counts, [180, 14])
    moved = jax.tree.map(lambda leaf: leaf + 1, tree)
    # Every element moved by 1: the norm is the root of their number.
    np.testing.assert_allclose(weight_variation.weight_variation(tree, moved), 1 / np.sqrt(counts), rtol=1e-6)
    np.testing.assert_array_equal(weight_variation.kernel_counts(tree, blocks=("head",)), [10000])


def test_gamma_is_one_where_weights_move_in_proportion_to_the_rate():
    counts, norms = np.array([10, 20, 30]), np.array([3.0, 5.0, 7.0])
    first, second = np.array([0.1, 0.1, 0.1]), np.array([0.02, 0.1, 0.0])
    found = [
        weight_variation.accumulated_gradient_norms(rates, rates * norms / counts, counts)
        for rates in (first, second)
    ]
    np.testing.assert_allclose(found[0], norms, rtol=1e-6)
    np.testing.assert_allclose(found[1], [3.0, 5.0, np.nan], rtol=1e-6)
