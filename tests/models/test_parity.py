"""Networks against numbers computed with PyTorch (see tests/golden/make_network_goldens.py).

``python tests/test_parity.py`` prints the errors of all networks, as docs/networks.md shows them.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded_state import fingerprint, fingerprint_scale, seeded_images, seeded_state

from finetune_jax import models
from finetune_jax.algorithms.losses import cross_entropy

GOLDEN = Path(__file__).parents[1] / "golden" / "networks"
TOLERANCE = 1e-4
# Trained in float64: with batch norm over few values and ReLU6, PyTorch's own float32 gradients of these are off by a
# percent and more, since rounding moves some value across a kink.
PRECISE = {
    "mobilenet",
    "mobilenet_v2",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "densenet121",
    "inception_v3",
    "resnet50v2",
    "resnet101v2",
    "resnet26d",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "regnety_002",
}
PRECISE_TOLERANCE = 1e-6  # gradients are rounded to float32 before they are compared
# The gradients of resnet101 and resnet152, made of resnet50's blocks, would compile for a minute or two.
TRAINED = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet26",
    "resnet26_policy",
    "resnet50_policy",
    # Without running statistics, so that evaluation is all there is; of each kind of layer one.
    "vit_tiny_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch32_siglip_256",
    "convnext_atto",
    "convnextv2_atto",
]


class Case:
    """One golden file, and the same network and variables here."""

    def __init__(self, name, dtype=jnp.float32):
        self.golden = dict(np.load(GOLDEN / f"{name}.npz"))
        shapes = {
            str(entry): tuple(int(size) for size in row if size)
            for entry, row in zip(self.golden["state_names"], self.golden["state_shapes"], strict=True)
        }
        state = seeded_state(shapes, int(self.golden["state_seed"]))
        self.network = models.create(
            name,
            num_classes=self.golden["eval_logits"].shape[1],
            dtype=dtype,
            image_size=int(self.golden["image_args"][1]),
        )
        variables = models.from_torch_state(self.network, state)
        self.variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
        self.images = jnp.asarray(seeded_images(*map(int, self.golden["image_args"])), dtype)

    def evaluation_errors(self):
        """Largest error of logits and embedding, relative to the largest reference value."""
        logits = self.network.apply(self.variables, self.images)
        embedding = self.network.embed(self.variables, self.images)
        return {
            "eval_logits": self._error("eval_logits", logits),
            "eval_embedding": self._error("eval_embedding", embedding),
        }

    def training_errors(self, modes=("eval", "train")):
        """The same of losses and logits; of gradients and statistics, the worst parameter's, relative to its norm."""
        errors = {}
        for mode in modes if "train_loss" in self.golden else ("eval",):
            train = mode == "train"
            # Not as one program: parts are compiled by themselves, those that are equal once.
            loss = jax.value_and_grad(lambda params, train=train: self._loss(params, train), has_aux=True)
            (value, (logits, embedding, batch_stats)), gradients = loss(self.variables["params"])
            errors[f"{mode}_loss"] = self._error(f"{mode}_loss", value)
            errors[f"{mode}_logits"] = self._error(f"{mode}_logits", logits)
            variables = {"params": gradients, "batch_stats": batch_stats}
            errors[f"{mode}_grads"] = self._worst(f"{mode}_grads", "param_names", variables)
            if embedding is not None:
                errors["eval_embedding"] = self._error("eval_embedding", embedding)
            if train:
                errors["train_stats"] = self._worst("train_stats", "stat_names", variables)
        return errors

    def _loss(self, params, train):
        variables = {**self.variables, "params": params}
        output = self.network.apply(variables, self.images, train=train)
        logits, batch_stats = output if train else (output, self.variables["batch_stats"])
        labels = jnp.asarray(self.golden["labels"], jnp.int32)
        embedding = None if train else self.network.embed(variables, self.images)
        return cross_entropy(logits, labels).mean(), (logits, embedding, batch_stats)

    def _error(self, key, value):
        reference = self.golden[key]
        return float(np.abs(np.asarray(value, np.float64) - reference).max() / np.abs(reference).max())

    def _worst(self, key, names_key, variables):
        state = models.to_torch_state(self.network, variables)
        seed = int(self.golden["direction_seed"])
        ours = np.array([fingerprint(name, state[name], seed) for name in map(str, self.golden[names_key])])
        return float((np.abs(ours - self.golden[key]) / fingerprint_scale(self.golden[key])).max())


def assert_small(errors, tolerance=TOLERANCE):
    assert {key: error for key, error in errors.items() if not error <= tolerance} == {}


@pytest.mark.parametrize("name", TRAINED)
def test_losses_logits_gradients_and_statistics_agree_with_pytorch(name):
    assert_small(Case(name).training_errors())


@pytest.mark.parametrize("name", ["resnet26d", "efficientnet_b0", "mobilenetv3_small_100", "regnety_002"])
def test_with_running_statistics_loss_logits_and_gradients_agree_with_pytorch(name):
    # Batch statistics are those of layers that all networks share.
    assert_small(Case(name).training_errors(("eval",)))


@pytest.mark.parametrize("name", ["mobilenet_v2"])  # each compiles for half a minute; __main__ does them all
def test_in_float64_losses_logits_gradients_and_statistics_are_those_of_pytorch(name):
    with jax.enable_x64(True):
        assert_small(Case(name, jnp.float64).training_errors(), PRECISE_TOLERANCE)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet26",
        "resnet101",
        "resnet152",
        "mobilenet",
        "mobilenet_v2",
        "efficientnet_lite0",
        "efficientnet_lite2",
        "densenet121",
        "inception_v3",
        "resnet50v2",
        "deit3_small_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_base_patch16_siglip_gap_224",
    ],
)
def test_logits_and_embeddings_agree_with_pytorch(name):
    assert_small(Case(name).evaluation_errors())


@pytest.mark.parametrize("name", ["resnet18", "resnet26", "convnextv2_atto"])
def test_torch_state_survives_the_way_there_and_back(name):
    case = Case(name)
    state = models.to_torch_state(case.network, case.variables)
    again = models.from_torch_state(case.network, state)
    assert jax.tree.structure(again) == jax.tree.structure(case.variables)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(case.variables), strict=True)
    )
    names = {name for name in state if not name.endswith("num_batches_tracked")}
    assert names == {str(name) for name in case.golden["state_names"]}


if __name__ == "__main__":
    for file in sorted(GOLDEN.glob("*.npz")):
        precise = file.stem in PRECISE
        evaluation = Case(file.stem).evaluation_errors()
        with jax.enable_x64(precise):
            training = Case(file.stem, jnp.float64 if precise else jnp.float32).training_errors()
        found = training | evaluation
        print(file.stem, "  ".join(f"{key} {error:.1e}" for key, error in found.items()), flush=True)
