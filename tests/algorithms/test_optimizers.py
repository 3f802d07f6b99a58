"""Per-block rates: PyTorch's numbers, one compilation, clear errors."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from finetune_jax.algorithms import optimizer_rules, optimizers
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.training import rates as training_rates

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_trajectory(make, file):
    """Follow the recorded gradients and rates; yields our parameters and PyTorch's after each step."""
    golden = np.load(GOLDEN / file)
    blocks = [str(name) for name in golden["blocks"]]

    def tree(kind, step):
        return {
            block: {
                leaf: jnp.asarray(golden[f"{kind}/{block}/{leaf}"][step], jnp.float32)
                for leaf in ("kernel", "bias")
            }
            for block in blocks
        }

    params = tree("params", 0)
    rates = golden["learning_rates"]
    tx = make(params, dict(zip(blocks, map(float, rates[0]), strict=True)))
    opt_state = tx.init(params)

    @jax.jit
    def update(gradients, opt_state, params):
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for step in range(len(rates)):
        now = {block: np.float32(rate) for block, rate in zip(blocks, rates[step], strict=True)}
        opt_state = optimizers.set_learning_rates(opt_state, now)
        params, opt_state = update(tree("gradients", step), opt_state, params)
        yield params, tree("params", step + 1)


@pytest.mark.parametrize(
    ("make", "file"),
    [(optimizers.per_block_sgd, "sgd.npz"), (optimizers.per_block_adamw, "adamw.npz")],
)
def test_twenty_steps_with_changing_rates_agree_with_pytorch(make, file):
    for ours, theirs in golden_trajectory(make, file):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {
        name: {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)}
        for name in ("stem", "block_01", "block_02", "head")
    }


def test_one_step_is_the_rule_written_by_hand(params):
    rates = {"stem": 0.0, "block_01": 0.1, "block_02": 0.01, "head": 1.0}
    momentum, decay = 0.8, 0.05
    tx = optimizers.per_block_sgd(params, rates, momentum=momentum, weight_decay=decay)
    opt_state = tx.init(params)
    weights = {name: np.asarray(tree["kernel"], np.float64) for name, tree in params.items()}
    buffers = {name: np.zeros((3, 2)) for name in params}
    rng = np.random.default_rng(1)
    for _ in range(4):
        gradients = {name: {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)} for name in params}
        updates, opt_state = tx.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        for name, weight in weights.items():
            gradient = np.asarray(gradients[name]["kernel"], np.float64) + decay * weight
            buffers[name] = momentum * buffers[name] + gradient
            weights[name] = weight - rates[name] * (gradient + momentum * buffers[name])
    for name, weight in weights.items():
        np.testing.assert_allclose(params[name]["kernel"], weight, rtol=1e-5, atol=1e-6)


def test_equal_rates_are_plain_sgd_bit_for_bit(params):
    tx = optimizers.per_block_sgd(params, dict.fromkeys(params, 0.1))
    plain = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9, nesterov=True))
    ours, theirs = tx.init(params), plain.init(params)
    # Operation by operation: compiled together, two programs may round a product and a sum once or twice.
    updates, _ = tx.update(params, ours, params)
    expected, _ = plain.update(params, theirs, params)
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_new_rates_need_no_new_compilation(params, compilations):
    tx = optimizers.per_block_sgd(params, dict.fromkeys(params, 0.1))
    update = jax.jit(tx.update)
    opt_state = jax.jit(tx.init)(params)
    _, opt_state = update(params, opt_state, params)
    opt_state = optimizers.set_learning_rates(opt_state, dict.fromkeys(params, 0.5))
    before = compilations.count
    for rate in (0.2, np.float32(0.3), 1):
        opt_state = optimizers.set_learning_rates(opt_state, {"block_01": rate})
        _, opt_state = update(params, opt_state, params)
    assert compilations.count == before
    rates = {name: float(rate) for name, rate in optimizers.get_learning_rates(opt_state).items()}
    assert rates == {"stem": 0.5, "block_01": 1.0, "block_02": 0.5, "head": 0.5}


def test_momentum_and_decay_are_values_of_the_state_and_not_of_the_program(params):
    rates = dict.fromkeys(params, 0.1)
    first = optimizers.per_block_sgd(params, rates, momentum=0.9, weight_decay=0.1)
    second = optimizers.per_block_sgd(params, rates, momentum=0.0, weight_decay=0.0)
    opt_state, weights = second.init(params), params
    for _ in range(2):
        # The other optimiser's update, with the state of this one: plain gradient descent.
        updates, opt_state = first.update(weights, opt_state, weights)
        for name, tree in updates.items():
            np.testing.assert_allclose(tree["kernel"], -0.1 * weights[name]["kernel"], rtol=1e-6)
        weights = optax.apply_updates(weights, updates)
    assert jax.tree.structure(opt_state) == jax.tree.structure(first.init(params))


def test_a_reset_state_has_no_traces_and_the_hyperparameters_it_had(params):
    rates = dict.fromkeys(params, 0.1)
    tx = optimizers.per_block_sgd(params, rates, momentum=0.7, weight_decay=0.2)
    fresh = jax.jit(tx.init)(params)
    _, used = tx.update(params, fresh, params)
    for ours, theirs in zip(jax.tree.leaves(optimizers.reset(used)), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rates_can_be_set_and_read_under_jit(params):
    tx = optimizers.per_block_sgd(params, dict.fromkeys(params, 0.1))

    @jax.jit
    def halve(opt_state):
        rates = optimizers.get_learning_rates(opt_state)
        return optimizers.set_learning_rates(opt_state, {name: rate / 2 for name, rate in rates.items()})

    rates = optimizers.get_learning_rates(halve(tx.init(params)))
    np.testing.assert_allclose([float(rate) for rate in rates.values()], 0.05)


def test_setting_rates_leaves_the_given_state_alone(params):
    tx = optimizers.per_block_sgd(params, dict.fromkeys(params, 0.1))
    opt_state = tx.init(params)
    optimizers.set_learning_rates(opt_state, {"head": 9.0})
    assert float(optimizers.get_learning_rates(opt_state)["head"]) == np.float32(0.1)


def test_names_that_differ_are_both_listed(params):
    with pytest.raises(ValueError, match=r"'stem'.*\['block_01'\]"):
        optimizers.per_block_sgd(params, {"block_01": 0.1})
    tx = optimizers.per_block_sgd(params, dict.fromkeys(params, 0.1))
    with pytest.raises(KeyError, match="block_09"):
        optimizers.set_learning_rates(tx.init(params), {"block_09": 0.1})


@pytest.mark.parametrize(("nesterov", "second"), [(True, 1 + 0.9 + 0.81), (False, 1 + 0.9)])
def test_the_look_ahead_of_momentum_can_be_left_out(nesterov, second):
    config = FinetuneConfig(momentum=0.9, nesterov=nesterov, weight_decay=0.0)
    tx = training_rates.optimizer(config, ("head",))
    params, gradients = {"head": jnp.zeros(())}, {"head": jnp.ones(())}
    state = optimizers.set_learning_rates(tx.init(params), {"head": 1.0})
    for _ in range(2):
        updates, state = tx.update(gradients, state, params)
    np.testing.assert_allclose(updates["head"], -second, rtol=1e-6)


def test_parameters_that_are_no_plain_dict_are_refused_with_the_way_to_one():
    from flax import nnx

    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.block_1 = nnx.Linear(2, 2, rngs=rngs)
            self.head = nnx.Linear(2, 2, rngs=rngs)

    state, rates = nnx.state(Pair(nnx.Rngs(0)), nnx.Param), {"block_1": 0.1, "head": 0.2}
    with pytest.raises(ValueError, match=r"plain dict .* got a State; flax.nnx.to_pure_dict"):
        optimizers.per_block_sgd(state, rates)
    plain = nnx.to_pure_dict(state)
    optimizers.per_block_sgd(plain, rates).init(plain)


def test_arrays_with_rates_of_their_own_move_by_these_and_others_by_that_of_their_block():
    rng = np.random.default_rng(0)
    block = {
        "conv": {"kernel": rng.normal(size=(2, 3)), "bias": rng.normal(size=3)},
        "dense": {"kernel": rng.normal(size=4)},
    }
    params = jax.tree.map(jnp.asarray, {"block_01": block, "head": {"kernel": rng.normal(size=2)}})
    gradients = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    rule = optimizer_rules.sgd(momentum=0.0, nesterov=False, weight_decay=0.0)
    tx = optimizers.per_block(
        params, dict.fromkeys(params, 0.5), {"block_01": optimizer_rules.by_tensor(rule), "head": rule}
    )
    state = tx.init(params)
    rates = {"block_01": 0.5, "block_01/conv/kernel": 0.125, "block_01/dense/kernel": 0.25, "head": 0.1}
    set_once = optimizers.set_learning_rates(state, rates)
    for used in (set_once, optimizers.reset(set_once)):  # no step changes factors
        updates, _ = tx.update(gradients, used, params)
        wanted = {
            "block_01": {"conv": {"kernel": 0.125, "bias": 0.5}, "dense": {"kernel": 0.25}},
            "head": {"kernel": 0.1},
        }
        expected = jax.tree.map(lambda rate, gradient: -rate * gradient, wanted, gradients)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)
    with pytest.raises(KeyError, match="no array 'block_01/pool/kernel'"):
        optimizers.set_learning_rates(state, {"block_01": 0.5, "block_01/pool/kernel": 0.1})
