"""Layer decay against the groups of timm's own (tests/golden/make_layer_decay.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from finetune_jax import models
from finetune_jax.algorithms import optimizers
from finetune_jax.algorithms.optimizer_rules import slowed
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.models.network import Network
from finetune_jax.training import rates

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "layer_decay.json").read_text())
DECAY = 0.75


def factors_of(network: Network, **settings: object) -> dict[str, np.ndarray]:
    """``{entry of a PyTorch state: what its parameters move by}`` where all gradients are one."""
    config = FinetuneConfig(
        **{"learning_rate": 1.0, "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0} | settings
    )
    shapes = network.shapes()
    params = jax.tree.map(lambda _: jnp.ones(()), shapes["params"])
    optimizer = rates.optimizer(config, network.part_names, None, network.with_part_below)
    peaks = rates.fixed(config, network.part_names, None, network.with_part_below).rates({}, 0)
    state = optimizers.set_learning_rates(optimizer.init(params), peaks)
    updates, _ = optimizer.update(params, state, params)
    moved = jax.tree.map(
        lambda leaf, update: np.full(leaf.shape, -float(update)), shapes["params"], dict(updates)
    )
    statistics = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes["batch_stats"])
    entries = models.to_torch_state(network, {"params": moved, "batch_stats": statistics})
    return {name: entry for name, entry in entries.items() if "running" not in name and "num_b" not in name}


def small(name: str) -> Network:
    patch = next((int(part[5:]) for part in name.split("_") if part.startswith("patch")), None)
    return models.create(name, 3, width=0.02, image_size=patch and 2 * patch)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_parameter_moves_by_the_factor_of_its_group_in_timm(name: str) -> None:
    factors = factors_of(small(name), layer_decay=DECAY)
    groups = [int(number) for number in GOLDEN[name].split()]
    assert len(factors) == len(groups)
    for (entry, factor), group in zip(sorted(factors.items()), groups, strict=True):
        np.testing.assert_allclose(factor, DECAY ** (max(groups) - group), rtol=1e-5, err_msg=entry)


def test_layers_of_a_slowed_optimiser_end_where_one_of_their_own_rate_would_bring_them() -> None:
    # Schedule-free, whose updates are no multiples of its rate, is evaluated at other weights than it steps at.
    slow = optimizers.create("schedule_free_adamw", weight_decay=0.1)
    params = {"head": {"tokens_norm": jnp.ones(3), "classifier": jnp.ones(2)}}
    both = optimizers.per_block(params, {"head": 0.1}, {"head": slowed(slow, ("tokens_norm",), 0.5)})
    norm, classifier = ({"head": {name: params["head"][name]}} for name in params["head"])
    alone = {"tokens_norm": (norm, 0.05), "classifier": (classifier, 0.1)}

    def ends(tx: optax.GradientTransformation, params: dict) -> dict:
        state = tx.init(params)
        for factor in (1.0, -0.5, 0.25):
            gradients = jax.tree.map(lambda leaf, f=factor: f * leaf + 0.1, params)
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        return {**optimizers.evaluation_params(state, params)["head"]}

    found = ends(both, params)
    for name, (own, rate) in alone.items():
        expected = ends(optimizers.per_block(own, {"head": rate}, {"head": slow}), own)
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


def test_one_estimate_of_the_step_size_is_shared_by_slowed_layers() -> None:
    params = {"head": {"tokens_norm": jnp.ones(3), "classifier": jnp.ones(3)}}
    rule = slowed(optimizers.create("prodigy"), ("tokens_norm",), 0.5, one_estimate=True)
    tx = optimizers.one_for_all(params, {"head": 1.0}, rule)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["head"]["tokens_norm"], 0.5 * updates["head"]["classifier"], rtol=1e-6)
