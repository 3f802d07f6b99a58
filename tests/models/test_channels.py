"""Weights of three channels on images of others: kernels as timm's, outputs as of grey images in colour."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_variables

from finetune_jax import models
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.models import pruning, registry
from finetune_jax.models.weights import channels
from finetune_jax.runs import start

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "channels.npz")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 13])
def test_a_kernel_is_summed_or_repeated_as_timm_does_it(count):
    """PyTorch's kernels are [D, C, h, w]."""
    adapted = channels.kernel(GOLDEN["kernel"].transpose(2, 3, 1, 0), count)
    np.testing.assert_allclose(
        adapted.transpose(3, 2, 0, 1), GOLDEN[f"channels_{count}"], rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("name", ["resnet26_policy", "vit_tiny_patch16_224"])
def test_grey_images_give_what_they_give_in_colour(name):
    network = models.create(name, num_classes=3, image_size=32 if "vit" in name else None)
    variables = random_variables(network)
    grey_network, grey_variables = channels.adapted(network, variables, 1)
    grey = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    expected = jax.jit(network.apply)(variables, jnp.repeat(grey, 3, axis=3))
    found = jax.jit(grey_network.apply)(grey_variables, grey)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert jax.tree.map(jnp.shape, grey_network.shapes()) == jax.tree.map(jnp.shape, grey_variables)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50v2",
        "mobilenet_v2",
        "densenet121",
        "efficientnet_b0",
        "convnext_tiny",
        "regnety_004",
    ],
)
def test_only_arrays_of_the_stem_depend_on_the_channels(name):
    """What else would is not adapted."""
    networks = {count: registry.create(name, 2, channels=count) for count in (3, 5)}
    if name == "densenet121":  # a dense block, a transition, and the beginning of the next of four
        networks = {count: pruning.truncate(network, 49) for count, network in networks.items()}
    shapes = {count: network.shapes()["params"] for count, network in networks.items()}
    differing = [
        jax.tree_util.keystr(path)
        for (path, three), five in zip(
            jax.tree_util.tree_leaves_with_path(shapes[3]), jax.tree.leaves(shapes[5]), strict=True
        )
        if three.shape != five.shape
    ]
    assert len(differing) == 1
    assert differing[0].startswith("['stem']")


def test_mean_and_deviation_follow_the_channels():
    assert channels.numbers((0.2, 0.4, 0.6), 1) == pytest.approx((0.4,))
    assert channels.numbers((0.2, 0.4, 0.6), 4) == (0.2, 0.4, 0.6, 0.2)


def test_a_run_begins_with_weights_of_its_channels_or_refuses():
    config = FinetuneConfig(channels=1)
    origin = start.load_origin(config)
    assert origin.variables["params"]["stem"]["conv"]["kernel"].shape[2] == origin.network.channels == 1
    assert len(origin.mean) == len(origin.std) == 1
    none = start.load_origin(FinetuneConfig(pretrained="none", channels=5))
    assert none.network.example_shape[3] == len(none.mean) == 5
    with pytest.raises(UserError, match="--channels=14 is out of range"):
        registry.create("resnet18", 2, channels=14)
