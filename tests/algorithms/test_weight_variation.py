"""Weight variation of blocks, and accumulated gradients: against loops over kernels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax.algorithms import weight_variation

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


# ---------------------------------------------------------------- other measures of it


def test_the_other_measures_divide_by_the_root_of_the_count_and_by_the_weights(trees):
    before, after = trees
    rms, relative = (
        weight_variation.weight_variation(before, after, measure=measure) for measure in ("rms", "relative")
    )
    for place, name in enumerate(sorted(before)[:3]):
        old, new = (
            np.concatenate([tree[name][layer]["kernel"].ravel() for layer in ("conv", "dense")])
            for tree in trees
        )
        assert float(rms[place]) == pytest.approx(np.sqrt(np.mean((new - old) ** 2)), rel=1e-4)
        assert float(relative[place]) == pytest.approx(
            np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-4
        )


def test_a_larger_block_looks_still_to_the_published_measure_alone():
    sizes = {"block_01": 16, "block_02": 1600}
    before = {name: {"kernel": np.full(size, 2.0)} for name, size in sizes.items()}
    after = {name: {"kernel": np.full(size, 2.5)} for name, size in sizes.items()}

    def ratio(measure):
        small, large = weight_variation.weight_variation(before, after, measure=measure).tolist()
        return large / small

    assert [ratio(m) for m in weight_variation.MEASURES] == pytest.approx([0.1, 1.0, 1.0])


def test_relative_movement_of_weights_of_zero_is_infinite_and_without_a_move_zero():
    zeros = {"block_01": {"kernel": np.zeros(3)}}
    measure = {"measure": "relative"}
    moved = {"block_01": {"kernel": np.ones(3)}}
    assert weight_variation.weight_variation(zeros, moved, **measure).tolist() == [math.inf]
    assert weight_variation.weight_variation(zeros, zeros, **measure).tolist() == [0.0]
    gradient = jax.grad(lambda w: weight_variation.weight_variation(zeros, w, **measure).sum())(zeros)
    assert gradient["block_01"]["kernel"].tolist() == [0.0, 0.0, 0.0]


def test_a_measure_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="measure must be one of mean, rms, relative, got 'median'"):
        weight_variation.weight_variation({}, {}, measure="median")
