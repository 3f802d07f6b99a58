"""Two columns: the frozen one is only read, the new one starts as the pretrained network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax import models
from finetune_jax.algorithms import augmentation, optimizers
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.batch import Batch
from finetune_jax.models.compositions import progressive
from finetune_jax.models.compositions.progressive import ProgressiveNetwork
from finetune_jax.models.normalization import normalizer
from finetune_jax.training import objectives, step
from finetune_jax.training import rates as training_rates
from finetune_jax.training.methods import registry as methods
from finetune_jax.training.state import create_state

BATCH = 8
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 4, BATCH).astype(np.int32)
NORMALIZE = normalizer((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
INPUTS = NORMALIZE(jnp.asarray(IMAGES))


@pytest.fixture(scope="module")
def columns():
    network = models.create("resnet26_policy", num_classes=4, width=0.125)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    model = ProgressiveNetwork(network)
    return model, variables, model.start(variables)


def test_before_training_it_is_the_pretrained_network(columns):
    model, variables, start = columns
    np.testing.assert_array_equal(model.apply(start, INPUTS), model.network.apply(variables, INPUTS))
    np.testing.assert_array_equal(model.embed(start, INPUTS), model.network.embed(variables, INPUTS))


def test_every_part_reads_the_frozen_column_below_it(columns):
    model, variables, start = columns
    network = model.network
    params = dict(start["params"])
    for name in model.laterals:
        kernel = 0.1 * RNG.normal(size=params[name]["kernel"].shape)
        params[name] = {"kernel": jnp.asarray(kernel, jnp.float32)}
    # Another new column, for the two to be told apart.
    for name in network.part_names:
        params[name] = jax.tree.map(lambda x: 1.1 * x, params[name])
    new = {**variables, "params": {name: params[name] for name in network.part_names}}
    x, _ = network.run(("stem",), new, INPUTS)
    below, _ = network.run(("stem",), variables, INPUTS)
    for name in network.part_names[1:]:
        lateral = np.asarray(below) @ np.asarray(params[f"lateral_{name}"]["kernel"])
        x, _ = network.run((name,), new, jnp.asarray(np.asarray(x) + lateral))
        if name != "head":
            below, _ = network.run((name,), variables, below)
    logits = model.apply({**start, "params": params}, INPUTS)
    np.testing.assert_allclose(logits, x, rtol=1e-4, atol=1e-5)
    assert not np.allclose(logits, model.network.apply(new, INPUTS), rtol=0.01)


def test_training_moves_the_new_column_and_the_laterals_alone(columns):
    model, variables, _ = columns
    config = FinetuneConfig(method="progressive", head_learning_rate=0.05)
    setup = methods.create(config, model.network, variables, jax.random.key(3))
    optimizer = training_rates.optimizer(config, setup.trained, setup.rules(config))
    objective = objectives.objective(
        setup.forward, objectives.cross_entropy(), normalize=NORMALIZE, augment=augmentation.BY_NAME["none"]
    )
    start = create_state(setup.variables, setup.trained, optimizer, key=jax.random.key(1))
    rates = setup.tuner(config, setup.trained).rates({}, 0)
    assert {rates[name] for name in (*model.laterals, "head")} == {0.05}
    assert rates["stem"] == rates["block_01"] == 0.01
    state = start.replace(opt_state=optimizers.set_learning_rates(start.opt_state, rates))
    run = jax.jit(functools.partial(step.train_step, objective=objective, optimizer=optimizer))
    after = run(state, Batch(IMAGES, LABELS, np.arange(BATCH, dtype=np.int32)))
    for kind in ("params", "batch_stats"):
        for name, before in start.variables[kind].items():
            same = jax.tree.map(np.array_equal, before, jax.device_get(after.variables[kind][name]))
            if jax.tree.leaves(same):
                assert all(jax.tree.leaves(same)) == name.startswith("column_"), f"{kind} of {name}"
    assert set(after.frozen) == {"column_stem", "column_block_01", "column_block_02", "column_block_03"}


def test_a_card_says_how_to_build_it_again(columns):
    model, _, start = columns
    again = progressive.from_json(model.to_json(), model.network)
    assert again == model
    shapes = again.shapes()
    assert jax.tree.structure(shapes) == jax.tree.structure(start)
    assert [leaf.shape for leaf in jax.tree.leaves(shapes)] == [leaf.shape for leaf in jax.tree.leaves(start)]
    assert set(shapes["params"]) == set(shapes["batch_stats"]) == set(model.part_names)
