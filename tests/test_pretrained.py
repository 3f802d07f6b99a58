"""What --pretrained takes."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax import models, weight_files
from finetune_jax.errors import UserError
from finetune_jax.models import pretrained

IMAGES = jnp.zeros((2, 32, 32, 3))


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory):
    network = models.create("resnet18", num_classes=11, width=0.125)
    variables = network.init(jax.random.key(5), jnp.zeros((1, 32, 32, 3)))
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    weight_files.write(path, models.to_torch_state(network, variables))
    return path


def test_the_bundled_network_comes_with_its_head_or_a_fresh_one():
    network, variables = models.load_pretrained("resnet26_cifar10")
    assert network.num_classes == 10
    assert jax.eval_shape(network.apply, variables, IMAGES).shape == (2, 10)
    other, fresh = models.load_pretrained("resnet26_cifar10", num_classes=3)
    assert jax.eval_shape(other.apply, fresh, IMAGES).shape == (2, 3)
    np.testing.assert_array_equal(
        fresh["params"]["stem"]["conv"]["kernel"], variables["params"]["stem"]["conv"]["kernel"]
    )
    np.testing.assert_array_equal(
        fresh["params"]["head"]["norm"]["scale"], variables["params"]["head"]["norm"]["scale"]
    )


def test_the_bundled_weights_stay_small():
    folder = pretrained._BUNDLED
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 3_000_000


def test_the_architecture_of_a_file_is_recognised(resnet18_file):
    network, variables = models.load_pretrained(str(resnet18_file), width=0.125)
    assert (network.architecture, network.num_classes) == ("resnet18", 11)
    assert jax.eval_shape(network.apply, variables, IMAGES).shape == (2, 11)


def test_a_file_of_no_known_network_says_what_to_do(resnet18_file):
    with pytest.raises(UserError, match=r"fits none of the networks resnet18.*--network"):
        models.load_pretrained(str(resnet18_file), width=0.25)


def test_a_file_of_another_network_lists_what_differs(resnet18_file):
    with pytest.raises(UserError, match=r"do not fit network resnet34.*missing: layer1\.2\.bn1\.bias"):
        models.load_pretrained(str(resnet18_file), architecture="resnet34", width=0.125)


def test_an_unknown_name_lists_the_bundled_ones():
    with pytest.raises(UserError, match=r"--pretrained=nonsense .*resnet26_cifar10"):
        models.load_pretrained("nonsense")


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"is no run directory"):
        models.load_pretrained(str(tmp_path))


def test_a_hub_repository_gives_architecture_weights_and_normalisation(monkeypatch, tmp_path, resnet18_file):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}))
    files = {"model.safetensors": str(resnet18_file), "config.json": str(config)}
    asked = []

    def hf_hub_download(repository, name):
        asked.append((repository, name))
        return files[name]

    hub = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    origin = pretrained.resolve("hf:timm/resnet18.a1_in1k", width=0.125)
    assert set(asked) == {("timm/resnet18.a1_in1k", name) for name in files}
    assert origin.network.architecture == "resnet18"
    assert origin.mean == (0.5, 0.5, 0.5)
    assert origin.std == pretrained.IMAGENET_STD


def test_a_hub_that_is_not_installed_says_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"finetune-jax\[hub\]"):
        models.load_pretrained("hf:timm/resnet18")


def test_exported_weights_come_back_to_half_precision(monkeypatch, tmp_path):
    network = models.create("resnet26", num_classes=4, width=0.125)
    variables = network.init(jax.random.key(1), jnp.zeros((1, 16, 16, 3)))
    origin = pretrained.Pretrained(network, variables, (0.1,) * 3, (0.2,) * 3, 16, ("a", "b", "c", "d"))
    pretrained.export(origin, tmp_path / "mine", test_accuracy=0.5)
    monkeypatch.setattr(pretrained, "_BUNDLED", tmp_path)
    again = pretrained.resolve("mine")
    assert (again.network, again.mean, again.image_size) == (network, (0.1,) * 3, 16)
    assert again.class_names == origin.class_names
    for ours, theirs in zip(jax.tree.leaves(again.variables), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs).astype(np.float16))
