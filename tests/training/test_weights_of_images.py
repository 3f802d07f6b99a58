"""Weights of images multiply their losses: exactly, with every loss of images, in pieces, mixed, on any devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_expit, log_softmax

from finetune_jax.algorithms import augmentation, losses, optimizers
from finetune_jax.data.batch import Batch
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.training import objectives, step
from finetune_jax.training.state import create_state

RNG = np.random.default_rng(0)
COUNT, CLASSES = 8, 3
IMAGES = RNG.integers(0, 256, (COUNT, 2, 2, 3)).astype(np.uint8)
LABELS = RNG.integers(0, CLASSES, COUNT).astype(np.int32)
NUMBERS = RNG.normal(size=(COUNT, CLASSES)).astype(np.float32)
WEIGHTS = np.array([0, 0.5, 1, 2, 3, 0.25, 1, 0], np.float32)
KERNEL = RNG.normal(size=(3, CLASSES))
RATE = 0.5
OF_CLASSES = np.array([1, 2, 0.5])


def forward(params, frozen, batch_stats, images, keys):
    return objectives.Prediction(images.mean((1, 2)) @ params["head"]["kernel"], {})


def objective(loss, mix=None):
    return objectives.objective(
        forward,
        loss,
        normalize=lambda images: images / 255,
        augment=augmentation.create("none", 2),
        mix=mix,
    )


def after_a_step(loss, labels, *, devices=1, pieces=1):
    """The kernel of a linear network after a step of gradient descent, and the sum of the losses."""
    params = {"head": {"kernel": jnp.asarray(KERNEL, jnp.float32)}}
    optimizer = optimizers.per_block_sgd(
        params, {"head": RATE}, momentum=0.0, nesterov=False, weight_decay=0.0
    )
    state = create_state(
        {"params": params, "batch_stats": {}},
        ("head",),
        optimizer,
        key=jax.random.key(1),
        totals=("loss", "examples"),
    )
    run = functools.partial(
        step.train_step, objective=objective(loss), optimizer=optimizer, axis_name=AXIS, pieces=pieces
    )
    replicas = Replicas(tuple(jax.devices()[:devices]))
    images, labels, slots, weights = replicas.split((IMAGES, labels, np.arange(COUNT), WEIGHTS))
    batch = Batch(images, labels, slots, weights=weights)
    after = jax.device_get(replicas.map(run, (None, 0))(replicas.replicate(state), batch))
    return after.params["head"]["kernel"], float(after.totals["loss"])


def of_classes(outputs):
    log_chances = log_softmax(outputs, axis=1)
    smoothed = 0.9 * np.eye(CLASSES)[LABELS] + 0.1 / CLASSES
    return OF_CLASSES[LABELS] * -(smoothed * log_chances).sum(1)


def of_questions(outputs):
    targets = np.eye(CLASSES)[LABELS]
    return -(targets * log_expit(outputs) + (1 - targets) * log_expit(-outputs)).mean(1)


def of_numbers(outputs):
    return ((outputs - NUMBERS) ** 2).mean(1)


CASES = {
    "cross_entropy": (
        objectives.cross_entropy(label_smoothing=0.1, class_weights=OF_CLASSES),
        LABELS,
        of_classes,
    ),
    "bce": (objectives.soft_classification(losses.binary_cross_entropy), LABELS, of_questions),
    "numbers": (objectives.of_examples(losses.squared_error), NUMBERS, of_numbers),
}


def without_counts(loss):
    """The loss without the number of right answers, which the state of these tests does not sum."""

    def function(outputs, params, labels, weights):
        value, totals = loss(outputs, params, labels, weights)
        return value, {"loss": totals["loss"]}

    return function


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("devices", "pieces"), [(1, 1), (1, 2), (4, 1)])
def test_a_step_is_that_of_the_mean_of_weighted_losses(name, devices, pieces):
    loss, labels, in_numpy = CASES[name]
    kernel, total = after_a_step(without_counts(loss), labels, devices=devices, pieces=pieces)

    def value(kernel):
        outputs = (IMAGES / 255).mean((1, 2)) @ kernel
        return (WEIGHTS * in_numpy(outputs)).mean()

    gradient = np.empty_like(KERNEL)
    for place in np.ndindex(*KERNEL.shape):
        shift = np.zeros_like(KERNEL)
        shift[place] = 1e-5
        gradient[place] = (value(KERNEL + shift) - value(KERNEL - shift)) / 2e-5
    np.testing.assert_allclose(kernel, KERNEL - RATE * gradient, atol=2e-6)
    assert total == pytest.approx(COUNT * value(KERNEL), rel=1e-5)


def test_weights_of_a_mixture_are_mixed_like_its_labels():
    mixed = objective(
        objectives.soft_classification(losses.soft_cross_entropy), objectives.Mixing(CLASSES, 1.0, 0.0)
    )
    batch = Batch(IMAGES, LABELS, np.arange(COUNT, dtype=np.int32), weights=WEIGHTS)
    prepared = mixed.prepare(batch, jax.random.key(3))
    own = np.eye(CLASSES)[LABELS]
    differs = np.flatnonzero(LABELS[::-1] != LABELS)[0]
    share = float(prepared.labels[differs] @ own[differs])
    assert 0.01 < share < 0.99
    np.testing.assert_allclose(prepared.weights, share * WEIGHTS + (1 - share) * WEIGHTS[::-1], atol=1e-6)


def test_a_loss_that_compares_images_takes_no_weights():
    proxies = {"proxies": {"kernel": jnp.ones((CLASSES, 4))}}
    with pytest.raises(ValueError, match="no loss of single images"):
        objectives.proxy_anchor()(jnp.ones((COUNT, 4)), proxies, LABELS, jnp.ones(COUNT))
