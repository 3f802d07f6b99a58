"""Networks against numbers computed with PyTorch (see tests/golden/make_network_goldens.py)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded_state import fingerprint, seeded_images, seeded_state

from finetune_jax import models
from finetune_jax.losses import cross_entropy

GOLDEN = Path(__file__).parent / "golden" / "networks"
TOLERANCE = 1e-4
# The gradients of the deepest two, made of the same blocks, would compile for minutes.
TRAINED = ["resnet18", "resnet34", "resnet50", "resnet26", "resnet26_policy", "resnet50_policy"]


class Case:
    """One golden file, and the same network and variables here."""

    def __init__(self, name: str) -> None:
        self.golden = dict(np.load(GOLDEN / f"{name}.npz"))
        shapes = {
            str(entry): tuple(int(size) for size in row if size)
            for entry, row in zip(self.golden["state_names"], self.golden["state_shapes"], strict=True)
        }
        state = seeded_state(shapes, int(self.golden["state_seed"]))
        self.network = models.create(name, num_classes=self.golden["eval_logits"].shape[1])
        self.variables = models.from_torch_state(self.network, state)
        self.images = jnp.asarray(seeded_images(*map(int, self.golden["image_args"])))

    def loss(self, params, train):
        variables = {**self.variables, "params": params}
        output = self.network.apply(variables, self.images, train=train)
        logits, batch_stats = output if train else (output, self.variables["batch_stats"])
        labels = jnp.asarray(self.golden["labels"], jnp.int32)
        return cross_entropy(logits, labels).mean(), (logits, batch_stats)

    def assert_close(self, key, value):
        reference = self.golden[key]
        error = np.abs(np.asarray(value, np.float64) - reference).max() / np.abs(reference).max()
        assert error <= TOLERANCE, f"{key}: relative error {error:.2e}"

    def assert_fingerprints(self, key, names_key, variables):
        state = models.to_torch_state(self.network, variables)
        seed = int(self.golden["direction_seed"])
        names = [str(name) for name in self.golden[names_key]]
        ours = np.array([fingerprint(name, state[name], seed) for name in names])
        errors = (np.abs(ours - self.golden[key]) / self.golden[key][:, :1]).max(1)
        worst = int(errors.argmax())
        assert errors[worst] <= TOLERANCE, f"{key}: {names[worst]} relative error {errors[worst]:.2e}"


@pytest.mark.parametrize("name", TRAINED)
def test_logits_loss_gradients_and_statistics_agree_with_pytorch(name):
    case = Case(name)
    for mode, train in (("eval", False), ("train", True)):
        step = jax.jit(jax.value_and_grad(lambda params, train=train: case.loss(params, train), has_aux=True))
        (loss, (logits, batch_stats)), gradients = step(case.variables["params"])
        case.assert_close(f"{mode}_loss", loss)
        case.assert_close(f"{mode}_logits", logits)
        variables = {"params": gradients, "batch_stats": batch_stats}
        case.assert_fingerprints(f"{mode}_grads", "param_names", variables)
        if train:
            case.assert_fingerprints("train_stats", "stat_names", variables)
    embedding = jax.jit(case.network.embed)(case.variables, case.images)
    case.assert_close("eval_embedding", embedding)


@pytest.mark.parametrize("name", ["resnet101", "resnet152"])
def test_deepest_networks_agree_with_pytorch_in_evaluation(name):
    case = Case(name)
    case.assert_close("eval_logits", jax.jit(case.network.apply)(case.variables, case.images))


@pytest.mark.parametrize("name", ["resnet18", "resnet26"])
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
