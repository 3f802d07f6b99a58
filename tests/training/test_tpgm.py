"""TPGM between the steps of training, against the algorithm of its paper written out in NumPy."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from routed import pretrained

from finetune_jax.algorithms import losses
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.feeds import create_feed
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.errors import UserError
from finetune_jax.training import radii
from finetune_jax.training.methods.method import Around, Base
from finetune_jax.training.methods.tpgm import RADII, TPGM
from finetune_jax.training.state import create_state

RNG = np.random.default_rng(5)
IMAGES = RNG.integers(0, 255, (12, 8, 8, 3), np.uint8)
LABELS = RNG.integers(0, 3, 12).astype(np.int32)
MOVED = "block_01"


def normalize(images):
    return images / 127.5 - 1


@pytest.fixture(scope="module")
def method():
    network, variables = pretrained()
    return TPGM.create(FinetuneConfig(method="tpgm"), Base(network, variables, jax.random.key(0), AXIS))


def around(replicas, **settings):
    config = FinetuneConfig(method="tpgm", batch_size=8, radius_rate=0.05, **settings)
    validation = create_feed(
        SimpleNamespace(images=IMAGES, labels=LABELS), replicas, resident=True, steps_per_dispatch=1
    )
    return Around(config, "classification", replicas, normalize, validation, len(LABELS), 3)


def after_every_step(method, replicas, steps, **settings):
    """States after steps that only add noise to a block: what :meth:`TPGM.steps` makes of them."""
    shapes = jax.tree.map(np.shape, method.variables["params"][MOVED])
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    noise = [
        jax.tree.map(lambda shape: np.float32(0.1 * RNG.normal(size=shape)), shapes, is_leaf=is_shape)
        for _ in range(steps)
    ]

    def training(state, order):
        for row in order:
            params = {
                **state.params,
                MOVED: jax.tree.map(jnp.add, state.params[MOVED], noise[int(row[0])]),
            }
            state = state.replace(params=params, step=state.step + 1)
            yield state, 1

    state = create_state(method.variables, method.trained, optax.identity(), key=jax.random.key(1))
    run = method.steps(training, around(replicas, **settings))
    order = np.arange(steps, dtype=np.int32)[:, None]
    return noise, [jax.device_get(state) for state, _ in run(replicas.replicate(state), order)]


def by_hand(method, noise, every, batches_of):
    """``(block, radii)`` after every step, from the published rule; radii None before the first turn."""
    network, start = method.network, method.variables["params"]
    flat, tree = jax.tree.flatten(start[MOVED])
    flat = [np.asarray(leaf, np.float64) for leaf in flat]
    weights = list(flat)
    gammas = first = second = None
    count, history = 0, []

    @jax.jit
    def slope(gammas, moved, images, labels):
        def loss(gammas):
            near = []
            for gamma, step, origin in zip(gammas, moved, flat, strict=True):
                norms = jnp.abs(step).sum(tuple(range(step.ndim - 1)), keepdims=True)
                near.append(origin + jnp.minimum(1, gamma / jnp.maximum(norms, 1e-8)) * step)
            params = {**start, MOVED: jax.tree.unflatten(tree, near)}
            outputs = network.apply({**method.variables, "params": params}, normalize(images))
            return losses.cross_entropy(outputs, labels).mean()

        return jax.grad(loss)(gammas)

    for number, added in enumerate(noise, start=1):
        weights = [leaf + more for leaf, more in zip(weights, jax.tree.leaves(added), strict=True)]
        if number % every == 0:
            moved = [leaf - origin for leaf, origin in zip(weights, flat, strict=True)]
            norms = [np.abs(step).sum(tuple(range(step.ndim - 1)), keepdims=True) for step in moved]
            if gammas is None:
                gammas = [norm.min() / 2 for norm in norms]
                first, second = [0.0] * len(norms), [0.0] * len(norms)
            for rows in batches_of(number // every):
                count += 1
                slopes = slope(
                    [jnp.float32(gamma) for gamma in gammas],
                    [jnp.float32(step) for step in moved],
                    jnp.float32(IMAGES[rows]),
                    LABELS[rows],
                )
                for k, g in enumerate(map(float, slopes)):
                    first[k] = 0.9 * first[k] + 0.1 * g
                    second[k] = 0.999 * second[k] + 0.001 * g**2
                    step = first[k] / (1 - 0.9**count) / (np.sqrt(second[k] / (1 - 0.999**count)) + 1e-8)
                    gammas[k] = np.clip(gammas[k] - 0.05 * norms[k].max() * step, 1e-8, norms[k].max())
            weights = [
                origin + np.minimum(1, gamma / norm) * step
                for origin, gamma, norm, step in zip(flat, gammas, norms, moved, strict=True)
            ]
        history.append((list(weights), None if gammas is None else list(gammas)))
    return history


@pytest.mark.parametrize(("every", "times", "devices"), [(1, 1, 1), (2, 2, 2)])
def test_weights_and_radii_follow_the_published_algorithm(method, every, times, devices):
    replicas = Replicas(tuple(jax.devices()[:devices]))
    noise, states = after_every_step(method, replicas, 4, radii_every=every, radii_steps=times)

    def batches_of(turn):
        return radii.batches(len(LABELS), times, 8, multiple=devices, seed=[0, turn])

    history = by_hand(method, noise, every, batches_of)
    assert len(states) == len(history)
    for state, (weights, gammas) in zip(states, history, strict=True):
        for leaf, expected in zip(jax.tree.leaves(state.params[MOVED]), weights, strict=True):
            np.testing.assert_allclose(leaf, expected, rtol=2e-3, atol=2e-4)
        if gammas is not None:
            learned = jax.tree.leaves(state.frozen[RADII]["radii"][MOVED])
            np.testing.assert_allclose(learned, gammas, rtol=2e-3, atol=1e-6)


def test_without_a_number_of_steps_radii_learn_at_the_end_of_an_epoch(method):
    replicas = Replicas(tuple(jax.devices()[:1]))
    _, states = after_every_step(method, replicas, 6, radii_every=0)
    assert [float(state.frozen[RADII]["steps"]) for state in states] == [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": "multilabel"}, "--task=multilabel has none"),
        ({"validation": None}, "--validation_fraction"),
        ({"images": 0}, "--validation_fraction"),
    ],
)
def test_what_radii_cannot_learn_from_is_refused(method, changes, named):
    given = around(Replicas(tuple(jax.devices()[:1])))
    with pytest.raises(UserError, match=named):
        method.steps(lambda state, order: iter(()), dataclasses.replace(given, **changes))
