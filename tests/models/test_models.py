"""Networks as sequences of named parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax import models
from finetune_jax.errors import UserError
from finetune_jax.models.layers.basic import BatchNorm

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), jnp.float32)


@pytest.fixture(scope="module")
def small():
    network = models.create("resnet26", num_classes=5, width=0.25)
    return network, network.init(jax.random.key(0), IMAGES)


def changed_parts(before, after):
    """Names of the parts with any different leaf."""
    return {
        name
        for name in before
        if not all(
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True)
        )
    }


def test_variables_have_exactly_the_part_names_as_keys(small):
    network, variables = small
    names = ("stem", *(f"block_{i:02d}" for i in range(1, 13)), "head")
    assert network.part_names == names
    assert network.block_names == names[1:-1]
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == set(variables["batch_stats"]) == set(names)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("name", "blocks", "parameters"),
    [
        # Published sizes of the networks with 1000 classes, in torchvision's documentation.
        ("resnet18", 8, 11_689_512),
        ("resnet34", 16, 21_797_672),
        ("resnet50", 16, 25_557_032),
        ("resnet101", 33, 44_549_160),
        ("resnet152", 50, 60_192_808),
    ],
)
def test_networks_have_the_published_number_of_parameters(name, blocks, parameters):
    network = models.create(name, num_classes=1000)
    assert len(network.blocks) == blocks
    assert sum(leaf.size for leaf in jax.tree.leaves(network.shapes()["params"])) == parameters


def test_init_depends_on_the_key_alone(small):
    network, variables = small
    again = network.init(jax.random.key(0), IMAGES[:1])
    other = network.init(jax.random.key(1), IMAGES)
    assert changed_parts(variables["params"], again["params"]) == set()
    assert changed_parts(variables["params"], other["params"]) == set(network.part_names)


def test_a_head_initialised_alone_equals_that_of_the_whole(small):
    network, variables = small
    alone = network.init_head(jax.random.key(0))
    for ours, theirs in zip(
        jax.tree.leaves(alone), jax.tree.leaves(variables["params"]["head"]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_blocks_of_equal_shape_start_with_different_kernels(small):
    _, variables = small
    first, second = (variables["params"][name]["conv1"]["kernel"] for name in ("block_03", "block_04"))
    assert first.shape == second.shape
    assert not np.allclose(first, second)


def test_apply_in_evaluation_gives_logits_alone_and_in_training_the_statistics_too(small):
    network, variables = small
    assert network.apply(variables, IMAGES).shape == (4, 5)
    logits, batch_stats = network.apply(variables, IMAGES, train=True)
    assert logits.shape == (4, 5)
    assert changed_parts(variables["batch_stats"], batch_stats) == set(network.part_names)


def test_only_the_parts_named_normalise_with_batch_statistics(small):
    network, variables = small
    _, batch_stats = network.apply(variables, IMAGES, train=("block_12", "head"))
    assert changed_parts(variables["batch_stats"], batch_stats) == {"block_12", "head"}
    logits, batch_stats = network.apply(variables, IMAGES, train=())
    assert changed_parts(variables["batch_stats"], batch_stats) == set()
    np.testing.assert_array_equal(logits, network.apply(variables, IMAGES))


def test_embeddings_are_the_pooled_output_of_the_last_block(small):
    network, variables = small
    features, _ = network.run(network.part_names[:-1], variables, IMAGES)
    expected = np.asarray(features, np.float64).mean((1, 2))
    np.testing.assert_allclose(network.embed(variables, IMAGES), expected, rtol=1e-5, atol=1e-6)


def test_a_network_without_top_blocks_runs_on_the_variables_left(small):
    network, variables = small
    shorter = dataclasses.replace(network, blocks=network.blocks[:-2])
    left = {
        kind: {name: tree for name, tree in parts.items() if name not in ("block_11", "block_12")}
        for kind, parts in variables.items()
    }
    features, _ = network.run(shorter.part_names[:-1], variables, IMAGES)
    assert shorter.block_names == network.block_names[:-2]
    np.testing.assert_allclose(shorter.embed(left, IMAGES), features.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_bfloat16_changes_the_computation_and_not_the_variables_or_the_type_of_logits(small):
    network, variables = small
    half = models.create("resnet26", num_classes=5, width=0.25, dtype=jnp.bfloat16)
    assert jax.tree.map(jnp.shape, half.shapes()) == jax.tree.map(jnp.shape, network.shapes())
    logits, batch_stats = half.apply(variables, IMAGES, train=True)
    assert logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(batch_stats))
    exact, _ = network.apply(variables, IMAGES, train=True)
    assert not np.array_equal(logits, exact)
    np.testing.assert_allclose(logits, exact, atol=0.1)


def test_odd_image_sizes_pass_the_averaged_shortcut(small):
    network, variables = small
    assert jax.jit(network.apply)(variables, IMAGES[:, :15, :13]).shape == (4, 5)


def test_networks_are_hashable_so_that_jit_takes_them_as_static(small):
    network, variables = small
    apply = jax.jit(lambda network, variables: network.apply(variables, IMAGES), static_argnums=0)
    assert apply(network, variables).shape == (4, 5)
    assert hash(network) == hash(models.create("resnet26", num_classes=5, width=0.25))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "resnet27"}, "--network=resnet27"),
        ({"name": "resnet18", "num_classes": 0}, "at least one class"),
        ({"name": "resnet18", "width": 0.0}, "--width"),
        ({"name": "resnet18", "norm_momentum": 1.0}, "--norm_momentum"),
    ],
)
def test_bad_settings_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        models.create(**arguments)


def test_batch_norm_moves_the_running_variance_towards_the_unbiased_one():
    x = np.random.default_rng(1).normal(2.0, 3.0, size=(2, 2, 2, 3)).astype(np.float32)
    layer = BatchNorm(momentum=0.9)
    variables = layer.init(jax.random.key(0), x, False)
    y, updated = layer.apply(variables, x, True, mutable=["batch_stats"])
    rows = x.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    np.testing.assert_allclose(np.asarray(y).reshape(-1, 3), expected, rtol=1e-4, atol=1e-5)


def test_synchronised_batch_norm_equals_batch_norm_of_the_whole_batch():
    x = np.random.default_rng(2).normal(size=(8, 3, 3, 2)).astype(np.float32)
    whole, split = BatchNorm(), BatchNorm(axis_name="batch")
    variables = whole.init(jax.random.key(0), x, False)
    expected, statistics = whole.apply(variables, x, True, mutable=["batch_stats"])
    run = jax.vmap(
        lambda part: split.apply(variables, part, True, mutable=["batch_stats"]), axis_name="batch"
    )
    y, split_statistics = run(x.reshape(4, 2, 3, 3, 2))
    np.testing.assert_allclose(y.reshape(8, 3, 3, 2), expected, rtol=1e-5, atol=1e-6)
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            split_statistics["batch_stats"][name][0], statistics["batch_stats"][name], rtol=1e-5, atol=1e-7
        )


def test_stages_are_consecutive_blocks_with_outputs_of_one_shape():
    stages = models.create("resnet26", num_classes=5, width=0.25).stages()
    assert [len(stage) for stage in stages] == [4, 4, 4]
    assert [stage[0] for stage in stages] == ["block_01", "block_05", "block_09"]
    # MobileNetV2, Table 2: 1, 2, 3, 4, 3, 3 and 1 bottlenecks, and the last convolution.
    widths = [len(stage) for stage in models.create("mobilenet_v2", num_classes=5, width=0.25).stages()]
    assert widths == [1, 2, 3, 4, 3, 3, 1, 1]
