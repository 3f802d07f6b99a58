"""Routing of SpotTune: each image takes one copy of each block, with the gradients of equation 2."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from jax.test_util import check_grads

from finetune_jax import models
from finetune_jax.algorithms import spottune
from finetune_jax.models.network import Network, TorchNames


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


class TestRoute:
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    def test_each_image_gets_one_copy_bit_for_bit(self, dtype):
        # Zeros with a sign and values that are not finite would not survive d · tuned + (1 − d) · frozen.
        tuned = jnp.asarray([[-0.0, 1.1], [jnp.inf, 2.2], [-0.0, 3.3], [jnp.nan, 4.4]], dtype)
        frozen = jnp.asarray([[jnp.inf, 5.5], [-0.0, 6.6], [jnp.nan, 7.7], [-0.0, 8.8]], dtype)
        routed = jax.jit(spottune.route)(jnp.asarray([1.0, 0.0, 1.0, 0.0]), tuned, frozen)
        expected = jnp.stack([tuned[0], frozen[1], tuned[2], frozen[3]])
        assert routed.dtype == dtype
        assert np.asarray(routed).tobytes() == np.asarray(expected).tobytes()

    @pytest.mark.parametrize("dtype", [bool, np.int32])
    def test_decisions_need_not_be_floats(self, dtype):
        tuned, frozen = jnp.ones((3, 2)), jnp.zeros((3, 2))
        routed = spottune.route(jnp.asarray([0, 1, 1], dtype), tuned, frozen)
        np.testing.assert_array_equal(routed, [[0, 0], [1, 1], [1, 1]])

    def test_gradients_are_those_of_equation_2(self):
        decisions = np.array([0.0, 1.0, 1.0, 0.0])
        tuned, frozen, cotangent = (normal(seed, 4, 3, 2, dtype=np.float64) for seed in range(3))
        with jax.enable_x64(True):
            _, pull = jax.vjp(spottune.route, *map(jnp.asarray, (decisions, tuned, frozen)))
            by_decision, by_tuned, by_frozen = pull(jnp.asarray(cotangent))
        for image, decision in enumerate(decisions):
            np.testing.assert_allclose(
                by_decision[image], (cotangent[image] * (tuned[image] - frozen[image])).sum(), rtol=1e-12
            )
            np.testing.assert_array_equal(by_tuned[image], decision * cotangent[image])
            np.testing.assert_array_equal(by_frozen[image], (1 - decision) * cotangent[image])

    def test_derivatives_agree_with_differences_at_and_between_the_ends(self):
        arguments = (np.array([0.0, 1.0, 0.3]), *(normal(seed, 3, 2, dtype=np.float64) for seed in (0, 1)))
        with jax.enable_x64(True):
            check_grads(spottune.route, tuple(map(jnp.asarray, arguments)), order=1, atol=1e-6, rtol=1e-6)

    def test_half_precision_activations_do_not_round_the_gradient_of_a_decision(self):
        tuned, frozen = jnp.full((1, 64, 64, 8), 1.0, jnp.bfloat16), jnp.zeros((1, 64, 64, 8), jnp.bfloat16)
        gradient = jax.grad(lambda d: spottune.route(d, tuned, frozen).astype(jnp.float32).sum())
        assert gradient(jnp.ones(1))[0] == 64 * 64 * 8

    def test_decisions_of_all_blocks_are_answered_with_the_column_to_give(self):
        with pytest.raises(
            ValueError, match=r"take one of \(3,\); give the column of this block, decisions\[:, i\]"
        ):
            spottune.route(jnp.ones((3, 4)), jnp.ones((3, 2)), jnp.ones((3, 2)))

    def test_outputs_that_differ_are_both_named(self):
        with pytest.raises(ValueError, match=r"float32\[2, 3\].*float32\[2, 4\]"):
            spottune.route(jnp.zeros(2), jnp.zeros((2, 3)), jnp.zeros((2, 4)))
        with pytest.raises(ValueError, match=r"\(3,\).*\(2, 3\)"):
            spottune.route(jnp.zeros(3), jnp.zeros((2, 3)), jnp.zeros((2, 3)))


class Layer(nn.Module):
    """A residual block of one dense layer, or just the layer."""

    features: int
    residual: bool = True

    @nn.compact
    def __call__(self, x, train):
        y = nn.Dense(self.features)(x.reshape(len(x), -1))
        return nn.relu(x + y) if self.residual else y


def dense_network(blocks=3):
    nothing = TorchNames({}, ({},) * blocks, {})
    return Network("dense", 1.0, 2, Layer(5, False), (Layer(5),) * blocks, Layer(2, False), nothing)


def reference_logits(network, tuned, frozen, images, decisions):
    """One image at a time, one block at a time."""
    logits = []
    for image, row in zip(images, decisions, strict=True):
        x, _ = network.run(("stem",), tuned, image[None])
        for name, decision in zip(network.block_names, row, strict=True):
            x, _ = network.run((name,), tuned if decision else frozen, x)
        logits.append(network.run(("head",), tuned, x)[0][0])
    return np.stack(logits)


@pytest.fixture(scope="module")
def dense():
    network = dense_network()
    images = jnp.asarray(normal(0, 8, 2, 2, 1))
    shapes = jax.ShapeDtypeStruct((8, 2, 2, 1), jnp.float32)
    tuned, frozen = (
        {"params": {}, "batch_stats": {name: {} for name in network.part_names}} for _ in range(2)
    )
    for seed, variables in enumerate((tuned, frozen)):
        x = jnp.zeros(shapes.shape)
        for name in network.part_names:
            own = network.part(name).init(jax.random.key(100 * seed + len(variables["params"])), x, False)
            variables["params"][name] = own["params"]
            x, _ = network.run((name,), variables, x)
    return network, tuned, frozen, images


class TestApply:
    def test_every_image_takes_its_own_path(self, dense):
        network, tuned, frozen, images = dense
        decisions = np.array([[image >> bit & 1 for bit in range(3)] for image in range(8)])  # all 8 paths
        logits = spottune.apply(network, tuned, frozen, images, jnp.asarray(decisions, jnp.float32))
        expected = reference_logits(network, tuned, frozen, images, decisions)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
        assert len(np.unique(expected, axis=0)) == 8

    @pytest.mark.parametrize("batch", [32, 45])
    @given(data=st.data())
    @settings(max_examples=10, deadline=None)
    def test_a_large_batch_in_groups_gives_what_both_copies_give(self, dense, batch, data):
        network, tuned, frozen, images = dense
        images = jnp.asarray(normal(batch, batch, *images.shape[1:]))
        columns = st.one_of(
            st.sampled_from([np.zeros(batch), np.ones(batch)]),
            st_numpy.arrays(np.float64, batch, elements=st.sampled_from([0.0, 1.0])),
        )
        decisions = jnp.asarray(np.stack([data.draw(columns) for _ in range(3)], 1), jnp.float32)
        both, _ = spottune.features(network, tuned, frozen, images, decisions)
        once, _ = spottune.features(network, tuned, frozen, images, decisions, once=True)
        np.testing.assert_allclose(once, both, rtol=1e-6, atol=1e-6)

    def test_a_large_batch_is_run_in_groups_and_gets_nothing_of_a_copy_that_no_image_takes(self, dense):
        network, tuned, frozen, _ = dense
        spoiled = jax.tree.map(lambda x: x * np.nan, frozen)
        images = jnp.asarray(normal(1, 40, 2, 2, 1))
        once, _ = spottune.features(network, tuned, spoiled, images, jnp.ones((40, 3)), once=True)
        # One loop over nine groups of five images per block, and no product over the whole batch but the stem's.
        program = str(
            jax.make_jaxpr(
                lambda images, decisions: spottune.features(
                    network, tuned, frozen, images, decisions, once=True
                )[0]
            )(images, jnp.ones((40, 3)))
        )
        assert program.count("scan[") == 3
        assert program.count("length=9") == 3
        expected, _ = spottune.features(network, tuned, frozen, images, jnp.ones((40, 3)))
        np.testing.assert_allclose(once, expected, rtol=1e-6)

    def test_columns_belong_to_the_routed_blocks_and_the_rest_is_frozen(self, dense):
        network, tuned, frozen, images = dense
        some = np.array([[image & 1, image >> 1 & 1] for image in range(8)], np.float32)
        logits = spottune.apply(
            network, tuned, frozen, images, jnp.asarray(some), routed=("block_03", "block_02")
        )
        every = np.stack([np.zeros(8), some[:, 1], some[:, 0]], 1)
        np.testing.assert_allclose(
            logits, reference_logits(network, tuned, frozen, images, every), rtol=1e-5, atol=1e-6
        )

    def test_blocks_that_are_not_routed_need_no_tuned_copy(self, dense):
        network, tuned, frozen, images = dense
        fewer = {
            kind: {name: tree for name, tree in trees.items() if name != "block_01"}
            for kind, trees in tuned.items()
        }
        only_blocks = {
            kind: {name: trees[name] for name in network.block_names} for kind, trees in frozen.items()
        }
        routed = ("block_02", "block_03")
        decisions = jnp.ones((8, 2))
        np.testing.assert_array_equal(
            spottune.apply(network, fewer, only_blocks, images, decisions, routed=routed),
            spottune.apply(network, tuned, frozen, images, decisions, routed=routed),
        )

    def test_the_gradient_of_a_decision_is_what_switching_the_last_block_changes(self, dense):
        # The head is linear, so Eq. 2 is linear in the last block's decision: its slope is a difference.
        network, tuned, frozen, images = dense
        decisions = np.array([[image >> bit & 1 for bit in range(3)] for image in range(8)], np.float32)
        gradient = jax.grad(lambda d: spottune.apply(network, tuned, frozen, images, d)[:, 1].sum())(
            jnp.asarray(decisions)
        )
        off, on = decisions.copy(), decisions.copy()
        off[:, 2], on[:, 2] = 0, 1
        difference = reference_logits(network, tuned, frozen, images, on) - reference_logits(
            network, tuned, frozen, images, off
        )
        np.testing.assert_allclose(gradient[:, 2], difference[:, 1], rtol=1e-4, atol=1e-5)
        assert (gradient[:, :2] != 0).any(0).all()

    def test_a_copy_no_image_takes_has_zero_gradient(self, dense):
        network, tuned, frozen, images = dense
        decisions = jnp.tile(jnp.asarray([1.0, 0.0, 1.0]), (8, 1))

        def total(tuned, frozen):
            return spottune.apply(network, tuned, frozen, images, decisions).sum()

        by_tuned, by_frozen = jax.grad(total, (0, 1))(tuned, frozen)
        for name, decision in zip(network.block_names, (1, 0, 1), strict=True):
            tuned_kernel = by_tuned["params"][name]["Dense_0"]["kernel"]
            frozen_kernel = by_frozen["params"][name]["Dense_0"]["kernel"]
            assert (tuned_kernel != 0).any() == (decision == 1)
            assert (frozen_kernel != 0).any() == (decision == 0)
        assert not any(by_frozen["params"]["head"]["Dense_0"]["kernel"].ravel())

    def test_sampled_policies_can_be_mapped_over(self, dense):
        network, tuned, frozen, images = dense
        several = jnp.asarray(normal(3, 4, 8, 3) > 0, jnp.float32)
        mapped = jax.vmap(lambda decisions: spottune.apply(network, tuned, frozen, images, decisions))
        together = mapped(several)
        alone = spottune.apply(network, tuned, frozen, images, several[2])
        np.testing.assert_allclose(together[2], alone, rtol=1e-5, atol=1e-6)

    def test_bad_names_and_shapes_are_refused(self, dense):
        network, tuned, frozen, images = dense
        for routed in (("block_09",), ("block_01", "block_01"), ("head",)):
            with pytest.raises(ValueError, match=r"block_01.*" + routed[0]):
                spottune.apply(network, tuned, frozen, images, jnp.ones((8, len(routed))), routed=routed)
        with pytest.raises(ValueError, match=r"\(8, 2\).*8 images and 3 routed blocks"):
            spottune.apply(network, tuned, frozen, images, jnp.ones((8, 2)))


@pytest.fixture(scope="module")
def resnet():
    """ResNet-26 with two sets of weights and of batch statistics."""
    network = models.create("resnet26", num_classes=3, width=0.125)
    images = jnp.asarray(normal(0, 4, 16, 16, 3))
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            values = rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif path[-1].key in ("scale", "var"):
            values = rng.uniform(0.7, 1.3, leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) * 0.1
        return jnp.asarray(values, leaf.dtype)

    tuned, frozen = (jax.tree_util.tree_map_with_path(draw, network.shapes()) for _ in range(2))
    return network, tuned, frozen, images


@pytest.mark.parametrize("copy", ["tuned", "frozen"])
def test_uniform_decisions_give_one_copy_of_a_resnet_bit_for_bit(resnet, copy):
    network, tuned, frozen, images = resnet
    decisions = jnp.full((4, 12), 1.0 if copy == "tuned" else 0.0)
    routed = spottune.apply(network, tuned, frozen, images, decisions)
    blocks = {
        kind: trees
        | {name: {"tuned": tuned, "frozen": frozen}[copy][kind][name] for name in network.block_names}
        for kind, trees in tuned.items()
    }
    np.testing.assert_array_equal(routed, network.apply(blocks, images))
    assert np.abs(routed).max() > 0.01
    # The other copy would have given something else.
    assert not np.allclose(routed, spottune.apply(network, tuned, frozen, images, 1 - decisions), rtol=0.01)


def test_routing_of_a_resnet_compiles_to_the_same_numbers(resnet):
    network, tuned, frozen, images = resnet
    decisions = jnp.asarray(normal(2, 4, 12) > 0, jnp.float32)
    compiled = jax.jit(spottune.apply, static_argnums=0)(network, tuned, frozen, images, decisions)
    np.testing.assert_allclose(
        compiled, spottune.apply(network, tuned, frozen, images, decisions), rtol=1e-4, atol=1e-5
    )
