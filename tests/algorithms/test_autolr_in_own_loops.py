"""``autolr.Tuner`` around parameters of any kind gives what the package's own loop gives."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from finetune_jax import autolr
from finetune_jax.training.methods.autolr import AutoLRTuner
from finetune_jax.training.tuning import Pass

SIZES = {"stem": (3, 4), "block_1": (4, 4), "block_2": (4, 4), "block_10": (4, 4), "head": (4, 2)}
BLOCKS = ("block_1", "block_2", "block_10")
IMAGES = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
LABELS = np.arange(16) % 2


def weights():
    rng = np.random.default_rng(0)
    return {
        name: {"kernel": rng.normal(0, 0.7, shape).astype(np.float32), "bias": np.zeros(shape[1], np.float32)}
        for name, shape in SIZES.items()
    }


def forward(layers, x):
    """``layers``: name to a function of one layer."""
    for name in SIZES:
        x = layers[name](x)
        x = x if name == "head" else jnp.tanh(x)
    return x


def loss_of(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def dictionary():
    def loss(params):
        return loss_of(
            forward({n: lambda x, p=p: x @ p["kernel"] + p["bias"] for n, p in params.items()}, IMAGES)
        )

    return weights(), loss


def nnx_state():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            for name, shape in SIZES.items():
                setattr(self, name, nnx.Linear(*shape, rngs=rngs))

    model = Net(nnx.Rngs(0))
    for name, own in weights().items():
        layer = getattr(model, name)
        layer.kernel[...], layer.bias[...] = own["kernel"], own["bias"]
    graph, params = nnx.split(model, nnx.Param)

    def loss(params):
        net = nnx.merge(graph, params)
        return loss_of(forward({name: getattr(net, name) for name in SIZES}, IMAGES))

    return params, loss


def equinox_module():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        stem: eqx.nn.Linear
        block_1: eqx.nn.Linear
        block_2: eqx.nn.Linear
        block_10: eqx.nn.Linear
        head: eqx.nn.Linear
        activation: object = jnp.tanh  # a leaf that is no array

    layers = {}
    for name, own in weights().items():
        layer = eqx.nn.Linear(*SIZES[name], key=jax.random.key(0))
        layers[name] = eqx.tree_at(lambda one: (one.weight, one.bias), layer, (own["kernel"].T, own["bias"]))
    params, rest = eqx.partition(Net(**layers), eqx.is_inexact_array)

    def loss(params):
        net = eqx.combine(params, rest)
        return loss_of(forward({name: jax.vmap(getattr(net, name)) for name in SIZES}, IMAGES))

    return params, loss


def haiku_parameters():
    hk = pytest.importorskip("haiku")

    def net(x):
        return forward({name: hk.Linear(shape[1], name=name) for name, shape in SIZES.items()}, x)

    transformed = hk.without_apply_rng(hk.transform(lambda x: _scoped(hk, net)(x)))
    params = transformed.init(jax.random.key(0), IMAGES)
    own = weights()
    params = {
        path: {"w": own[path.split("/")[-1]]["kernel"], "b": own[path.split("/")[-1]]["bias"]}
        for path in params
    }
    return params, lambda params: loss_of(transformed.apply(params, IMAGES))


def _scoped(hk, function):
    """Within a module, as networks of Haiku are: paths get a prefix."""

    class Scope(hk.Module):
        def __call__(self, x):
            return function(x)

    return Scope(name="net")


MAKERS = {
    "dictionary": dictionary,
    "nnx": nnx_state,
    "equinox": equinox_module,
    "haiku": haiku_parameters,
}


def trained_by(make, epochs=2):
    """The documented loop; rates and decisions of every trial, and how often the step was compiled."""
    params, loss = make()
    momentum = optax.trace(0.9, nesterov=True)
    compiled = 0

    @jax.jit
    def step(params, state, rates):
        nonlocal compiled
        compiled += 1
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = momentum.update(gradients, state)
        return jax.tree.map(lambda w, u, rate: w - rate * u, params, updates, rates), state, value

    tuner = autolr.Tuner(params, learning_rate=0.05, head_learning_rate=0.1)
    seen = []
    while tuner.epoch < epochs:
        start, state, finite = params, momentum.init(params), True
        rates, of_leaves = tuner.rates, tuner.rates_of(params)
        for _ in range(3):
            params, state, value = step(params, state, of_leaves)
            finite = finite and math.isfinite(value)
        outcome = tuner.judge(start, params, finite=finite)
        seen.append((rates, bool(outcome.accepted), float(outcome.quality)))
        if not outcome.accepted:
            params = start
    return SimpleNamespace(seen=seen, compiled=compiled, tuner=tuner)


@pytest.fixture(scope="module")
def plain():
    return trained_by(dictionary)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_of_parameters_takes_the_same_trials(kind, plain):
    found = trained_by(MAKERS[kind])
    assert found.compiled == 1  # other rates are other values
    assert len(found.seen) == len(plain.seen) > 2  # at least one trial is rejected
    assert found.tuner.blocks == BLOCKS
    for (rates, accepted, quality), expected in zip(found.seen, plain.seen, strict=True):
        assert (accepted, quality) == expected[1:]
        assert rates == pytest.approx(expected[0], rel=1e-3)


def test_rates_and_decisions_are_those_of_the_packages_own_loop():
    params = {name: {"kernel": np.zeros(shape, np.float32)} for name, shape in SIZES.items()}
    tuner = autolr.Tuner(params)
    own = AutoLRTuner(autolr.AutoLRConfig(), BLOCKS, 1e-3, {"head": 1e-2}, "stem", lambda epoch: 1.0)
    state = own.initial()
    rng = np.random.default_rng(0)
    for trial in range(12):
        # What is judged is called by our name here and there: both are told the same variations.
        assert tuner.rates == pytest.approx(own.rates(state, 0))
        moves = {name: rng.uniform(1e-3, 1e-1) for name in SIZES}
        after = {name: {"kernel": tree["kernel"] + np.float32(moves[name])} for name, tree in params.items()}
        finite = trial != 3
        variations = autolr.weight_variation(params, after, blocks=BLOCKS)
        outcome = tuner.judge(params, after, finite=finite)
        state, verdict = own.judge(state, Pass(tuner.epoch, np.asarray(variations), finite))
        assert bool(outcome.accepted) == verdict.accepted


def test_blocks_and_stem_may_have_any_names():
    params = {"patches": {"w": np.zeros((2, 2))}, "layers": [{"w": np.zeros((2, 2))} for _ in range(11)]}
    names = [f"layers/{i}" for i in range(11)]
    tuner = autolr.Tuner(params, blocks=names, stem=("patches",), learning_rate=0.5)
    assert list(tuner.rates) == ["stem", *names]  # no head, where all is stem or block
    rates = tuner.rates_of(params)
    assert rates["layers"][10]["w"] == np.float32(0.5)
    assert tuner.part_of(("layers", "1", "w")) == "layers/1"  # and not that of layers/10


def test_what_is_no_kernel_moves_nothing():
    def tree(value):
        other = {"bias": np.full((4, 1, 1), value), "scale": np.full((1, 1, 1, 4), value)}
        return {f"block_{i}": {"w": np.full((2, 2), float(i)), **other} for i in (1, 2)}

    tuner = autolr.Tuner(tree(0.0))
    outcome = tuner.judge(tree(0.0), tree(9.0))
    assert float(outcome.quality) == 1.0  # both variations are 0, and equal ones count as sorted


@pytest.mark.parametrize(
    ("params", "more", "message"),
    [
        ({"a": np.zeros((2, 2))}, {}, "two blocks or more, got .*such as a"),
        ({"block_1": np.zeros((2, 2)), "b": np.zeros(2)}, {}, "two blocks or more"),
        (
            {"a": np.zeros((2, 2)), "b": np.zeros(2)},
            {"blocks": ("a", "c")},
            "no parameter is of the block 'c'",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused(params, more, message):
    with pytest.raises(ValueError, match=message):
        autolr.Tuner(params, **more)


def test_an_epoch_of_which_every_trial_diverges_is_the_end():
    params = {f"block_{i}": {"w": np.zeros((2, 2), np.float32)} for i in (1, 2)} | {"head": np.zeros((2, 2))}
    tuner = autolr.Tuner(params, config=autolr.AutoLRConfig(max_trials=2), learning_rate=1.0)
    assert tuner.judge(params, params, finite=False).diverged
    assert tuner.rates == pytest.approx({"block_1": 0.1, "block_2": 0.1, "head": 1e-3})
    with pytest.raises(FloatingPointError, match="start with lower"):
        tuner.judge(params, params, finite=False)
