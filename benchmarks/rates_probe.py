"""Heads of a linear probe for the starts of :mod:`benchmarks.rates`.

A probe is logistic regression on features of the training images that rehearsals do not leave out. The features are
those of evaluation, or those that training sees: augmented images, normalised with the statistics of their batch.
They are what the classifier takes, behind the norm that some heads have. (``probe_auto`` took those before that norm,
by mistake.)
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.rates_start import Started
from finetune_jax.algorithms import linear_probe
from finetune_jax.data.batch import Batch
from finetune_jax.runs.probe_start import showing_features
from finetune_jax.training import evaluation
from finetune_jax.training.objectives import random_streams
from finetune_jax.training.rehearsal import Rehearsals

_SHARE_OF_USE, _SHARE_OF_SEEN = 0.16, 0.32  # of the steps of the run
Head = tuple[np.ndarray, np.ndarray]


class Probe(NamedTuple):
    """A linear classifier, and where it belongs.

    Attributes:
        begun: rehearsals from a start with it as head.
        loss: mean of the held-out images at that start.
        penalty: that was chosen.
        head: kernel and bias of the classifier.
    """

    begun: Rehearsals
    loss: float
    penalty: float
    head: Head


def used_to(started: Started) -> Rehearsals:
    """Rehearsals from a start whose batch norms have seen some batches; no weight has moved.

    Counted as images that only went forward, although the step of the run takes their gradients too.
    """
    search = started.rehearsals
    still = dict.fromkeys(started.program.trained, 0.0)
    before = search.cost.images_trained
    after = search.after(still, max(8, int(_SHARE_OF_USE * search.steps_of_run)))
    search.cost.images_judged += search.cost.images_trained - before
    search.cost.images_trained = before
    state = after.state.replace(opt_state=search.state.opt_state, step=search.state.step)
    return dataclasses.replace(after, state=jax.device_get(state))


def in_evaluation(started: Started, begun: Rehearsals, *, in_proportion: bool) -> Probe:
    """A probe of the features of evaluation; counts the training images.

    Args:
        started: whose images.
        begun: whose state.
        in_proportion: see :func:`linear_probe.logistic`.
    """
    features = _features(started, begun)
    labels, held = started.program.images.splits["train"].labels, begun.held_out
    started.rehearsals.cost.images_judged += len(labels)
    others = np.delete(np.arange(len(labels)), held)
    loss, penalty, head = linear_probe.chosen(
        features[others],
        labels[others],
        len(started.program.images.class_names),
        features[held],
        labels[held],
        in_proportion=in_proportion,
    )
    return Probe(with_head(begun, head), loss, penalty, head)


def in_training(started: Started, *, in_proportion: bool = True) -> Probe:
    """A probe of the features that training sees, in the order of the run; counts these images.

    Its start has the running statistics that the batches leave.

    Args:
        started: whose images.
        in_proportion: see :func:`linear_probe.logistic`.
    """
    search, program = started.rehearsals, started.program
    steps = max(8, math.ceil(_SHARE_OF_SEEN * search.steps_of_run))
    order = np.concatenate([search.plan.order(epoch).ravel() for epoch in range(2 * search.plan.epochs)])
    width = search.plan.batch_size
    is_held = np.isin(order, search.held_out)
    rows = order[~is_held][: steps * width].reshape(steps, width)
    held = order[is_held][: max(1, len(search.held_out) // width) * width].reshape(-1, width)
    size = width_of(search.state.params)
    wide = program.method.network.with_num_classes(size)

    def see(state: _Seen, batch: Batch) -> _Seen:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        prepared = program.objective.prepare(batch, key)
        variables = {"params": {**state.params, **state.frozen}, "batch_stats": state.batch_stats}
        seen, statistics = wide.apply(
            showing_features(variables, size), prepared.images, train=True, rngs=random_streams(prepared.keys)
        )
        return state._replace(
            step=state.step + 1,
            batch_stats={**state.batch_stats, **statistics},
            features=state.features.at[state.step].set(seen),
            labels=state.labels.at[state.step].set(prepared.labels),
        )

    begin = search.begin()
    state = _Seen(
        begin.step,
        begin.key,
        begin.params,
        begin.frozen,
        begin.batch_stats,
        *search.replicas.replicate(
            (
                np.zeros((steps + len(held), width, size), np.float32),
                np.zeros((steps + len(held), width), np.int32),
            )
        ),
    )
    for after, _ in program.images.feeds["train"].compile_training(see)(state, np.concatenate([held, rows])):
        state = after
    features, labels, statistics = jax.device_get((state.features, state.labels, state.batch_stats))
    search.cost.images_judged += held.size + rows.size
    begun = dataclasses.replace(search, state=search.state.replace(batch_stats=statistics))
    features, labels = features.reshape(-1, size), labels.ravel()
    _, penalty, head = linear_probe.chosen(
        features[held.size :],
        labels[held.size :],
        len(program.images.class_names),
        features[: held.size],
        labels[: held.size],
        in_proportion=in_proportion,
    )
    begun = with_head(begun, head)
    return Probe(begun, begun.judge(), penalty, head)


class _Seen(NamedTuple):
    step: jax.Array
    key: jax.Array
    params: Any
    frozen: Any
    batch_stats: Any
    features: jax.Array
    labels: jax.Array


def width_of(params: Any) -> int:
    """Features that the classifier takes.

    Raises:
        ValueError: the head does not end in a dense layer called so.
    """
    if "classifier" not in params["head"]:
        raise ValueError(f"a head of {', '.join(params['head'])} has no classifier")
    return int(params["head"]["classifier"]["kernel"].shape[0])


def _features(started: Started, begun: Rehearsals) -> np.ndarray:
    program = started.program
    size, normalize = width_of(begun.state.params), program.normalize
    wide = program.method.network.with_num_classes(size)
    compute = evaluation.compile_evaluation(
        lambda variables, images: wide.apply(showing_features(variables, size), normalize(images)),
        program.replicas,
    )
    return np.asarray(program.outputs(compute, program.replicas.replicate(begun.state.variables), "train"))


def with_head(rehearsals: Rehearsals, head: Head) -> Rehearsals:
    """The same from a start with this classifier."""
    state = rehearsals.state
    kernel, bias = head
    fresh: Any = dict(state.params["head"])
    fresh["classifier"] = {"kernel": kernel, "bias": bias}
    return dataclasses.replace(rehearsals, state=state.replace(params={**state.params, "head": fresh}))
