"""Grad-CAM against closed forms, finite differences and a loop in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_variables

from finetune_jax import models
from finetune_jax.models import pruning
from finetune_jax.models.architectures.resnet import PooledClassifier
from finetune_jax.models.grad_cam import (
    embedding_norm,
    grad_cam,
    grad_cams,
    logit_of,
    predicted_logit,
    similarity_to,
)
from finetune_jax.models.network import Network, TorchNames

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)


class Identity(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return x


class LeftHalf(nn.Module):
    """Blind to the right half."""

    @nn.compact
    def __call__(self, x, train):
        return x * (jnp.arange(x.shape[2]) < x.shape[2] // 2)[:, None]


class Mix(nn.Module):
    """A smooth, non-linear map of the channels of each place."""

    features: int

    @nn.compact
    def __call__(self, x, train):
        return jnp.tanh(nn.Dense(self.features)(x))


def tiny(*blocks, classes=4):
    return Network(
        architecture="tiny",
        width=1.0,
        num_classes=classes,
        stem=Identity(),
        blocks=blocks,
        head=PooledClassifier(classes),
        torch_names=TorchNames({}, ({},) * len(blocks), {}),
    )


def with_variables(network):
    return network, random_variables(network)


@pytest.fixture(scope="module")
def resnet():
    # Twelve blocks of 8, 16 and 32 channels on 16×16 images: 8×8, 4×4 and 2×2 places.
    return with_variables(models.create("resnet26", num_classes=5, width=0.125))


def head_with(kernel):
    return {"params": {"stem": {}, "block_01": {}, "head": {"classifier": kernel}}, "batch_stats": EMPTY}


EMPTY = {"stem": {}, "block_01": {}, "head": {}}


def classifier(kernel, bias=None):
    kernel = jnp.asarray(kernel, jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1]) if bias is None else jnp.asarray(bias)}


def normalised(maps):
    maps = np.maximum(maps, 0)
    largest = maps.max((1, 2), keepdims=True)
    return np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0)


def test_of_average_pooling_and_a_dense_layer_the_weights_are_those_of_the_class():
    rng = np.random.default_rng(1)
    images, kernel = rng.normal(size=(3, 4, 5, 3)), rng.normal(size=(3, 4))
    classes = np.array([2, 0, 3])
    maps = grad_cam(
        tiny(Identity()),
        head_with(classifier(kernel)),
        jnp.asarray(images, jnp.float32),
        "block_01",
        logit_of(classes),
    )
    # dy/dA = w / (h·w), the same everywhere; the factor 1 / (h·w) is lost in the normalisation.
    expected = normalised(np.einsum("bhwk,kb->bhw", images, kernel[:, classes]))
    assert maps.shape == (3, 4, 5)
    assert maps.dtype == jnp.float32
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert (expected == 0).any()  # the cut at zero was seen


def test_by_default_the_class_predicted_is_explained(resnet):
    network, variables = resnet
    classes = network.apply(variables, IMAGES).argmax(1)
    default = grad_cam(network, variables, IMAGES, "block_06")
    np.testing.assert_array_equal(
        default, grad_cam(network, variables, IMAGES, "block_06", logit_of(classes))
    )
    other = grad_cam(network, variables, IMAGES, "block_06", logit_of((classes + 1) % 5))
    assert np.abs(default - other).max() > 0.05


@pytest.mark.parametrize("block", ["block_01", "block_02"])
def test_weights_are_what_finite_differences_find(block):
    images = jnp.asarray(np.random.default_rng(2).normal(size=(1, 3, 4, 3)), jnp.float32)
    network, variables = with_variables(tiny(Mix(6), Mix(5)))
    # In float64 on the host, where differences of 1e-5 still have ten digits.
    dense = [variables["params"][name]["Dense_0"] for name in network.block_names]
    last = variables["params"]["head"]["classifier"]

    def outputs(x):
        found = []
        for layer in dense:
            x = np.tanh(x @ np.float64(layer["kernel"]) + np.float64(layer["bias"]))
            found.append(x)
        return found

    def logit(x, above):
        for layer in dense[above:]:
            x = np.tanh(x @ np.float64(layer["kernel"]) + np.float64(layer["bias"]))
        return float(x.mean((0, 1, 2)) @ np.float64(last["kernel"])[:, 1])

    number = network.block_names.index(block)
    output = outputs(np.float64(images))[number]
    # Adding the same to a channel everywhere changes the score by the sum of the gradient over all places.
    weights = []
    for channel in range(output.shape[-1]):
        step = np.zeros_like(output)
        step[..., channel] = 1e-5
        weights.append((logit(output + step, number + 1) - logit(output - step, number + 1)) / 2e-5)
    expected = normalised(output @ np.array(weights))
    assert expected.any()
    np.testing.assert_allclose(grad_cam(network, variables, images, block, logit_of(1)), expected, atol=1e-5)


def test_a_loop_in_numpy_over_jaxs_gradient_gives_the_same_maps(resnet):
    network, variables = resnet
    below, above = network.part_names[:6], network.part_names[6:]
    assert below[-1] == "block_05"
    output, _ = network.run(below, variables, IMAGES)
    jacobian = jax.jacrev(lambda x: network.run(above, variables, x)[0][:, 3])(output)
    maps = np.zeros((2, 4, 4))
    for image in range(2):
        for channel in range(output.shape[3]):
            alpha = 0.0
            for row in range(4):
                for column in range(4):
                    alpha += float(jacobian[image, image, row, column, channel]) / 16
            maps[image] += alpha * np.asarray(output[image, :, :, channel], np.float64)
    found = grad_cam(network, variables, IMAGES, "block_05", logit_of(3))
    np.testing.assert_allclose(found, normalised(maps), atol=1e-5)


def test_several_blocks_in_one_pass_are_the_blocks_one_by_one(resnet):
    network, variables = resnet
    blocks = ("block_12", "stem", "block_05")
    together = grad_cams(network, variables, IMAGES, blocks)
    assert tuple(together) == blocks
    assert [maps.shape for maps in together.values()] == [(2, 2, 2), (2, 16, 16), (2, 4, 4)]
    for block in blocks:
        np.testing.assert_allclose(together[block], grad_cam(network, variables, IMAGES, block), atol=1e-5)


def test_several_blocks_cost_one_backward_pass(resnet):
    network, variables = resnet

    def convolutions(function):
        return str(jax.make_jaxpr(function)(IMAGES)).count("conv_general_dilated[")

    def cost(blocks):
        return convolutions(lambda x: grad_cams(network, variables, x, blocks))

    forward = convolutions(lambda x: network.apply(variables, x))
    assert cost(network.block_names) == cost(("block_01",)) > forward > 0
    assert cost(("block_12",)) == forward  # nothing but the head is differentiated


@pytest.mark.parametrize("factor", [1e-20, 0.25, 1e20])
def test_a_positive_factor_of_the_score_changes_nothing(resnet, factor):
    network, variables = resnet

    def scaled(*arguments):
        return factor * predicted_logit(*arguments)

    np.testing.assert_allclose(
        grad_cam(network, variables, IMAGES, "block_04", scaled),
        grad_cam(network, variables, IMAGES, "block_04"),
        atol=1e-5,
    )


def test_what_speaks_against_is_what_speaks_for_the_opposite_score():
    rng = np.random.default_rng(3)
    images = jnp.asarray(rng.normal(size=(2, 4, 4, 3)), jnp.float32)
    variables = head_with(classifier(rng.normal(size=(3, 4))))
    network = tiny(Identity())
    positive = grad_cam(network, variables, images, "block_01", logit_of(1))
    negative = grad_cam(network, variables, images, "block_01", lambda *a: -logit_of(1)(*a))
    assert ((np.asarray(positive) > 0) != (np.asarray(negative) > 0)).all()


def test_a_region_the_network_is_blind_to_stays_zero():
    images = jnp.asarray(np.random.default_rng(4).uniform(1, 2, size=(2, 4, 6, 3)), jnp.float32)
    network = tiny(LeftHalf(), classes=2)
    variables = head_with(classifier([[1.0, 0], [2, 0], [3, 0]]))
    maps = np.asarray(grad_cam(network, variables, images, "block_01", logit_of(0)))
    assert (maps[:, :, :3] > 0).all()
    assert (maps[:, :, 3:] == 0).all()


def test_a_map_has_its_maximum_at_one_and_nothing_in_favour_is_zero():
    images = jnp.ones((2, 3, 3, 3)).at[1].multiply(-1)
    variables = head_with(classifier([[1.0], [1.0], [1.0]]))
    maps = grad_cam(tiny(Identity(), classes=1), variables, images, "block_01")
    np.testing.assert_array_equal(maps[0], np.ones((3, 3)))
    np.testing.assert_array_equal(maps[1], np.zeros((3, 3)))
    constant = head_with(classifier(np.zeros((3, 1)), [7.0]))
    assert not grad_cam(tiny(Identity(), classes=1), constant, images, "block_01").any()


def test_an_image_is_explained_alone(resnet):
    network, variables = resnet
    both = grad_cam(network, variables, IMAGES, "block_03")
    alone = grad_cam(network, variables, IMAGES[1:], "block_03")
    np.testing.assert_allclose(both[1:], alone, atol=1e-5)


ARCHITECTURES = [
    "resnet18",
    "resnet50",
    "resnet26",
    "resnet50v2",
    "mobilenet",
    "mobilenet_v2",
    "efficientnet_lite0",
    "densenet121",
    "inception_v3",
    "convnext_atto",
    "convnextv2_atto",
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_can_be_traced_at_all_its_blocks(architecture):
    network = models.create(architecture, 3, width=0.0625)
    if architecture == "densenet121":  # a dense block, a transition, and the beginning of the next of four
        network = pruning.truncate(network, len(network.blocks) - 9)
    images = jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.float32)

    def maps_and_outputs(variables, images):
        outputs, x = {}, images
        for name in network.part_names[:-1]:
            outputs[name] = x = network.run((name,), variables, x)[0]
        return grad_cams(network, variables, images, network.block_names), outputs

    found, outputs = jax.eval_shape(maps_and_outputs, network.shapes(), images)
    assert {name: cam.shape for name, cam in found.items()} == {
        name: outputs[name].shape[:3] for name in network.block_names
    }


# Of each kind of block the cheapest to compile.
@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnet26", "mobilenet"])
def test_architectures_have_maps_at_their_first_and_last_block(architecture):
    images = jnp.asarray(np.random.default_rng(5).normal(size=(1, 32, 32, 3)), jnp.float32)
    network, variables = with_variables(models.create(architecture, 3, width=0.05))
    first, last = network.block_names[0], network.block_names[-1]
    # A map may be empty by chance; that of the opposite score is not empty then.
    scores = (predicted_logit, lambda *arguments: -predicted_logit(*arguments))
    both = jax.jit(lambda *given: [grad_cams(network, *given, (first, last), score) for score in scores])
    found = both(variables, images)
    for block in (first, last):
        below = network.part_names[: network.part_names.index(block) + 1]
        shape = jax.eval_shape(lambda v, x, below=below: network.run(below, v, x)[0], variables, images).shape
        maps = np.stack([one[block] for one in found])
        assert maps.shape == (2, *shape[:3])
        assert np.isfinite(maps).all()
        assert maps.max() == pytest.approx(1)
        assert maps.max() <= 1
        assert maps.min() >= 0


@pytest.mark.parametrize("depth", [2, 4])
def test_pruned_networks_have_maps_at_their_last_block(resnet, depth):
    network, variables = resnet
    pruned = pruning.truncate(network, depth)
    fitted = pruning.fit_head(pruned, pruning.truncate_variables(variables, depth), jax.random.key(1), IMAGES)
    block = pruned.block_names[-1]
    output, _ = network.run(pruned.part_names[:-1], variables, IMAGES)
    maps = grad_cam(pruned, fitted, IMAGES, block, embedding_norm)
    np.testing.assert_allclose(
        maps, normalised(np.einsum("bhwk,bk->bhw", output, np.mean(output, (1, 2)))), atol=1e-5
    )
    assert grad_cam(pruned, fitted, IMAGES, block).shape == output.shape[:3]
    with pytest.raises(ValueError, match="got block_12"):
        grad_cam(pruned, fitted, IMAGES, "block_12")


def test_maps_of_a_similarity_add_up_to_it():
    """Stylianou et al.: the shares of the places in the cosine similarity."""
    rng = np.random.default_rng(6)
    images = rng.uniform(0, 1, size=(2, 3, 3, 4))  # no negative share
    other = rng.uniform(0, 1, size=(2, 4))
    network = tiny(Identity())
    variables = head_with(classifier(np.zeros((4, 4))))
    maps = np.asarray(
        grad_cam(network, variables, jnp.asarray(images, jnp.float32), "block_01", similarity_to(other))
    )
    own = images.mean((1, 2))
    cosine = (own * other).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(other, axis=1)
    share = np.einsum("bhwk,bk->bhw", images, other)
    share /= 9 * np.linalg.norm(own, axis=1)[:, None, None] * np.linalg.norm(other, axis=1)[:, None, None]
    np.testing.assert_allclose(share.sum((1, 2)), cosine)
    np.testing.assert_allclose(maps * share.max((1, 2), keepdims=True), share, atol=1e-6)


def test_the_norm_of_the_embedding_is_the_similarity_with_itself(resnet):
    network, variables = resnet
    embeddings = network.embed(variables, IMAGES)
    for block in ("block_04", "block_12"):
        np.testing.assert_allclose(
            grad_cam(network, variables, IMAGES, block, embedding_norm),
            grad_cam(network, variables, IMAGES, block, similarity_to(embeddings)),
            atol=1e-5,
        )


def test_one_embedding_serves_all_images(resnet):
    network, variables = resnet
    other = network.embed(variables, IMAGES[:1])[0]
    np.testing.assert_array_equal(
        grad_cam(network, variables, IMAGES, "block_12", similarity_to(other)),
        grad_cam(network, variables, IMAGES, "block_12", similarity_to(jnp.stack([other, other]))),
    )


def test_classes_and_variables_may_be_arguments_of_a_compiled_function(resnet, compilations):
    network, variables = resnet
    compiled = jax.jit(lambda v, x, c: grad_cam(network, v, x, "block_05", logit_of(c)))
    for classes in (jnp.array([0, 1]), jnp.array([4, 2])):
        before = compilations.count
        found = compiled(variables, IMAGES, classes)
        np.testing.assert_allclose(
            found, grad_cam(network, variables, IMAGES, "block_05", logit_of(classes)), atol=1e-5
        )
        second = compilations.count - before
    assert second == 0


def test_maps_of_a_bfloat16_network_are_float32_and_close(resnet):
    network, variables = resnet
    rounded = models.create("resnet26", num_classes=5, width=0.125, dtype=jnp.bfloat16)
    maps = grad_cam(rounded, variables, IMAGES, "block_04", logit_of(0))
    assert maps.dtype == jnp.float32
    exact = grad_cam(network, variables, IMAGES, "block_04", logit_of(0))
    assert np.corrcoef(np.ravel(maps), np.ravel(exact))[0, 1] > 0.95


def test_mistakes_are_refused_with_what_is_possible(resnet):
    network, variables = resnet
    for blocks, named in ((("head",), "head"), (("block_05", "block_13"), "block_13"), ((), "none")):
        with pytest.raises(ValueError, match=rf"out of stem, block_01.* got {named}$"):
            grad_cams(network, variables, IMAGES, blocks)
    for classes in (5, [0, -1]):
        with pytest.raises(ValueError, match=r"from 0 to 4, got \[(5|-1)\]"):
            grad_cam(network, variables, IMAGES, "block_12", logit_of(classes))
    with pytest.raises(ValueError, match=r"\(2, 32\) or \(32,\), got \(2, 16\)"):
        grad_cam(network, variables, IMAGES, "block_12", similarity_to(jnp.zeros((2, 16))))
    with pytest.raises(ValueError, match="one number per image"):
        grad_cam(network, variables, IMAGES, "block_12", lambda n, v, x: x.sum())
    flat = tiny(Flatten(), classes=1)
    with pytest.raises(ValueError, match=r"that of block_01 is \(2, 3\)"):
        grad_cam(flat, head_with(classifier(np.ones((3, 1)))), IMAGES, "block_01")


class Flatten(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return x.mean((1, 2))
