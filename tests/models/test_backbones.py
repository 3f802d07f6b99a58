"""What every method asks of a network, asked of one narrow network of each family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded_state import seeded_normal, seeded_state

from finetune_jax import models
from finetune_jax.algorithms import optimizers, spottune, weight_variation
from finetune_jax.errors import UserError
from finetune_jax.models import pruning

FAMILIES = ["mobilenet", "mobilenet_v2", "efficientnet_lite0", "densenet121", "inception_v3", "resnet50v2"]
WIDTH, CLASSES = 0.0625, 3  # as in other files, so that shapes are found once in a process


def images_for(name):
    size = 75 if name == "inception_v3" else 32
    return jnp.asarray(seeded_normal("images", (2, size, size, 3)))


def narrow(name, seed=0, **settings):
    """A network and variables, without the seconds that compiling the initialisers takes."""
    network = models.create(name, CLASSES, width=WIDTH, **settings)
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), network.shapes())
    shapes = {key: value.shape for key, value in models.to_torch_state(network, empty).items()}
    return network, models.from_torch_state(network, seeded_state(shapes, seed))


@pytest.mark.parametrize(
    ("name", "blocks", "features", "parameters"),
    [
        # Parameters with 1000 classes as torchvision 0.29 and timm 1.0 count them.
        ("mobilenet", 13, 1024, 4_231_976),
        ("mobilenet_v2", 18, 1280, 3_504_872),
        ("efficientnet_lite0", 17, 1280, 4_652_008),
        ("efficientnet_lite1", 22, 1280, 5_416_680),
        ("efficientnet_lite2", 22, 1280, 6_092_072),
        ("densenet121", 58, 1024, 7_978_856),
        ("resnet50v2", 16, 2048, 25_549_352),
        ("resnet101v2", 33, 2048, 44_541_480),
        ("inception_v3", 13, 2048, 23_834_568),  # without the auxiliary classifier
    ],
)
def test_networks_have_the_published_blocks_features_and_parameters(name, blocks, features, parameters):
    network = models.create(name)
    shapes = network.shapes()
    assert len(network.blocks) == blocks
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters
    assert jax.eval_shape(network.embed, shapes, jnp.zeros((2, 96, 96, 3))).shape == (2, features)
    for kind in ("params", "batch_stats"):
        assert set(shapes[kind]) == set(network.part_names)


@pytest.mark.parametrize("name", FAMILIES)
def test_truncated_networks_run_with_a_head_that_fits(name):
    network, variables = narrow(name)
    images = images_for(name)
    for depth in (1, len(network.blocks) // 2, len(network.blocks) - 1):
        shorter, left = pruning.truncate(network, depth), pruning.truncate_variables(variables, depth)
        fitted = pruning.fit_head(shorter, left, jax.random.key(0), images)
        assert jax.eval_shape(shorter.apply, fitted, images).shape == (2, CLASSES)
    state = models.to_torch_state(shorter, fitted)
    jax.tree.map(np.testing.assert_array_equal, models.from_torch_state(shorter, state), fitted)


@pytest.mark.parametrize("name", ["mobilenet_v2", "inception_v3"])
def test_weight_variations_are_those_of_each_blocks_kernels(name):
    network, before = narrow(name, 0)
    _, after = narrow(name, 1)
    variations = jax.jit(weight_variation.weight_variation)(before["params"], after["params"])
    assert variations.shape == (len(network.blocks),)
    for block, variation in zip(network.block_names, variations, strict=True):
        moved = [
            np.ravel(np.float64(after["params"][block][layer]["kernel"]) - leaves["kernel"])
            for layer, leaves in before["params"][block].items()
            if "kernel" in leaves
        ]
        moved = np.concatenate(moved)
        np.testing.assert_allclose(variation, np.linalg.norm(moved) / moved.size, rtol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v2", "inception_v3"])
def test_routing_all_images_one_way_is_one_of_the_two_networks(name):
    network, tuned = narrow(name, 0)
    _, frozen = narrow(name, 1)
    images = images_for(name)
    mixed = {
        kind: {
            part: (tuned if part in ("stem", "head") else frozen)[kind][part] for part in network.part_names
        }
        for kind in tuned
    }
    apply = jax.jit(network.apply)
    routed = jax.jit(lambda decisions: spottune.apply(network, tuned, frozen, images, decisions))
    blocks = len(network.blocks)
    np.testing.assert_allclose(routed(jnp.ones((2, blocks))), apply(tuned, images), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(routed(jnp.zeros((2, blocks))), apply(mixed, images), rtol=1e-4, atol=1e-5)


def test_bfloat16_reaches_the_depthwise_convolutions_and_not_the_logits():
    network, variables = narrow("mobilenet_v2")
    half = models.create("mobilenet_v2", CLASSES, width=WIDTH, dtype=jnp.bfloat16)
    images = images_for("mobilenet_v2")
    parts = network.part_names[:3]
    assert jax.eval_shape(lambda v: half.run(parts, v, images)[0], variables).dtype == jnp.bfloat16
    logits, exact = jax.jit(half.apply)(variables, images), jax.jit(network.apply)(variables, images)
    assert logits.dtype == jnp.float32
    assert not np.array_equal(logits, exact)
    np.testing.assert_allclose(logits, exact, atol=0.1 * float(np.abs(exact).max()))


def test_a_stem_without_parameters_has_a_learning_rate_like_any_other_part():
    network, variables = narrow("inception_v3")
    assert variables["params"]["stem"] == variables["batch_stats"]["stem"] == {}
    params = variables["params"]
    optimizer = optimizers.per_block_sgd(params, dict.fromkeys(network.part_names, 0.5))
    state = optimizers.set_learning_rates(jax.jit(optimizer.init)(params), {"stem": 0.25, "block_01": 0.0})
    assert optimizers.get_learning_rates(state)["stem"] == 0.25
    updates, _ = jax.jit(optimizer.update)(params, state, params)
    assert updates["stem"] == {}
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates["block_01"]))


def test_inception_refuses_images_that_its_reductions_leave_nothing_of():
    network, variables = narrow("inception_v3")
    assert jax.eval_shape(network.apply, variables, jnp.zeros((1, 75, 75, 3))).shape == (1, CLASSES)
    with pytest.raises(UserError, match="at least 75×75 pixels"):
        jax.eval_shape(network.apply, variables, jnp.zeros((1, 74, 90, 3)))
