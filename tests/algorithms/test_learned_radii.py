"""Trainable projection against NumPy: its gradient in closed form, Adam, and the bounds of the radii."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax.algorithms import learned_radii, projection

RNG = np.random.default_rng(3)
START = {"conv": RNG.normal(size=(3, 3, 2, 4)), "scale": RNG.normal(size=4)}
TRAINED = {name: leaf + RNG.normal(size=leaf.shape) for name, leaf in START.items()}
TARGET = {name: leaf + 0.7 * (TRAINED[name] - leaf) for name, leaf in START.items()}


def norms_of(name):
    movement = TRAINED[name] - START[name]
    return np.abs(movement).sum(tuple(range(movement.ndim - 1)), keepdims=True)


def by_hand(rate, steps):
    """Radii after every step for the loss ``½ ‖W(γ) - target‖²``, in float64."""
    radii = {name: norms_of(name).min() / 2 for name in START}
    first, second = dict.fromkeys(START, 0.0), dict.fromkeys(START, 0.0)
    history = []
    for t in range(1, steps + 1):
        for name, start in START.items():
            norms, movement = norms_of(name), TRAINED[name] - start
            weights = start + np.minimum(1, radii[name] / norms) * movement
            # A row on its ball, as at the largest radius, has half of its gradient there.
            share = 0.5 * (norms > radii[name]) + 0.5 * (norms >= radii[name])
            slope = (share * (weights - TARGET[name]) * movement / norms).sum()
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.999 * second[name] + 0.001 * slope**2
            step = first[name] / (1 - 0.9**t) / (np.sqrt(second[name] / (1 - 0.999**t)) + 1e-8)
            radii[name] = np.clip(radii[name] - rate * norms.max() * step, 1e-8, norms.max())
        history.append(dict(radii))
    return history


@pytest.mark.parametrize(("rate", "steps"), [(0.03, 12), (2.0, 8)])
def test_radii_follow_adam_on_the_gradient_of_active_rows(rate, steps):
    start, trained = jax.tree.map(jnp.float32, START), jax.tree.map(jnp.float32, TRAINED)

    def loss(radii):
        weights = projection.project(trained, start, radii)
        return sum(0.5 * ((weights[name] - TARGET[name]) ** 2).sum() for name in START)

    state = learned_radii.init(trained, start)
    history = by_hand(rate, steps)
    for expected in history:
        state = learned_radii.update(jax.grad(loss)(state.radii), state, trained, start, rate)
        for name, radius in expected.items():
            np.testing.assert_allclose(state.radii[name], radius, rtol=2e-4)
    bounds = {name: (1e-8, norms_of(name).max()) for name in START}
    reached = any(radius in bounds[name] for radii in history for name, radius in radii.items())
    assert reached == (rate == 2.0)


def test_what_is_kept_of_a_movement_is_its_norm_after_over_before():
    radii = {"conv": 9.0, "scale": 0.3}
    shares = learned_radii.kept(TRAINED, START, radii)
    projected = projection.project(TRAINED, START, radii)
    for name, share in shares.items():
        after = np.abs(np.asarray(projected[name]) - START[name]).sum()
        assert float(share) == pytest.approx(after / norms_of(name).sum(), rel=1e-4)


def test_an_array_that_has_not_moved_stays_and_counts_as_kept():
    same = {"scale": START["scale"]}
    state = learned_radii.init(same, same)
    projected = projection.project(same, same, state.radii)
    np.testing.assert_array_equal(np.asarray(projected["scale"]), np.float32(START["scale"]))
    assert float(learned_radii.kept(same, same, state.radii)["scale"]) == 1.0
