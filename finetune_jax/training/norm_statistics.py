"""Running statistics of batch norms, estimated anew for weights that no training has seen.

Weights that were averaged or interpolated have other activations than any network they come from. Izmailov et al.,
"Averaging Weights Leads to Wider Optima and Better Generalization" (UAI 2018), section 3.2: one pass over training
images without a gradient.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import averaging
from finetune_jax.data.batch import Batch
from finetune_jax.data.feeds import Feed
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.models import registry
from finetune_jax.models.network import Network, Variables
from finetune_jax.training.objectives import Forward
from finetune_jax.training.state import TrainState
from finetune_jax.training.step import Prepared

Estimate = Callable[[Variables], Variables]
"""Variables on the host or the devices to those with statistics of their own."""


def compile_estimate(
    network: Network,
    normalize: Callable[[jax.Array], jax.Array],
    feed: Feed,
    count: int,
    replicas: Replicas,
    *,
    batch_size: int = 64,
) -> Estimate:
    """The mean of the statistics of batches, as ``torch.optim.swa_utils.update_bn`` has it.

    Args:
        network: of the variables.
        normalize: uint8 images to the network's input.
        feed: of training images.
        count: how many there are; those that fill no batch are left out.
        replicas: where.
        batch_size: images per batch over all devices, fewer where there are fewer.
    """
    # Without memory a norm keeps the statistics of the last batch.
    forgetful = registry.with_norm_momentum(network, 0.0)
    size = max(min(batch_size, count) // replicas.count, 1) * replicas.count
    order = np.arange(count // size * size, dtype=np.int32).reshape(-1, size)

    def of_batch(variables: Variables, images: jax.Array) -> Any:
        rngs = {"dropout": jax.random.key(0)}
        _, statistics = forgetful.apply(variables, normalize(images), train=network.part_names, rngs=rngs)
        return jax.lax.pmean(statistics, AXIS)

    mapped = replicas.map(of_batch, (None, 0))
    add = replicas.map_replicated(lambda total, new: jax.tree.map(jnp.add, total, new))

    def estimate(variables: Variables) -> Variables:
        if not jax.tree.leaves(variables["batch_stats"]) or not len(order):
            return variables
        placed = replicas.replicate(variables)
        total = None
        for images in feed.batches(order):
            statistics = mapped(placed, images)
            total = statistics if total is None else add(total, statistics)
        mean: Mapping[str, Any] = jax.tree.map(
            lambda leaf: np.asarray(leaf) / len(order), jax.device_get(total)
        )
        return {**variables, "batch_stats": {**variables["batch_stats"], **mean}}

    return estimate


def compile_averages_estimate(
    forward: Forward, prepare: Callable[[Batch, jax.Array], Prepared], feed: Feed, replicas: Replicas
) -> Callable[[TrainState, np.ndarray], TrainState]:
    """``(state, order [steps, B]) → state`` whose averaged weights have statistics of their own.

    The images are those of training, augmented, as ``torch.optim.swa_utils.update_bn`` gets them.

    Args:
        forward: of the method, with norms that keep the statistics of one batch alone (momentum 0).
        prepare: of the objective.
        feed: of training images.
        replicas: where.
    """

    def of_batch(state: TrainState, batch: Batch) -> TrainState:
        assert state.averages is not None
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        prepared = prepare(batch, key)
        statistics = state.averages["batch_stats"]
        prediction = forward(
            state.averages["params"], state.frozen, statistics, prepared.images, prepared.keys
        )
        current = {**statistics, **jax.lax.pmean(prediction.batch_stats, AXIS)}
        mean = averaging.mean_update(state.batch_stats, current, state.step)
        return state.replace(step=state.step + 1, batch_stats=mean)

    over_batches = feed.compile_training(of_batch)

    def estimate(state: TrainState, order: np.ndarray) -> TrainState:
        assert state.averages is not None
        # Copied: steps use up what they are given.
        copied = replicas.replicate(
            TrainState(
                step=jnp.zeros((), jnp.int32),
                key=state.key,
                params={},
                frozen=state.frozen,
                batch_stats=state.averages["batch_stats"],
                opt_state={},
                totals={},
                averages=state.averages,
            )
        )
        for current, _ in over_batches(copied, order):
            latest = current
        statistics = replicas.replicate(latest.batch_stats)
        return state.replace(averages={**state.averages, "batch_stats": statistics})

    return estimate
