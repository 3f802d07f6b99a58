"""Fast Trainable Projection against NumPy, and the properties that its balls must have."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from finetune_jax.algorithms import optimizers, projection

RNG = np.random.default_rng(0)
PARAMS = {
    "conv": RNG.normal(size=(3, 3, 2, 4)).astype(np.float32),
    "scale": RNG.normal(size=4).astype(np.float32),
}
TARGET = {name: leaf + RNG.normal(size=leaf.shape).astype(np.float32) for name, leaf in PARAMS.items()}
RATE, STEPS = 0.1, 8


def by_hand(radius_rate, shrinking, shared):
    """Weights and radii after every step of plain gradient descent on ``½ ‖w − target‖²``, in float64."""
    start = {name: leaf.astype(np.float64) for name, leaf in PARAMS.items()}
    weights = dict(start)
    radii, first, second = (dict.fromkeys(start, value) for value in (1e-8, 0.0, 0.0))
    before, history = None, []
    for t in range(1, STEPS + 1):
        slopes, ahead, norms = {}, {}, {}
        for name in start:
            gradient = weights[name] - TARGET[name]
            ahead[name] = weights[name] - RATE * gradient - start[name]
            axes = tuple(range(start[name].ndim - 1))
            norms[name] = np.abs(ahead[name]).sum(axes, keepdims=True) + 1e-8
            slopes[name] = 0.0 if before is None else (gradient * before[0][name] / before[1][name]).sum()
        longest = {name: norm.max() for name, norm in norms.items()}
        if shared:
            slopes = dict.fromkeys(slopes, sum(slopes.values()))
            longest = dict.fromkeys(longest, max(longest.values()))
        for name in start:
            slope = slopes[name] * (shrinking if slopes[name] > 0 else 1)
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.999 * second[name] + 0.001 * slope**2
            if t > 1:
                step = first[name] / (1 - 0.9**t) / (np.sqrt(second[name] / (1 - 0.999**t)) + 1e-8)
                radii[name] = np.clip(radii[name] - radius_rate * step, 1e-8, longest[name])
            weights[name] = start[name] + np.minimum(1, radii[name] / norms[name]) * ahead[name]
        before = ahead, norms
        history.append((dict(weights), dict(radii)))
    return history


@pytest.mark.parametrize(
    ("radius_rate", "shrinking", "shared"), [(0.05, 1.0, False), (0.4, 0.5, False), (0.2, 0.0, True)]
)
def test_weights_and_radii_follow_the_published_steps(radius_rate, shrinking, shared):
    tx = projection.projected(optax.sgd(RATE), radius_rate, shrinking, shared=shared)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for weights, radii in by_hand(radius_rate, shrinking, shared):
        gradients = jax.tree.map(jnp.subtract, params, TARGET)
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for name in PARAMS:
            np.testing.assert_allclose(params[name], weights[name], rtol=2e-5, atol=2e-6)
            np.testing.assert_allclose(state.radii[name], radii[name], rtol=2e-4)


def test_no_row_ever_leaves_its_ball():
    tx = projection.projected(optax.adam(0.1), 0.02)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)
    for _ in range(6):
        updates, state = tx.update(jax.tree.map(jnp.subtract, params, TARGET), state, params)
        params = optax.apply_updates(params, updates)
        for name in PARAMS:
            moved = projection.row_norms(params[name] - PARAMS[name])
            assert float(moved.max()) <= float(state.radii[name]) * 1.001 + 1e-6
    assert float(state.radii["conv"]) > 0.05


def test_projection_is_the_nearest_point_of_the_way_for_each_row():
    weights = {"kernel": np.array([[3.0, 0.1], [-1.0, 0.1]], np.float32)}
    start = {"kernel": np.zeros((2, 2), np.float32)}
    inside = projection.project(weights, start, {"kernel": 2.0})["kernel"]
    # The first column has norm 4 and is halved, the second is inside.
    np.testing.assert_allclose(inside, [[1.5, 0.1], [-0.5, 0.1]], rtol=1e-6)


def test_rates_change_without_another_program_and_standing_still_is_possible():
    rule = projection.projected_rule(
        optimizers.sgd(momentum=0.0, weight_decay=0.0), radius_rate=0.1, shrinking=1.0, shared=False
    )
    params = {"block_01": jax.tree.map(jnp.asarray, PARAMS)}
    tx = optimizers.per_block(params, {"block_01": 0.0}, {"block_01": rule})
    update = jax.jit(tx.update)
    gradients = {"block_01": jax.tree.map(jnp.subtract, PARAMS, TARGET)}
    state = tx.init(params)
    for _ in range(3):
        updates, state = update(gradients, state, params)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates))
    state = optimizers.set_learning_rates(state, {"block_01": 0.5})
    for _ in range(2):
        updates, state = update(gradients, state, params)
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf) for leaf in jax.tree.leaves(updates))
    assert update._cache_size() == 1
