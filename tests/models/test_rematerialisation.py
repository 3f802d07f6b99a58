"""Computing parts again for their gradients: the same numbers, less memory."""

import jax
import jax.numpy as jnp
import numpy as np
from weights import random_variables

from finetune_jax import models

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16, 16, 3)), jnp.float32)


def gradient_of(rematerialise: bool):
    """Gradient and new statistics of a network whose head drops out."""
    network = models.create(
        "resnet26_policy", num_classes=4, width=0.125, head="retrieval", rematerialise=rematerialise
    )

    def loss(params, batch_stats, images):
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updated = network.apply(variables, images, train=True, rngs={"dropout": jax.random.key(3)})
        return (outputs**2).mean(), updated

    variables = random_variables(network)
    return jax.jit(jax.grad(loss, has_aux=True)), (variables["params"], variables["batch_stats"], IMAGES)


def test_gradients_and_statistics_are_those_of_plain_training():
    results = [function(*arguments) for function, arguments in map(gradient_of, (False, True))]
    for plain, again in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-4, atol=1e-6)


def test_the_compiled_step_needs_less_memory():
    def memory(rematerialise):
        model = models.create("resnet26", num_classes=2, width=0.125, rematerialise=rematerialise)
        variables = model.shapes()

        def loss(params, batch_stats, images):
            logits, _ = model.apply({"params": params, "batch_stats": batch_stats}, images, train=True)
            return logits.sum()

        images = jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32)
        program = jax.jit(jax.grad(loss)).lower(variables["params"], variables["batch_stats"], images)
        return program.compile().memory_analysis().temp_size_in_bytes

    assert memory(True) < 0.5 * memory(False)


def test_prediction_is_the_same():
    plain, again = (
        models.create("resnet26_policy", num_classes=4, width=0.125, rematerialise=value)
        for value in (False, True)
    )
    variables = random_variables(plain)
    np.testing.assert_array_equal(again.apply(variables, IMAGES), plain.apply(variables, IMAGES))
