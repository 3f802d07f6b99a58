"""PyTorch states: what fits, what does not, and what is said about it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded_state import seeded_state

from finetune_jax import models
from finetune_jax.errors import UserError
from finetune_jax.models.weights import torch_state


@pytest.fixture(scope="module")
def network():
    return models.create("resnet26", num_classes=7, width=0.125)


@pytest.fixture(scope="module")
def state(network):
    variables = network.init(jax.random.key(3), jnp.zeros((1, 16, 16, 3)))
    return models.to_torch_state(network, variables)


def test_convolutions_and_dense_layers_are_transposed(network, state):
    variables = models.from_torch_state(network, state)
    kernel = variables["params"]["block_02"]["conv2"]["kernel"]
    weight = state["blocks.0.1.conv2.1.weight"]
    assert kernel[2, 0, 3, 5] == weight[5, 3, 2, 0]
    np.testing.assert_array_equal(
        variables["params"]["head"]["classifier"]["kernel"], state["linear.weight"].T
    )


def test_missing_surplus_and_misshapen_entries_are_listed_in_one_error(network, state):
    broken = dict(state)
    del broken["conv1.weight"], broken["blocks.1.0.bn1.running_var"]
    broken["extra.bias"] = np.zeros(3)
    broken["blocks.2.3.bn2.weight"] = np.zeros(31)
    with pytest.raises(UserError) as caught:
        models.from_torch_state(network, broken)
    message = str(caught.value)
    assert "missing: blocks.1.0.bn1.running_var, conv1.weight" in message
    assert "surplus: extra.bias" in message
    assert "blocks.2.3.bn2.weight (31,) instead of (32,)" in message


def test_a_state_without_its_classifier_is_refused(network, state):
    headless = {name: value for name, value in state.items() if not name.startswith("linear")}
    with pytest.raises(UserError, match=r"missing: linear\.\w+, linear\.\w+$"):
        models.from_torch_state(network, headless)


def test_a_head_of_another_size_is_left_freshly_initialised(state):
    other = models.create("resnet26", num_classes=3, width=0.125)
    variables = models.from_torch_state(other, state)
    assert variables["params"]["head"]["classifier"]["kernel"].shape == (32, 3)
    fresh = other.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]["head"]["classifier"]
    np.testing.assert_array_equal(variables["params"]["head"]["classifier"]["kernel"], fresh["kernel"])
    np.testing.assert_array_equal(variables["params"]["head"]["norm"]["scale"], state["bn2.0.weight"])


def test_a_head_of_another_width_is_an_error_and_not_another_size(network, state):
    with pytest.raises(UserError, match=r"linear\.weight \(7, 9\) instead of \(7, 32\)"):
        models.from_torch_state(network, {**state, "linear.weight": np.zeros((7, 9))})


def test_both_copies_of_a_spottune_state_can_be_taken(network, state):
    both = dict(state)
    for name, value in state.items():
        if name.startswith("blocks."):
            both[f"parallel_{name}"] = value + 1
    frozen = models.from_torch_state(network, both)
    tuned = models.from_torch_state(network, both, copy="parallel_blocks")
    name = "blocks.0.0.conv1.weight"
    place = ("params", "block_01", "conv1", "kernel")
    for variables, expected in ((frozen, state[name]), (tuned, state[name] + 1)):
        leaf = variables
        for key in place:
            leaf = leaf[key]
        np.testing.assert_array_equal(leaf, expected.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(
        frozen["params"]["stem"]["conv"]["kernel"], tuned["params"]["stem"]["conv"]["kernel"]
    )


def test_the_state_has_every_entry_a_strict_load_in_pytorch_asks_for(state):
    norms = {name.removesuffix(".running_var") for name in state if name.endswith(".running_var")}
    assert {f"{norm}.num_batches_tracked" for norm in norms} <= set(state)


def renamed(state, names):
    """The state with other beginnings of its names."""
    return {
        next(
            (new + name.removeprefix(old) for old, new in names.items() if name.startswith(old + ".")), name
        ): value
        for name, value in state.items()
    }


def narrow_state(name):
    network = models.create(name, num_classes=3, width=0.0625)
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), network.shapes())
    shapes = {key: value.shape for key, value in models.to_torch_state(network, empty).items()}
    return network, seeded_state(shapes)


# As they stand in files of other origin, for a block without and with an expansion, and the ends.
OTHER_NAMES = {
    "efficientnet_lite0": {
        "conv_stem": "_conv_stem",
        "bn1": "_bn0",
        "blocks.0.0.conv_dw": "_blocks.0._depthwise_conv",
        "blocks.0.0.bn1": "_blocks.0._bn1",
        "blocks.0.0.conv_pw": "_blocks.0._project_conv",
        "blocks.0.0.bn2": "_blocks.0._bn2",
        "blocks.6.0.conv_pw": "_blocks.15._expand_conv",
        "blocks.6.0.bn1": "_blocks.15._bn0",
        "blocks.6.0.conv_dw": "_blocks.15._depthwise_conv",
        "blocks.6.0.bn2": "_blocks.15._bn1",
        "blocks.6.0.conv_pwl": "_blocks.15._project_conv",
        "blocks.6.0.bn3": "_blocks.15._bn2",
        "conv_head": "_conv_head",
        "bn2": "_bn1",
        "classifier": "_fc",
    },
    "mobilenet_v2": {
        "features.0.0": "conv_stem",
        "features.1.conv.1": "blocks.0.0.conv_pw",
        "features.1.conv.2": "blocks.0.0.bn2",
        "features.17.conv.0.1": "blocks.6.0.bn1",
        "features.17.conv.1.0": "blocks.6.0.conv_dw",
        "features.17.conv.3": "blocks.6.0.bn3",
        "features.18.1": "bn2",
        "classifier.1": "classifier",
    },
    "densenet121": {
        "features.denseblock4.denselayer16.norm2": "features.denseblock4.denselayer16.norm.2",
        "features.denseblock4.denselayer16.conv1": "features.denseblock4.denselayer16.conv.1",
    },
}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_other_names_of_the_same_layers_are_understood(name):
    network, state = narrow_state(name)
    first, other = network.torch_names, network.other_torch_names[0]
    parts = zip((first.stem, *first.blocks, first.head), (other.stem, *other.blocks, other.head), strict=True)
    names = {old[layer]: new[layer] for old, new in parts for layer in old}
    assert OTHER_NAMES[name].items() <= names.items()
    foreign = renamed(state, names)
    assert torch_state.fits(network, foreign)
    assert torch_state.num_classes(network, foreign) == 3
    expected = models.from_torch_state(network, state)
    jax.tree.map(np.testing.assert_array_equal, models.from_torch_state(network, foreign), expected)


def test_a_classifier_that_is_a_convolution_there_is_dense_here():
    network, state = narrow_state("resnet50v2")
    weight = state["head.fc.weight"]
    assert weight.shape == (3, 128, 1, 1)
    variables = models.from_torch_state(network, state)
    np.testing.assert_array_equal(variables["params"]["head"]["classifier"]["kernel"], weight[:, :, 0, 0].T)
    np.testing.assert_array_equal(models.to_torch_state(network, variables)["head.fc.weight"], weight)
    larger = network.with_num_classes(8)
    fresh = models.from_torch_state(larger, state)["params"]["head"]["classifier"]["kernel"]
    assert fresh.shape == (128, 8)


def test_an_auxiliary_classifier_is_left_out():
    network, state = narrow_state("inception_v3")
    with_auxiliary = {
        **state,
        "AuxLogits.conv0.conv.weight": np.zeros((8, 48, 1, 1)),
        "AuxLogits.fc.bias": np.zeros(3),
    }
    assert torch_state.fits(network, with_auxiliary)
    expected = models.from_torch_state(network, state)
    jax.tree.map(np.testing.assert_array_equal, models.from_torch_state(network, with_auxiliary), expected)
