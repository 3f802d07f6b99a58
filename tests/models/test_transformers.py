"""Networks of tokens: sizes, positions, stochastic depth, names of states, maps on the grid of patches."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from seeded_state import seeded_state
from weights import random_variables

from finetune_jax import models
from finetune_jax.algorithms.weight_variation import kernel_counts
from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write
from finetune_jax.models import pruning
from finetune_jax.models.grad_cam import grad_cams, logit_of
from finetune_jax.models.layers.positions import resampled
from finetune_jax.models.weights import installed, pretrained, torch_state

NAME = "vit_tiny_patch16_224"
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)


def small(name=NAME, **settings):
    """Two blocks of one head."""
    settings = {"width": 0.34, "image_size": 32, **settings}
    return pruning.truncate(models.create(name, 3, **settings), 10)


@pytest.fixture(scope="module")
def network():
    return small()


@pytest.fixture(scope="module")
def variables(network):
    return random_variables(network)


def state_of(network, names=None):
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), network.shapes())
    state = torch_state.to_torch_state(network, empty, names=names)
    return seeded_state({name: value.shape for name, value in state.items()})


@pytest.mark.parametrize(("old", "new"), [(14, 6), (4, 9), (7, 7), (37, 16)])
def test_positions_are_resampled_as_pillow_resizes_an_image(old, new):
    table = np.random.default_rng(1).normal(size=(1 + old * old, 2)).astype(np.float32)
    found = resampled(table, 1, new)
    np.testing.assert_array_equal(found[0], table[0])
    for channel in range(2):
        image = Image.fromarray(table[1:, channel].reshape(old, old), mode="F")
        expected = np.asarray(image.resize((new, new), Image.Resampling.BICUBIC)).ravel()
        np.testing.assert_allclose(found[1:, channel], expected, atol=2e-6)


def test_positions_that_are_no_square_are_refused():
    with pytest.raises(ValueError, match="11 positions"):
        resampled(np.zeros((12, 2), np.float32), 1, 4)


@pytest.mark.parametrize(
    ("name", "pixels", "near"),
    [(NAME, 100, 96), ("vit_small_patch14_dinov2", 224 + 7, 224), ("vit_small_patch16_dinov3", 7, 16)],
)
def test_a_size_that_the_patch_does_not_divide_is_refused(name, pixels, near):
    with pytest.raises(UserError, match=rf"--image_size={pixels}: the patches of {name} .* {near} is near"):
        models.create(name, image_size=pixels)


def test_the_published_size_of_a_network_is_taken_although_its_patch_does_not_divide_it():
    network = models.create("vit_so400m_patch14_siglip_384")
    assert (network.image_size, network.tokens.side) == (384, 27)


def test_images_of_another_size_are_refused(network, variables):
    with pytest.raises(ValueError, match="made for images of 32 × 32 pixels, not 48 × 48"):
        network.apply(variables, jnp.zeros((1, 48, 48, 3)))


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(UserError, match=r"near are .*vit_small_patch16_224"):
        models.create("vit_small_patch16_244")


def test_a_missing_option_is_refused_by_name():
    with pytest.raises(
        UserError, match=r"--pool=token is not for vit_base_patch16_siglip_224; choose one of mean, map"
    ):
        models.create("vit_base_patch16_siglip_224", pool="token")
    with pytest.raises(UserError, match=r"--drop_path=0\.1 is not for resnet18"):
        models.create("resnet18", drop_path=0.1)
    with pytest.raises(UserError, match=r"--pool=mean is not for convnext_atto"):
        models.create("convnext_atto", pool="mean")


def test_parts_without_statistics_have_empty_trees(network, variables):
    assert variables["batch_stats"] == {name: {} for name in network.part_names}


def test_kernels_of_a_block_are_its_four_matrices(network, variables):
    counts = kernel_counts(variables["params"])
    assert counts.tolist() == [64 * (3 * 64 + 64 + 256 + 256)] * 2


def test_stochastic_depth_leaves_out_branches_example_by_example():
    network = small(drop_path=0.9)  # of two blocks of twelve: rates 0 and 0.9 / 11
    assert network.drop_path_rates[:2] == pytest.approx((0.0, 0.9 / 11))
    blocks = models.create(NAME, 3, width=0.34, image_size=32, drop_path=0.75)
    last = blocks.block_names[-1]
    variables = random_variables(blocks)
    tokens = jnp.asarray(np.random.default_rng(2).normal(size=(64, 5, 64)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 64)
    plain, _ = blocks.run((last,), variables, tokens)
    dropped, _ = blocks.run((last,), variables, tokens, train=True, rngs={"drop_path": keys})
    unchanged = np.array([np.array_equal(a, b) for a, b in zip(dropped, tokens, strict=True)])
    assert 0.3 < unchanged.mean() < 0.85  # both branches left out: 0.75²
    # An example's key alone decides, not its place in the batch.
    moved, _ = blocks.run((last,), variables, tokens[::-1], train=True, rngs={"drop_path": keys[::-1]})
    np.testing.assert_allclose(moved[::-1], dropped, atol=1e-5)
    assert not np.allclose(plain, dropped)
    with pytest.raises(ValueError, match="needs rngs"):
        blocks.run((last,), variables, tokens, train=True)


def test_stochastic_depth_keeps_the_mean():
    network = models.create("convnext_atto", 3, width=0.1, drop_path=0.5)
    name = network.block_names[-1]
    variables = random_variables(network)
    block = variables["params"][name]
    block["layer_scale"]["gamma"] = jnp.ones_like(block["layer_scale"]["gamma"])
    x = jnp.broadcast_to(jnp.linspace(-1, 1, 32), (4000, 1, 1, 32))
    plain, _ = network.run((name,), variables, x)
    dropped, _ = network.run((name,), variables, x, train=True, rngs={"drop_path": jax.random.key(2)})
    branch = plain - x
    share = ((dropped - x) * branch).sum((1, 2, 3)) / jnp.square(branch).sum((1, 2, 3))
    np.testing.assert_allclose(np.unique(np.round(share, 3)), [0, 2], atol=1e-2)
    assert share.mean() == pytest.approx(1, abs=0.1)


def test_states_of_transformers_have_queries_keys_and_values_apart(network):
    timm = state_of(network)
    variables = models.from_torch_state(network, timm)
    names = [names for names in network.other_torch_names if "vit.layers.0" in str(names.blocks)]
    theirs = torch_state.to_torch_state(network, variables, names=names[0])
    np.testing.assert_array_equal(
        theirs["vit.layers.1.attention.k_proj.weight"], timm["blocks.1.attn.qkv.weight"][64:128]
    )
    assert torch_state.fits(network, theirs)
    again = models.from_torch_state(network, {**theirs, "vit.pooler.dense.bias": np.zeros(64)})
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_a_state_without_a_classifier_gets_a_fresh_one(network):
    state = {name: value for name, value in state_of(network).items() if not name.startswith("head.")}
    assert torch_state.fits(network, state)
    head = models.from_torch_state(network, state)["params"]["head"]
    np.testing.assert_array_equal(head["tokens_norm"]["scale"], state["norm.weight"])
    assert head["classifier"]["kernel"].shape == (64, 3)


def test_a_state_of_another_size_is_resampled_and_one_of_another_width_refused(network):
    state = state_of(models.create(NAME, 3, width=0.34, image_size=64))
    whole = models.create(NAME, 3, width=0.34, image_size=32)
    table = models.from_torch_state(whole, state)["params"]["stem"]["positions"]["embedding"]
    np.testing.assert_allclose(table, resampled(state["pos_embed"][0], 1, 2), atol=1e-7)
    with pytest.raises(UserError, match=r"pos_embed \(1, 17, 64\) instead of \(1, 5, 128\)"):
        models.from_torch_state(models.create(NAME, 3, width=0.67, image_size=32), state)


def test_maps_are_of_the_grid_of_patches(network, variables):
    maps = grad_cams(network, variables, IMAGES, ("stem", *network.block_names), logit_of(1))
    assert {name: value.shape for name, value in maps.items()} == dict.fromkeys(
        ("stem", *network.block_names), (4, 2, 2)
    )
    # The class token alone is read from the last block, so its map is of the tokens that it reads.
    np.testing.assert_array_equal(maps["block_02"], maps["block_01"])


def test_a_map_is_the_mean_gradient_of_the_patches():
    network = small(pool="mean")
    variables = random_variables(network)
    tokens, _ = network.run(network.part_names[:-1], variables, IMAGES)
    gradient = jax.grad(lambda x: network.run(("head",), variables, x)[0][:, 1].sum())(tokens)
    weights = np.asarray(gradient)[:, 1:].mean(1)
    expected = np.maximum(np.einsum("bc,bsc->bs", weights, np.asarray(tokens)[:, 1:]), 0).reshape(4, 2, 2)
    expected /= np.maximum(expected.max((1, 2), keepdims=True), 1e-30)
    found = grad_cams(network, variables, IMAGES, ("block_02",), logit_of(1))["block_02"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def write_snapshot(folder: Path, network, config, **files):
    folder.mkdir()
    read_write.write(folder / "model.safetensors", state_of(network))
    for name, values in {"config": config, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def test_a_folder_like_a_snapshot_of_the_hub_says_what_it_was_trained_with(tmp_path):
    network = models.create(NAME, 3, width=0.34, image_size=64)
    origin = {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "input_size": [3, 64, 64],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "license": "dinov3-license",
    }
    folder = write_snapshot(tmp_path / "tag", network, {"architecture": NAME, "pretrained_cfg": origin})
    found = pretrained.resolve(str(folder), width=0.34)
    assert (found.network.image_size, found.image_size, found.mean) == (64, 64, (0.1, 0.2, 0.3))
    assert found.description == f"{folder}: {NAME}, 64 pixels, bicubic, crop of 0.9, licence dinov3-license"
    network, variables = models.load_pretrained(str(folder), 5, width=0.34, image_size=32)
    assert network.apply(variables, IMAGES).shape == (4, 5)


def test_a_folder_of_transformers_brings_its_preprocessor(tmp_path):
    network = models.create(NAME, 3, width=0.34, image_size=64)
    preprocessor = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"height": 64, "width": 64},
        "resample": 2,
    }
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    folder = write_snapshot(tmp_path / "tag", network, config, preprocessor_config=preprocessor)
    found = pretrained.resolve(str(folder), architecture=NAME, width=0.34)
    assert (found.mean, found.image_size) == ((0.5,) * 3, 64)
    assert "bilinear, no licence named" in found.description


def test_timm_is_short_for_its_repositories_on_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr(pretrained.hub, "fetch", lambda name: asked.append(name) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pretrained.resolve("timm:vit_small_patch14_dinov2.lvd142m")
    assert asked == ["timm:vit_small_patch14_dinov2.lvd142m"]
    assert pretrained.hub.repository_name(asked[0]) == "timm/vit_small_patch14_dinov2.lvd142m"


def test_softmax_of_bfloat16_is_in_float32(network):
    half = small(dtype=jnp.bfloat16)
    variables = random_variables(half)
    exact, rounded = network.apply(variables, IMAGES), half.apply(variables, IMAGES)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=0.02)
    program = str(
        jax.make_jaxpr(lambda v: half.run(("block_01",), v, jnp.zeros((1, 5, 64), jnp.bfloat16)))(variables)
    )
    exponentials = [line for line in program.splitlines() if " exp " in line or "= exp" in line]
    assert exponentials
    assert all("f32[" in line for line in exponentials)


def test_a_table_of_positions_that_an_exporter_divided_is_put_together():
    state = {
        "backbone.layernorm.bias": np.zeros(4),
        "decoder.bn1.bias": np.zeros(3),
        "onnx::Concat_1957": np.full((1, 1, 4), 5.0),
        "onnx::Reshape_1962": np.arange(36.0).reshape(1, 9, 4),
    }
    entries = installed.network_entries("dinov2_small_focus", state)
    assert set(entries) == {"layernorm.bias", "embeddings.position_embeddings"}
    assert entries["embeddings.position_embeddings"].shape == (1, 10, 4)
    assert entries["embeddings.position_embeddings"][0, 0].tolist() == [5.0] * 4
    assert installed.architecture("dinov2_small_focus") == "vit_small_patch14_dinov2"
