"""Truncated networks, and Algorithm 1 on the scores the paper prints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_jax import models
from finetune_jax.models import pruning

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)


@pytest.fixture(scope="module")
def whole():
    # Twelve blocks of 8, 16 and 32 channels.
    network = models.create("resnet26", num_classes=5, width=0.125)
    return network, network.init(jax.random.key(0), IMAGES)


def test_depth_0_is_the_same_network(whole):
    network, variables = whole
    assert pruning.truncate(network, 0) == network
    assert pruning.truncate_variables(variables, 0) == variables


@pytest.mark.parametrize("depth", [1, 2, 5, 11])
def test_the_top_blocks_go_and_everything_else_stays_as_it_is(whole, depth):
    network, variables = whole
    kept = ("stem", *(f"block_{i:02d}" for i in range(1, 13 - depth)), "head")
    truncated, remaining = pruning.truncate(network, depth), pruning.truncate_variables(variables, depth)
    assert truncated.part_names == kept
    for kind in ("params", "batch_stats"):
        assert set(remaining[kind]) == set(kept)
        assert all(remaining[kind][name] is variables[kind][name] for name in kept)
    assert len(variables["params"]) == 14  # the given ones are left alone


@pytest.mark.parametrize("depth", [1, 5])
def test_a_truncated_network_gives_the_features_of_the_block_that_is_now_its_last(whole, depth):
    network, variables = whole
    truncated, remaining = pruning.truncate(network, depth), pruning.truncate_variables(variables, depth)
    x = IMAGES
    for name in network.part_names[: 13 - depth]:
        own = {kind: variables[kind][name] for kind in variables if variables[kind][name]}
        x = network.part(name).apply(own, x, False)
    np.testing.assert_array_equal(truncated.embed(remaining, IMAGES), x.mean((1, 2)))


def test_a_head_that_still_fits_is_kept(whole):
    network, variables = whole
    truncated, remaining = pruning.truncate(network, 3), pruning.truncate_variables(variables, 3)
    fitted = pruning.fit_head(truncated, remaining, jax.random.key(1), IMAGES)
    assert fitted == remaining
    assert truncated.apply(fitted, IMAGES).shape == (2, 5)


def test_a_head_for_another_number_of_channels_is_made_anew(whole):
    network, variables = whole
    truncated, remaining = pruning.truncate(network, 4), pruning.truncate_variables(variables, 4)
    with pytest.raises(Exception, match="shape"):
        truncated.apply(remaining, IMAGES)
    key = jax.random.key(1)
    fitted = pruning.fit_head(truncated, remaining, key, IMAGES)
    assert fitted["params"]["head"]["classifier"]["kernel"].shape == (16, 5)
    fresh = truncated.init(key, IMAGES)
    for kind in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, fitted[kind]["head"], fresh[kind]["head"])
        assert all(fitted[kind][name] is remaining[kind][name] for name in remaining[kind] if name != "head")
    assert truncated.apply(fitted, IMAGES).shape == (2, 5)


def test_a_head_for_other_classes_is_made_anew(whole):
    network, variables = whole
    other = network.with_num_classes(3)
    fitted = pruning.fit_head(other, variables, jax.random.key(1), IMAGES)
    assert other.apply(fitted, IMAGES).shape == (2, 3)


def test_blocks_of_any_tree_are_removed_by_their_number():
    params = {f"block_{i}": object() for i in (10, 2, 1)} | {"embedder": object()}
    assert set(pruning.truncate_variables({"params": params}, 1)["params"]) == {
        "block_1",
        "block_2",
        "embedder",
    }
    # A collection may lack blocks that have nothing in it.
    variables = {"params": params, "batch_stats": {"block_10": {}, "embedder": {}}}
    assert set(pruning.truncate_variables(variables, 2)["batch_stats"]) == {"embedder"}


@pytest.mark.parametrize("depth", [-1, 12, 13])
def test_depths_that_leave_no_block_are_refused(whole, depth):
    network, variables = whole
    for call in (
        lambda: pruning.truncate(network, depth),
        lambda: pruning.truncate_variables(variables, depth),
    ):
        with pytest.raises(ValueError, match=f"from 0 to 11, one less than the 12 blocks, got {depth}"):
            call()


@pytest.mark.parametrize(
    ("scores", "best", "tried"),
    [
        # Table 1 (ResNet-50) and Table 3 (Inception-V3), Recall@1 on CUB-200.
        ([63.49, 66.95, 67.00, 51.00], 2, 4),
        ([54.12, 60.77, 63.67, 60.72], 2, 4),
        # Table 3 of the supplement: birds, cars, aircraft. The last stops although depth 2 would be the best.
        ([78.53, 79.13, 78.74], 1, 3),
        ([84.65, 85.40, 85.96], 2, 3),
        ([77.83, 77.77, 77.95], 0, 2),
        ([0.5, 0.5, 0.5, 0.4], 2, 4),  # equal scores: the smaller network
        ([0.5, 0.4, 0.9], 0, 2),
        ([0.5, 0.6, float("nan"), 0.9], 1, 3),
        ([-2.0, -1.5, -1.6], 1, 3),  # scores need not be positive
        ([0.0], 0, 1),
    ],
)
def test_search_goes_on_while_the_score_does_not_fall(scores, best, tried):
    asked = []

    def evaluate(depth):
        asked.append(depth)
        return np.float32(scores[depth])

    result = pruning.search(evaluate, len(scores) - 1)
    assert result.best_depth == best
    assert asked == list(range(tried))
    np.testing.assert_array_equal(result.scores, np.float32(scores[:tried]))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_search_is_algorithm_1_line_by_line(scores):
    best_score, depth, log = -1.0, 0, [scores[0]]
    score = scores[0]
    while score >= best_score:
        best_score, best = score, depth
        depth += 1
        if depth == len(scores):
            break
        score = scores[depth]
        log.append(score)
    result = pruning.search(lambda depth: scores[depth], len(scores) - 1)
    assert result == (best, tuple(log))


def test_search_needs_a_score_of_the_whole_network_and_a_depth():
    with pytest.raises(ValueError, match="without pruning is NaN"):
        pruning.search(lambda depth: float("nan"), 3)
    with pytest.raises(ValueError, match="max_depth must be at least 0, got -1"):
        pruning.search(lambda depth: 0.0, -1)
