"""LoRA, norms and biases: what is trained, and the plain network that it makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_variables

from finetune_jax import models
from finetune_jax.errors import UserError
from finetune_jax.models.compositions.adapted import BIASES, LORA, NORMS, AdaptedNetwork, from_json

KEY = jax.random.key(0)
NETWORKS = {
    "resnet26": lambda: models.create("resnet26", 3, width=0.25),
    "vit": lambda: models.create("vit_tiny_patch16_224", 3, image_size=32),
}


@pytest.fixture(scope="module", params=NETWORKS)
def pretrained(request):
    network = NETWORKS[request.param]()
    variables = random_variables(network)
    moved = jax.tree.map(
        lambda w: w + 0.01 * jnp.arange(w.size).reshape(w.shape) / w.size, variables["params"]
    )
    return network, {**variables, "params": moved}


def leaves(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("adapts", [LORA, NORMS, BIASES])
def test_before_training_the_merged_network_is_the_pretrained_one(pretrained, adapts):
    network, variables = pretrained
    model = AdaptedNetwork(network, adapts, rank=2)
    start = model.start(variables, jax.random.key(1))
    merged = model.merged(start)
    expected, computed = leaves(variables["params"]), leaves(merged["params"])
    assert expected.keys() == computed.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(computed[name], value, err_msg=name)
    assert jax.tree.structure(start) == jax.tree.structure(model.shapes())
    assert set(start["params"]) == set(model.part_names) == set(start["batch_stats"])
    images = jax.random.normal(jax.random.key(2), (2, 32, 32, 3))
    np.testing.assert_allclose(model.apply(start, images), network.apply(variables, images), rtol=1e-6)


def test_an_adapter_adds_its_product_times_alpha_over_rank():
    network = NETWORKS["resnet26"]()
    variables = random_variables(network)
    model = AdaptedNetwork(network, LORA, rank=2, alpha=3.0)
    start = model.start(variables, jax.random.key(1))
    adapter = start["params"]["block_05"]["conv1"]["kernel"]
    adapter["up"] = jax.random.normal(KEY, adapter["up"].shape)
    merged = model.merged(start)["params"]["block_05"]["conv1"]["kernel"]
    down, up = np.asarray(adapter["down"], np.float64), np.asarray(adapter["up"], np.float64)
    before = np.asarray(variables["params"]["block_05"]["conv1"]["kernel"], np.float64)
    by_hand = before + 3.0 / 2 * np.einsum("hwir,ro->hwio", down, up)
    np.testing.assert_allclose(merged, by_hand, rtol=1e-5, atol=1e-6)
    # A convolution to r channels, then a 1 × 1 convolution, beside the pretrained one.
    images = jax.random.normal(KEY, (1, 8, 8, before.shape[2]))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    beside = convolve(convolve(images, adapter["down"]), adapter["up"][None, None])
    np.testing.assert_allclose(
        convolve(images, merged),
        convolve(images, before.astype(np.float32)) + 1.5 * beside,
        rtol=1e-3,
        atol=1e-4,
    )


def test_lora_trains_few_numbers_and_only_of_its_targets():
    network = NETWORKS["vit"]()
    variables = random_variables(network)
    model = AdaptedNetwork(network, LORA, rank=4, targets=("qkv", "proj"))
    start = model.start(variables, KEY)
    assert model.trained_parts == (*network.block_names, "head")
    block = start["params"]["block_01"]
    assert set(block) == {"qkv", "proj"}
    whole = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["block_01"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(block)) < 0.05 * whole


@pytest.mark.parametrize(("adapts", "leaf_names"), [(NORMS, {"scale", "bias"}), (BIASES, {"bias"})])
def test_norms_and_biases_are_all_that_these_methods_train(pretrained, adapts, leaf_names):
    network, variables = pretrained
    model = AdaptedNetwork(network, adapts)
    start = model.start(variables, KEY)
    trained = [name for part in model.adapted for name in leaves(start["params"][part])]
    assert {name.rsplit("'", 2)[1] for name in trained} <= leaf_names
    if adapts == NORMS:
        assert not any("mlp" in name or "qkv" in name for name in trained)


def test_what_cannot_be_adapted_is_refused():
    network = NETWORKS["resnet26"]()
    variables = random_variables(network)
    with pytest.raises(
        UserError, match="--lora_rank=1000 is larger than the matrix of conv1, 8 × 16; give at most 8"
    ):
        AdaptedNetwork(network, LORA, rank=1000).start(variables, KEY)
    with pytest.raises(UserError, match="--lora_targets=attention: resnet26 has nothing below its head"):
        AdaptedNetwork(network, LORA, rank=2, targets=("attention",)).start(variables, KEY)


def test_a_card_brings_the_composition_back():
    network = NETWORKS["resnet26"]()
    model = AdaptedNetwork(network, LORA, rank=2, alpha=4.0, targets=("conv1",))
    assert from_json(model.to_json(), network) == model
