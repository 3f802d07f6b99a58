"""The signal in gradients that are a formula of the images: against NumPy, on one device and on two."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax.algorithms import optimizers
from finetune_jax.data.feeds import create_feed
from finetune_jax.devices.replicas import Replicas
from finetune_jax.training.gradient_signal import measuring
from finetune_jax.training.state import create_state
from finetune_jax.training.step import Objective, Outcome, Prepared

BATCH, STEPS = 4, 7
IMAGES = np.random.default_rng(0).integers(0, 256, (BATCH * STEPS, 2, 2, 3), dtype=np.uint8)
PLACES = {"block_01": (0, 0), "block_02": (1, 1)}  # of the pixel that is the gradient of the block


def order(epoch):
    return np.random.default_rng(epoch).permutation(len(IMAGES)).reshape(STEPS, BATCH).astype(np.int32)


def linear(params, frozen, batch_stats, prepared):
    """Of which the gradient by a block is the mean of a pixel."""
    pixels = {name: prepared.images[:, row, column].mean(0) for name, (row, column) in PLACES.items()}
    loss = sum(jnp.vdot(params[name]["w"], pixel) for name, pixel in pixels.items())
    return loss + params["head"]["w"].sum(), Outcome(batch_stats, {})


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("resident", [True, False])
def test_the_ratio_is_that_of_the_gradients_of_the_first_batches_of_the_next_epoch(devices, resident):
    replicas = Replicas(tuple(jax.devices()[:devices]))
    arrays = SimpleNamespace(images=IMAGES, labels=np.zeros(len(IMAGES), np.int32))
    feed = create_feed(arrays, replicas, resident=resident, steps_per_dispatch=1)
    objective = Objective(
        lambda batch, key: Prepared(batch.images.astype(jnp.float32), batch.labels, key), linear
    )
    params = {name: {"w": np.ones(3, np.float32)} for name in (*PLACES, "head")}
    optimizer = optimizers.per_block_sgd(params, dict.fromkeys(params, 0.1))
    state = create_state(
        {"params": params, "batch_stats": {}}, tuple(params), optimizer, key=jax.random.key(0)
    )
    state = replicas.replicate(state.replace(step=np.asarray(2 * STEPS, np.int32)))  # after epochs 0 and 1
    measure = measuring(objective, feed, order, tuple(PLACES), replicas)

    batches = IMAGES[order(2)[:5]].astype(np.float64).mean(1)  # [5, 2, 2, 3]
    expected = []
    for row, column in PLACES.values():
        gradients = batches[:, row, column]
        expected.append(np.sum(gradients.mean(0) ** 2) / np.sum(gradients.var(0, ddof=1)))
    np.testing.assert_allclose(measure(state), expected, rtol=1e-4)
    np.testing.assert_allclose(measure(state), expected, rtol=1e-4)  # the state is still there
    assert int(state.step) == 2 * STEPS
