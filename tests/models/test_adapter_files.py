"""Adapters against peft on a timm network (tests/golden/make_adapter_goldens.py), and their files."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded_state import seeded_images, seeded_state

from finetune_jax import models, pruning
from finetune_jax.algorithms.losses import cross_entropy
from finetune_jax.errors import UserError
from finetune_jax.files import weight_files
from finetune_jax.models.compositions.adapted import LORA, AdaptedNetwork
from finetune_jax.models.weights import adapter_files

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDER = GOLDEN / "adapter"
LABELS = jnp.array([3, 7])
ROOT = "base_model.model."
TIMM_LAYERS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


@pytest.fixture(scope="module")
def small():
    """The network of the golden numbers, and its variables."""
    network = pruning.truncate(models.create("vit_tiny_patch16_224", 10, width=1 / 3, image_size=32), 10)
    shapes = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), network.shapes())
    state = seeded_state({k: v.shape for k, v in models.to_torch_state(network, shapes).items()})
    return network, models.from_torch_state(network, state)


@pytest.fixture(scope="module")
def adapted(small):
    """The same network with peft's adapters beside its kernels, laid out by hand."""
    network, variables = small
    model = AdaptedNetwork(network, LORA, rank=2, alpha=6.0)
    start = model.start(variables, jax.random.key(0))
    state = weight_files.read(FOLDER / "adapter_model.safetensors")
    params = dict(start["params"])
    for number, block in enumerate(network.block_names):
        entries = {layer: f"{ROOT}blocks.{number}.{name}.lora_" for layer, name in TIMM_LAYERS.items()}
        params[block] = {
            layer: {"kernel": {"down": state[f"{entry}A.weight"].T, "up": state[f"{entry}B.weight"].T}}
            for layer, entry in entries.items()
        }
    params["head"] = {
        "tokens_norm": {"scale": state[f"{ROOT}norm.weight"], "bias": state[f"{ROOT}norm.bias"]},
        "classifier": {"kernel": state[f"{ROOT}head.weight"].T, "bias": state[f"{ROOT}head.bias"]},
    }
    return model, {**start, "params": jax.tree.map(jnp.asarray, params)}


def test_logits_and_gradients_of_adapters_are_those_of_peft(adapted):
    model, variables = adapted
    golden = dict(np.load(GOLDEN / "adapter.npz"))
    images = jnp.asarray(seeded_images(2, 32))

    def loss(trained):
        logits = model.apply({**variables, "params": {**variables["params"], **trained}}, images)
        return cross_entropy(logits, LABELS).mean(), logits

    trained = {name: variables["params"][name] for name in model.trained_parts}
    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(trained)
    np.testing.assert_allclose(logits, golden.pop("logits"), atol=2e-5)
    found = adapter_files.adapter_state(model, gradients)
    assert found.keys() == golden.keys()
    for name, expected in golden.items():
        error = np.abs(found[name] - expected).max() / np.abs(expected).max()
        assert error < 1e-4, name


def test_adapters_of_peft_are_added_to_the_kernels(small, adapted):
    network, variables = small
    model, expected = adapted
    merged = models.add_adapter(network, variables, FOLDER)
    jax.tree.map(
        lambda found, by_hand: np.testing.assert_allclose(found, by_hand, atol=1e-6),
        merged["params"],
        model.merged(expected)["params"],
    )


def test_written_adapters_are_those_that_peft_wrote(adapted, tmp_path):
    model, variables = adapted
    adapter_files.write(tmp_path / "adapter", model, variables)
    found, expected = (
        weight_files.read(f / "adapter_model.safetensors") for f in (tmp_path / "adapter", FOLDER)
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 6.0)
    assert set(config["modules_to_save"]) == {"norm", "head"}
    assert len(config["target_modules"]) == 8
    assert "blocks.1.mlp.fc2" in config["target_modules"]


def test_adapters_of_convolutions_come_back(tmp_path):
    network = models.create("resnet26", 3, width=0.25)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    model = AdaptedNetwork(network, LORA, rank=2, alpha=3.0)
    start = model.start(variables, jax.random.key(1))
    start = {**start, "params": jax.tree.map(lambda leaf: leaf + 0.1, start["params"])}
    start["params"] |= {
        name: tree
        for name, tree in model.start(variables, jax.random.key(1))["params"].items()
        if "frozen" in name or name == "stem"
    }
    adapter_files.write(tmp_path, model, start)
    added = models.add_adapter(network, variables, tmp_path)
    jax.tree.map(
        lambda found, merged: np.testing.assert_allclose(found, merged, atol=1e-6),
        added["params"],
        model.merged(start)["params"],
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"use_dora": True}, "sets use_dora"),
        ({"peft_type": "IA3"}, "is not of LoRA"),
        ({"r": 0}, "with a rank and an alpha above 0"),
    ],
)
def test_adapters_of_another_kind_are_refused(small, tmp_path, change, says):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=says):
        models.add_adapter(*small, tmp_path)


def test_adapters_of_another_network_are_refused(small, tmp_path):
    network, variables = small
    with pytest.raises(UserError, match=r"adapter_config\.json cannot be read"):
        models.add_adapter(network, variables, tmp_path)
    shallow = pruning.truncate(network, 1)
    with pytest.raises(UserError, match="is of no layer of vit_tiny_patch16_224"):
        models.add_adapter(shallow, pruning.truncate_variables(variables, 1), FOLDER)
    other = network.with_num_classes(4)
    head = other.init_head(jax.random.key(0))
    with pytest.raises(UserError, match="create the network with its number of classes"):
        models.add_adapter(other, {**variables, "params": {**variables["params"], "head": head}}, FOLDER)
