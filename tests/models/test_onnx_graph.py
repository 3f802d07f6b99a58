"""ONNX graphs compute what JAX computes, for any number of images, with about a node per layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_variables

from finetune_jax import models, pruning
from finetune_jax.algorithms import spottune
from finetune_jax.errors import UserError
from finetune_jax.models.compositions.progressive import ProgressiveNetwork
from finetune_jax.models.compositions.routed import RoutedNetwork, policy_for
from finetune_jax.models.onnx_graph import quantize, to_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

KEY = jax.random.key(0)


def run(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"images": images})[0]


def assert_same(function, shape, counts=(1, 2, 5), rtol=1e-4):
    """The graph of the function equals the function for several numbers of random images."""
    model = to_onnx(function, shape)
    images = np.random.default_rng(0).integers(0, 256, (max(counts), *shape)).astype(np.uint8)
    # Compiled once: what it computes for an image does not depend on the others.
    expected = np.asarray(jax.jit(function)(images))
    for count in counts:
        computed = run(model, images[:count])
        assert computed.shape == (count, *expected.shape[1:])
        assert computed.dtype == expected.dtype
        np.testing.assert_allclose(computed, expected[:count], rtol=rtol, atol=rtol * np.abs(expected).max())
    return model


def scaled(images):
    return images.astype(jnp.float32) / 127.5 - 1


@pytest.mark.parametrize(
    ("name", "size"), [("resnet26", 16), ("mobilenet_v2", 32), ("densenet121", 32), ("inception_v3", 80)]
)
def test_a_network_computes_the_same(name, size):
    network = models.create(name, num_classes=3, width=0.25)
    if name == "densenet121":  # a dense block, a transition, and the beginning of the next of four
        network = pruning.truncate(network, len(network.blocks) - 9)
    variables = random_variables(network)
    model = assert_same(lambda images: network.apply(variables, scaled(images), train=False), (size, size, 3))
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert len(model.graph.node) < 4.5 * convolutions


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("vit_small_plus_patch16_dinov3", 1), ("vit_base_patch16_siglip_224", 1), ("mobilenetv3_small_100", 4)],
)
def test_rotations_gates_attention_that_pools_and_squeezes_compute_the_same(name, blocks):
    network = models.create(name, num_classes=3, width=1 / 6, image_size=32)
    network = pruning.truncate(network, len(network.blocks) - blocks)
    variables = random_variables(network)
    assert_same(lambda images: network.apply(variables, scaled(images), train=False), (32, 32, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jax.nn.softmax(scaled(x).mean((1, 2))),
        lambda x: jax.nn.gelu(scaled(x), approximate=False).sum((1, 2, 3)),
        lambda x: jax.nn.gelu(scaled(x)).max((1, 2)),
        lambda x: jax.nn.silu(scaled(x))[:, 1::2, ::-1],
        lambda x: jax.nn.relu6(4 * scaled(x) + 2),
        lambda x: jnp.clip(scaled(x), -0.5, 0.25).transpose(0, 3, 1, 2),
        lambda x: jnp.pad(scaled(x), ((0, 0), (1, 2), (0, 0), (0, 0))).min((2,)),
        lambda x: jnp.where(scaled(x) > 0.5, scaled(x) ** 2, jnp.sqrt(jnp.abs(scaled(x)) + 1)),
        lambda x: (
            scaled(x).reshape(len(x), -1)
            @ np.linspace(-1, 1, 8 * 6 * 3 * 5).reshape(-1, 5).astype(np.float32)
        ),
        lambda x: jnp.einsum("nhwc,nhvc->nhwv", scaled(x), jnp.tanh(scaled(x))),
        lambda x: jnp.concatenate(
            [jnp.broadcast_to(jnp.arange(3.0), (len(x), 1, 3)), scaled(x).reshape(len(x), 48, 3)], 1
        ),
        lambda x: scaled(x).reshape(len(x), 48, 3).argmax(1).astype(jnp.float32),
        lambda x: jnp.split(scaled(x), 3, axis=3)[1] / 3,
        lambda x: jax.lax.rsqrt(scaled(x).var((1, 2, 3)) + 1e-5)[:, None] * jnp.ones((1, 2)),
        lambda x: jax.nn.standardize(scaled(x), axis=-1, epsilon=1e-3),
        lambda x: jax.lax.reduce_window(
            scaled(x), 0.0, jax.lax.add, (1, 2, 3, 1), (1, 2, 1, 1), ((0, 0), (0, 0), (1, 1), (0, 0))
        ),
    ],
)
def test_an_operation_computes_the_same(function):
    assert_same(function, (8, 6, 3))


def test_a_routed_network_takes_the_copies_that_its_policy_decides_for():
    network = models.create("resnet26", num_classes=3, width=0.1)
    policy = policy_for(network, "resnet26_policy", len(network.blocks))
    model = RoutedNetwork(network, policy)
    start = random_variables(network)
    variables = model.start(start, jax.random.key(1), jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32))
    for name in network.block_names:  # copies that differ
        variables["params"][name] = jax.tree.map(lambda w: 1.3 * w, variables["params"][name])
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    decisions = model.decisions(variables, scaled(images))
    assert 0 < float(spottune.usage(decisions).mean()) < 1
    assert_same(lambda images: model.apply(variables, scaled(images)), (16, 16, 3))


def test_a_progressive_network_computes_the_same():
    network = models.create("resnet26", num_classes=3, width=0.1)
    model = ProgressiveNetwork(network)
    variables = model.start(random_variables(network))
    assert_same(lambda images: model.apply(variables, scaled(images)), (16, 16, 3))


def test_scales_and_offsets_of_channels_go_into_the_convolution_before_them():
    kernel = jax.random.normal(KEY, (3, 3, 3, 4))
    scale, offset = jnp.arange(1.0, 5), jnp.arange(4.0)

    def function(images):
        x = jax.lax.conv_general_dilated(
            scaled(images), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (x * scale - offset).sum((1, 2))

    model = assert_same(function, (6, 6, 3))
    after = [node.op_type for node in model.graph.node]
    assert after.count("Conv") == 1
    assert after[after.index("Conv") :] == ["Conv", "ReduceSum", "Identity"]


def test_what_a_convolution_is_read_for_elsewhere_is_not_scaled():
    kernel = jax.random.normal(KEY, (1, 1, 3, 4))

    def function(images):
        x = jax.lax.conv_general_dilated(
            scaled(images), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.concatenate([x, 2 * x], -1)

    assert_same(function, (6, 6, 3))


def test_an_operation_without_a_form_is_named():
    with pytest.raises(UserError, match="sort"):
        to_onnx(lambda images: jnp.sort(scaled(images), 1), (4, 4, 3))


def test_texts_are_kept_in_the_file():
    model = to_onnx(lambda images: scaled(images).sum((1, 2)), (4, 4, 3), metadata={"class_names": '["a"]'})
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("class_names", '["a"]')]


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_smaller_model_takes_the_same_images_and_computes_about_the_same(precision):
    network = models.create("resnet26", num_classes=3, width=0.25)
    variables = random_variables(network)

    def function(images):
        return jax.nn.softmax(network.apply(variables, scaled(images), train=False))

    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3)).astype(np.uint8)
    whole = to_onnx(function, (16, 16, 3), metadata={"class_names": '["a"]'})
    smaller = quantize.float16(whole) if precision == "float16" else quantize.int8(whole, "images", images)
    assert smaller.ByteSize() < 0.6 * whole.ByteSize()
    assert smaller.metadata_props[0].value == '["a"]'
    np.testing.assert_allclose(run(smaller, images), np.asarray(function(images)), atol=0.1)
