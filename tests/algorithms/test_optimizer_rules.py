"""Optimisers by name against optax run directly, rules written by hand, and what a run needs of their states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from optax import contrib

from finetune_jax.algorithms import optimizer_rules, optimizers

DECAY = 0.05
RATE = 0.02
CHANGED_RATE = 0.007

DIRECT = {
    "sgd": lambda rate: optax.chain(
        optax.add_decayed_weights(DECAY), optax.sgd(rate, momentum=0.9, nesterov=True)
    ),
    "adam": lambda rate: optax.chain(optax.add_decayed_weights(DECAY), optax.adam(rate)),
    "adamw": lambda rate: optax.adamw(rate, weight_decay=DECAY),
    "lamb": lambda rate: optax.lamb(rate, weight_decay=DECAY),
    "lion": lambda rate: optax.lion(rate, weight_decay=DECAY),
    "adafactor": lambda rate: optax.adafactor(rate, weight_decay_rate=rate * DECAY),
    "schedule_free_adamw": lambda rate: contrib.schedule_free_adamw(rate, weight_decay=DECAY),
    "prodigy": lambda rate: contrib.prodigy(rate, weight_decay=DECAY),
    "dadapt_adamw": lambda rate: contrib.dadapt_adamw(rate, weight_decay=DECAY),
    "dog": lambda rate: contrib.dog(rate, weight_decay=DECAY),
    "dowg": lambda rate: contrib.dowg(rate, weight_decay=DECAY),
    "mechanize": lambda rate: contrib.mechanize(optax.adamw(rate, weight_decay=DECAY)),
    "momo": lambda rate: contrib.momo(rate, weight_decay=DECAY),
}
"""Muon is not here: its matrices are convolutions as well, which optax has to be told."""


def make_params():
    rng = np.random.default_rng(0)
    shapes = {
        "stem": {"conv": {"kernel": (3, 3, 2, 4)}, "norm": {"scale": (4,)}},
        "block_01": {"dense": {"kernel": (4, 6), "bias": (6,)}},
        "head": {"classifier": {"kernel": (6, 3), "bias": (3,)}},
    }
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


PARAMS = make_params()


def loss_of(params):
    """Bowls of different width around points of their own."""
    leaves = jax.tree.leaves(params)
    return sum(((leaf - i) ** 2).mean() * (i + 1) for i, leaf in enumerate(leaves))


def rule(name, decay=DECAY, decay_norms=True):
    if name == "sgd":
        return optimizers.sgd(weight_decay=decay, decay_norms=decay_norms)
    if name == "adamw":
        return optimizers.adamw(weight_decay=decay, decay_norms=decay_norms)
    return optimizers.create(name, weight_decay=decay, decay_norms=decay_norms)


gradient_of = jax.jit(jax.grad(loss_of))


@functools.cache
def per_block(name, **options):
    rates = dict.fromkeys(PARAMS, RATE)
    return optimizers.per_block(rates, rates, dict.fromkeys(PARAMS, rule(name, **options)))


@functools.cache
def one_for_all(name, apart=()):
    rates = dict.fromkeys(PARAMS, RATE)
    rules = {part: optimizers.sgd(0.0, weight_decay=0.0) for part in apart}
    return optimizers.one_for_all(rates, rates, rule(name), rules)


@functools.cache
def stepper(tx):
    @jax.jit
    def step(params, state):
        value, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = tx.update(gradients, state, params, value=value)
        return optax.apply_updates(params, updates), state

    return step


def train(tx, rates=(RATE,) * 3 + (CHANGED_RATE,) * 3):
    params, state = PARAMS, jax.jit(tx.init)(PARAMS)
    step = stepper(tx)
    for rate in rates:
        state = optimizers.set_learning_rates(state, dict.fromkeys(PARAMS, np.float32(rate)))
        params, state = step(params, state)
    return params, state


def train_directly(make, params, rates=(RATE,) * 3 + (CHANGED_RATE,) * 3):
    """optax alone on all parameters, a new optimiser for every rate."""
    optimisers = {rate: optax.with_extra_args_support(make(rate)) for rate in rates}
    steps = {rate: stepper(optimiser) for rate, optimiser in optimisers.items()}
    state = jax.jit(optimisers[rates[0]].init)(params)
    for rate in rates:
        params, state = steps[rate](params, state)
    return params


def assert_close(ours, theirs, rtol=2e-5, atol=1e-6):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", DIRECT)
def test_a_network_of_one_block_is_optimised_as_by_optax(name):
    """One label around all parameters: what is compared is the rule and its rate, changed on the way."""
    nested = {"block_01": PARAMS}
    rates = {"block_01": RATE}
    tx = optimizers.per_block(nested, rates, {"block_01": rule(name)})

    @jax.jit
    def step(params, state):
        value, gradients = jax.value_and_grad(lambda p: loss_of(p["block_01"]))(params)
        updates, state = tx.update(gradients, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params, state = nested, jax.jit(tx.init)(nested)
    for rate in (RATE,) * 3 + (CHANGED_RATE,) * 3:
        state = optimizers.set_learning_rates(state, {"block_01": rate})
        params, state = step(params, state)
    assert_close(params["block_01"], train_directly(DIRECT[name], PARAMS))


@pytest.mark.parametrize("name", optimizer_rules.WITHOUT_RATE)
def test_one_optimiser_for_all_blocks_is_optaxs_over_all_parameters(name):
    params, _ = train(one_for_all(name))
    assert_close(params, train_directly(DIRECT[name], PARAMS))


@pytest.mark.parametrize("name", ["prodigy", "dog"])
def test_per_block_every_block_estimates_from_itself_alone(name):
    """Each block follows optax run on that block alone, which differs from the estimate of all blocks."""
    rates = (1.0,) * 40
    tx = per_block(name)
    params, state = PARAMS, jax.jit(tx.init)(PARAMS)
    state = optimizers.set_learning_rates(state, dict.fromkeys(PARAMS, 1.0))
    alone = {part: {part: PARAMS[part]} for part in PARAMS}
    states = {part: DIRECT[name](1.0).init(alone[part]) for part in PARAMS}
    step, update = stepper(tx), jax.jit(DIRECT[name](1.0).update)
    for _ in rates:
        gradients = gradient_of(params)
        params, state = step(params, state)
        for part in PARAMS:
            updates, states[part] = update({part: gradients[part]}, states[part], alone[part])
            alone[part] = optax.apply_updates(alone[part], updates)
    assert_close(params, {part: tree[part] for part, tree in alone.items()})
    together, _ = train(one_for_all(name), rates)
    differences = [
        np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (params, together)), strict=True)
    ]
    assert max(differences) > 1e-6


def newton_schulz(matrix):
    """Keller Jordan's quintic iteration."""
    x = matrix / (np.linalg.norm(matrix) + 1e-8)
    transposed = x.shape[0] > x.shape[1]
    x = x.T if transposed else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if transposed else x


def test_muon_orthogonalises_convolutions_as_matrices_of_inputs_by_outputs():
    """The first step: with bias corrections its momentum is a multiple of the gradient."""
    tx = per_block("muon")
    gradients = gradient_of(PARAMS)
    updates, _ = jax.jit(tx.update)(gradients, jax.jit(tx.init)(PARAMS), PARAMS)
    for part, layer, shape in (("stem", "conv", (18, 4)), ("block_01", "dense", (4, 6))):
        matrix = np.asarray(gradients[part][layer]["kernel"], np.float64).reshape(shape)
        weights = np.asarray(PARAMS[part][layer]["kernel"], np.float64).reshape(shape)
        expected = -RATE * (0.2 * np.sqrt(max(shape)) * newton_schulz(matrix) + DECAY * weights)
        np.testing.assert_allclose(
            np.asarray(updates[part][layer]["kernel"]).reshape(shape), expected, rtol=2e-3, atol=1e-5
        )
    adam = optax.adamw(RATE, weight_decay=DECAY, nesterov=True)
    expected, _ = jax.jit(adam.update)(gradients, jax.jit(adam.init)(PARAMS), PARAMS)
    assert_close(updates["head"], expected["head"])
    assert_close(updates["stem"]["norm"], expected["stem"]["norm"])


@pytest.mark.parametrize(
    "name", [n for n in optimizer_rules.NAMES if n not in optimizer_rules.DECAYS_EVERYTHING]
)
def test_without_decay_of_norms_only_kernels_differ_from_no_decay_at_all(name):
    """In the first step, where decay has changed nothing else yet."""

    def first_update(**options):
        tx = per_block(name, **options)
        state = optimizers.set_learning_rates(jax.jit(tx.init)(PARAMS), dict.fromkeys(PARAMS, 0.5))
        value = jax.jit(loss_of)(PARAMS)
        return jax.jit(tx.update)(gradient_of(PARAMS), state, PARAMS, value=value)[0]

    without, kernels = first_update(decay=0.0), first_update(decay_norms=False)
    everything = first_update()
    for path, leaf in jax.tree_util.tree_leaves_with_path(kernels):
        names = tuple(key.key for key in path)
        others = [tree[names[0]][names[1]][names[2]] for tree in (without, everything)]
        # DoG and DoWG divide by the length of all gradients, so only the direction of a vector is its own.
        if name in ("dog", "dowg"):
            leaf, *others = (np.asarray(a) / np.linalg.norm(a) for a in (leaf, *others))
        if names[-1] == "kernel":
            assert not np.allclose(leaf, others[0], rtol=1e-6, atol=0) or name == "adam"
        else:
            np.testing.assert_allclose(leaf, others[0], rtol=1e-5)


@pytest.mark.parametrize("name", optimizer_rules.DECAYS_EVERYTHING)
def test_optimisers_that_decay_everything_say_so(name):
    with pytest.raises(ValueError, match=f"{name} decays all"):
        rule(name, decay_norms=False)
    rule(name, decay=0.0, decay_norms=False)


@pytest.mark.parametrize("name", optimizer_rules.NAMES)
@pytest.mark.parametrize("make", [per_block, one_for_all])
def test_new_rates_need_no_new_compilation(name, make, compilations):
    tx = make(name)
    state = jax.jit(tx.init)(PARAMS)
    step = stepper(tx)
    params, state = step(PARAMS, state)
    state = optimizers.set_learning_rates(state, dict.fromkeys(PARAMS, 0.5))
    before = compilations.count
    for rate in (0.2, np.float32(0.3), 0):
        state = optimizers.set_learning_rates(state, {"block_01": rate})
        params, state = step(params, state)
    assert compilations.count == before
    assert {part: float(r) for part, r in optimizers.get_learning_rates(state).items()} == {
        "stem": 0.5,
        "block_01": 0.0,
        "head": 0.5,
    }
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", optimizer_rules.NAMES)
@pytest.mark.parametrize("make", [per_block, one_for_all])
def test_a_part_with_the_rate_zero_stays_where_it_is(name, make):
    tx = make(name)
    state = optimizers.set_learning_rates(jax.jit(tx.init)(PARAMS), {"stem": 0.0})
    params, step = PARAMS, stepper(tx)
    for _ in range(3):
        params, state = step(params, state)
    for a, b in zip(*(jax.tree.leaves(tree["stem"]) for tree in (params, PARAMS)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert not np.allclose(
        params["head"]["classifier"]["bias"], PARAMS["head"]["classifier"]["bias"], atol=0, rtol=0
    )


@pytest.mark.parametrize("name", optimizer_rules.NAMES)
def test_a_state_from_a_checkpoint_goes_on_to_the_same_bits(name, tmp_path):
    tx = one_for_all(name, apart=("head",))
    step = stepper(tx)
    params, state = step(PARAMS, jax.jit(tx.init)(PARAMS))
    host = jax.device_get(state)
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as saver:
        saver.save(tmp_path / "state", args=ocp.args.StandardSave(host))
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, host)
        restored = saver.restore(tmp_path / "state", args=ocp.args.StandardRestore(like))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for a, b in zip(
        jax.tree.leaves(step(params, restored)), jax.tree.leaves(step(params, state)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", optimizer_rules.NAMES)
def test_no_array_of_a_state_is_one_of_the_parameters(name):
    """Both are donated to the step, and the same buffer twice would crash the process."""
    state = per_block(name).init(PARAMS)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((PARAMS, state)) if leaf.size > 1]
    assert len(set(buffers)) == len(buffers)


def test_one_optimiser_for_all_moves_blocks_by_their_share_of_the_largest_rate():
    tx = one_for_all("dog")
    gradients = gradient_of(PARAMS)

    def updates(rates):
        state = optimizers.set_learning_rates(jax.jit(tx.init)(PARAMS), rates)
        return jax.jit(tx.update)(gradients, state, PARAMS)[0]

    equal = updates({"stem": 1.0, "block_01": 1.0, "head": 1.0})
    shared = updates({"stem": 0.1, "block_01": 0.5, "head": 1.0})
    for part, share in (("stem", 0.1), ("block_01", 0.5), ("head", 1.0)):
        assert_close(shared[part], jax.tree.map(lambda leaf, share=share: share * leaf, equal[part]), atol=0)


def test_a_block_apart_has_an_optimiser_of_its_own():
    tx = one_for_all("prodigy", apart=("head",))
    state = optimizers.set_learning_rates(jax.jit(tx.init)(PARAMS), {"head": 0.25, "stem": 1.0})
    gradients = gradient_of(PARAMS)
    updates, _ = jax.jit(tx.update)(gradients, state, PARAMS)
    assert_close(updates["head"], jax.tree.map(lambda leaf: -0.25 * leaf, gradients["head"]))


def test_schedule_free_is_evaluated_at_its_average():
    """optax's own function, block by block; other optimisers are evaluated where they step."""
    params, state = train(per_block("schedule_free_adamw"))
    ours = optimizers.evaluation_params(state, params)
    for part in PARAMS:
        inner = state.inner_states[part].inner_state.inner_state
        theirs = contrib.schedule_free_eval_params(inner._replace(z=inner.z[part]), params[part])
        assert_close(ours[part], theirs)
    assert not np.allclose(ours["head"]["classifier"]["bias"], params["head"]["classifier"]["bias"])
    params, state = train(per_block("adamw"))
    assert_close(optimizers.evaluation_params(state, params), params, rtol=0, atol=0)
    params, state = train(one_for_all("prodigy"))
    assert_close(optimizers.evaluation_params(state, params), params, rtol=0, atol=0)


@pytest.mark.parametrize(
    "name", [n for n in optimizer_rules.NAMES if n not in optimizer_rules.FROM_THE_START]
)
def test_a_reset_state_is_that_before_the_first_step(name):
    tx = per_block(name)
    fresh = jax.jit(tx.init)(PARAMS)
    _, used = train(tx, (RATE, RATE))
    for ours, theirs in zip(jax.tree.leaves(optimizers.reset(used)), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_names_that_no_optimiser_has_are_refused_with_the_list():
    with pytest.raises(ValueError, match=r"'adamax'.*schedule_free_adamw"):
        optimizers.create("adamax")
    with pytest.raises(KeyError, match="block_09"):
        optimizers.set_learning_rates(one_for_all("dog").init(PARAMS), {"block_09": 1.0})
