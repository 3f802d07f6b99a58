"""Effective rates, the grid, and the range recommended from domain similarity."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_jax.algorithms import hyperparameters, optimizers

RATES = st.floats(1e-6, 10)
MOMENTA = st.floats(0, 0.999)


def test_effective_rate_is_what_a_constant_gradient_moves_the_weights_by_per_step():
    rate, momentum = 0.02, 0.8
    params = {"block_01": jnp.zeros(())}
    tx = optimizers.per_block_sgd(params, {"block_01": rate}, momentum, nesterov=False, weight_decay=0.0)
    opt_state = tx.init(params)
    for _ in range(100):
        updates, opt_state = tx.update({"block_01": jnp.ones(())}, opt_state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(
        updates["block_01"], -hyperparameters.effective_learning_rate(rate, momentum), rtol=1e-5
    )


def test_the_papers_default_rate_is_ten_times_as_effective_as_without_momentum():
    assert hyperparameters.effective_learning_rate(0.01, 0.9) == pytest.approx(0.1)
    assert hyperparameters.effective_learning_rate(0.01, 0.0) == 0.01
    assert hyperparameters.effective_weight_decay(0.0001, 0.01) == pytest.approx(0.01)


@given(RATES, MOMENTA)
def test_rate_and_effective_rate_are_inverse(rate, momentum):
    effective = hyperparameters.effective_learning_rate(rate, momentum)
    assert effective >= rate
    assert hyperparameters.learning_rate_for(effective, momentum) == pytest.approx(rate, rel=1e-12)


def test_arrays_work_under_transformations():
    rates, momenta = jnp.asarray([0.1, 0.01]), jnp.asarray([0.0, 0.9])
    effective = jax.jit(jax.vmap(hyperparameters.effective_learning_rate))(rates, momenta)
    np.testing.assert_allclose(effective, [0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(
        jax.jit(hyperparameters.learning_rate_for)(effective, momenta), rates, rtol=1e-6
    )
    np.testing.assert_allclose(hyperparameters.effective_weight_decay(momenta, rates), [0, 90], rtol=1e-6)
    slope = jax.grad(hyperparameters.effective_learning_rate, 1)(0.1, 0.9)
    np.testing.assert_allclose(slope, 0.1 / (1 - 0.9) ** 2, rtol=1e-5)


@pytest.mark.parametrize("momentum", [1, 1.0, -0.1, float("nan"), np.float32(1)])
def test_momentum_outside_its_range_is_refused(momentum):
    for convert in (hyperparameters.effective_learning_rate, hyperparameters.learning_rate_for):
        with pytest.raises(ValueError, match="momentum"):
            convert(0.1, momentum)


def test_negative_and_undefined_values_are_refused():
    with pytest.raises(ValueError, match=r"learning rate.*-0\.1"):
        hyperparameters.effective_learning_rate(-0.1, 0.9)
    with pytest.raises(ValueError, match="effective learning rate"):
        hyperparameters.learning_rate_for(float("nan"), 0.9)
    with pytest.raises(ValueError, match="weight decay"):
        hyperparameters.effective_weight_decay(-1e-4, 0.1)
    with pytest.raises(ValueError, match="learning rate of 0"):
        hyperparameters.effective_weight_decay(1e-4, 0.0)


@pytest.mark.parametrize(
    # The default 0.9 up to a hundred steps (25 600 images at batch 256), then above it.
    ("steps", "momentum"),
    [(1, 0.9), (60, 0.9), (100, 0.9), (101, 1 - 10 / 101), (200, 0.95), (1000, 0.99), (5004, 1 - 10 / 5004)],
)
def test_norm_momentum_rule(steps, momentum):
    assert hyperparameters.norm_momentum_for(steps) == pytest.approx(momentum)
    with pytest.raises(ValueError, match="0"):
        hyperparameters.norm_momentum_for(0)


def test_the_grid_is_the_papers():
    recipe = hyperparameters.FINE_TUNING
    points = list(itertools.product(recipe.learning_rates, recipe.momenta, recipe.weight_decays))
    assert len(points) == len(set(points)) == 6 * 5 * 4
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) in points
    effective = {
        round(hyperparameters.effective_learning_rate(rate, momentum), 9) for rate, momentum, _ in points
    }
    assert min(effective) == 0.0001
    assert max(effective) == 10.0
    # Every best effective rate of Table 4 is a point of the search.
    best = {
        cell.effective_learning_rate
        for column in hyperparameters.TABLE_4.values()
        for cell in column.values()
    }
    assert best <= effective


@pytest.mark.parametrize("network", ["resnet101", "densenet121", "mobilenet"])
def test_table_4_ranks_similarities_to_imagenet_as_the_text_does(network):
    # Appendix B: first and second are Caltech and Dogs, third and fourth Birds and Indoor, "regardless of
    # architectures"; most dissimilar are Cars, Aircrafts and Flowers.
    column = hyperparameters.TABLE_4["imagenet", network]
    ranked = sorted(column, key=lambda name: -column[name].similarity)
    assert set(ranked[:2]) == {"caltech", "dogs"}
    assert set(ranked[2:4]) == {"birds", "indoor"}
    assert set(ranked[4:]) == {"cars", "aircrafts", "flowers"}
    # Section 3.3: the best rates for Dogs, Caltech and Indoor are below those for Aircrafts, Flowers and Cars.
    similar, dissimilar = (
        [column[name].effective_learning_rate for name in names]
        for names in (("dogs", "caltech", "indoor"), ("aircrafts", "flowers", "cars"))
    )
    assert max(similar) < min(dissimilar)


def test_other_sources_are_nearest_to_their_own_domain():
    for source, nearest in (("inat2017", "birds"), ("places365", "indoor")):
        column = hyperparameters.TABLE_4[source, "resnet101"]
        assert max(column, key=lambda name: column[name].similarity) == nearest
    jft = hyperparameters.JFT_SIMILARITIES
    assert sorted(jft, key=jft.get, reverse=True) == ["dogs", "birds", "cars", "aircrafts", "flowers"]


@pytest.mark.parametrize(
    ("similarity", "source", "network", "reference", "searched"),
    [
        (0.95, "imagenet", "resnet101", "caltech", (0.001, 0.01)),  # 0.892 → 0.005
        (0.857, "imagenet", "resnet101", "indoor", (0.001, 0.01)),  # 0.856 → 0.01, the end of two ranges
        (0.8595, "imagenet", "resnet101", "birds", (0.01, 0.1)),  # 0.860 → 0.05
        (0.8438, "imagenet", "resnet101", "flowers", (0.01, 0.1)),  # 0.844 → 0.1, the end of two ranges
        (0.5, "imagenet", "resnet101", "aircrafts", (0.1, 1.0)),  # 0.840 → 1.0
        (0.90, "inat2017", "resnet101", "birds", (0.001, 0.01)),  # 0.901 → 0.005
        (0.90, "places365", "resnet101", "indoor", (0.01, 0.1)),  # 0.901 → 0.05
        (0.83, "imagenet", "densenet121", "cars", (0.1, 1.0)),  # 0.831 → 0.5
        (0.83, "imagenet", "mobilenet", "cars", (0.1, 1.0)),  # 0.830 → 1.0
    ],
)
def test_the_nearest_reference_gives_the_range(similarity, source, network, reference, searched):
    recommended = hyperparameters.recommend(similarity, source, network)
    assert recommended.reference == reference
    assert recommended.effective_learning_rates == searched
    assert searched[0] <= recommended.effective_learning_rate <= searched[1]
    cell = hyperparameters.TABLE_4[source, network][reference]
    assert (recommended.similarity, recommended.effective_learning_rate) == cell


@given(st.floats(1e-3, 1), st.sampled_from(sorted(hyperparameters.TABLE_4)))
def test_no_reference_is_nearer_than_the_one_recommended(similarity, column):
    recommended = hyperparameters.recommend(similarity, *column)
    for cell in hyperparameters.TABLE_4[column].values():
        assert abs(recommended.similarity - similarity) <= abs(cell.similarity - similarity)
    low, high = recommended.effective_learning_rates
    assert (low, high) in hyperparameters.EFFECTIVE_LEARNING_RATE_RANGES
    assert low <= recommended.effective_learning_rate <= high


def test_unknown_columns_and_impossible_similarities_are_refused():
    with pytest.raises(ValueError, match=r"'resnet101' trained on 'cifar'.*places365"):
        hyperparameters.recommend(0.8, "cifar")
    for similarity in (0, 1.2, float("nan")):
        with pytest.raises(ValueError, match="similarity"):
            hyperparameters.recommend(similarity)
