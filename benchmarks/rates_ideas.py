"""Ideas for ``--method=auto`` in :mod:`benchmarks.rates`: another rule of choice, and a head that does not start fresh.

- ``auto_se``: the rehearsals of ``auto``, of which the smallest rate within one standard error of the best is taken.
- ``probe_default``: the head starts as logistic regression on the frozen features; the default rate.
- ``probe_auto``: from there a climb over one rate for all parts, head included, in four rehearsals of 0.15 of the run
  each; the smallest rate within one per cent.
- ``probe_auto_se``: the same rehearsals, one standard error.
- ``auto_ratio`` and ``auto_ratio_se``: the rate of ``auto`` or ``auto_se``, and at most ten times that for the head;
  the first is what ``--method=auto`` became.
- ``auto_order``: AutoLR's order and a scale for it. After the head has learnt alone, steps at the default rate tell how
  far each block moves relative to its weights; Eq. 10 to 16 turn that into proportions, over whose scale is climbed.
- ``auto_now``: ``--method=auto`` as it was before ``auto_still``; its head begins anew at a lower rate where it ends
  worse than it began.
- ``auto_head``: ``auto_ratio`` with a rate of the head that is looked for as well: the head alone learns on stored
  features for the steps of a run, in a climb from ten times the default rate; the rate with the lowest loss of the
  held-out images is the head's in the rehearsals, and its upper limit in the run.
- ``probe_seen``: the head starts as logistic regression on the features that training sees (:mod:`rates_probe`); from
  there a climb over one rate for all parts, head included, in rehearsals as long as those of ``auto``.
- ``auto_probe``: ``auto_ratio``, and where the head that learns alone ends worse than it began, ``probe_seen``.
- ``auto_still``: the same, but there the batch norms keep the statistics that they were pretrained with, so that the
  head may start as the probe of evaluation; one rate for all parts is climbed from a thirtieth of the default rate.
  This is what ``--method=auto`` does now.
- ``auto_scale``: ``auto_now``, whose rates may all be halved or doubled before the second and before the third epoch
  (:mod:`rates_scale`).
- ``auto_low``: ``auto_still``, whose climb begins at a hundredth of the default rate.
- ``auto_careful``: ``auto_still``, which takes the smallest rate within five per cent.
- ``auto_tenth`` and ``auto_thirtieth``: ``auto_now`` from a tenth and from three hundredths of the default rate.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import linear_probe, rates_probe, rates_scale
from finetune_jax.algorithms import autolr, rate_search
from finetune_jax.algorithms.linear_probe import logistic
from finetune_jax.training import evaluation, rates
from finetune_jax.training.rehearsal import Rehearsals

IDEAS = (
    "auto_se", "probe_default", "probe_auto", "probe_auto_se", "auto_ratio", "auto_ratio_se", "auto_order",
    "auto_head",
    "auto_now",
    "probe_seen",
    "auto_probe",
    "auto_still",
    "auto_scale",
    "auto_low",
    "auto_careful",
    "auto_tenth",
    "auto_thirtieth",
)  # fmt: skip
FOLLOWS = {"auto_se": "auto", "probe_auto_se": "probe_auto", "auto_ratio": "auto", "auto_ratio_se": "auto_se"}
"""Ideas that differ from another contestant in nothing but the rates taken."""
_HEAD_FACTOR, _SHARE_OF_HEAD = 10.0, 0.16  # as of --method=auto
_SHARE, _MOST, _TIE = 0.15, 4, 0.01
_CAREFUL_TIE = 0.05
_MOST_OF_HEAD, _SHARE_OF_REHEARSAL = 7, 0.12
_FACTOR = math.sqrt(10)

Row = Mapping[str, Any]


def contest(name: str, started: Any, default: float, before: Row | None) -> dict[str, Any]:
    """One run of an idea.

    Args:
        name: of :data:`IDEAS`.
        started: see ``benchmarks.rates.Started``; its runs are from another head afterwards.
        default: rate of the optimiser.
        before: the line of the same seed of the contestant that this one :data:`FOLLOWS`.
    """
    if name in FOLLOWS and name != "auto_se" and before is None:
        raise ValueError(f"{name} follows {FOLLOWS[name]}")
    if name.startswith("auto_ratio"):
        return _in_proportion(name, started, default, before or {})
    if name == "auto_order":
        return _ordered(started, default)
    if name == "auto_now":
        return _as_it_is(started, default)
    if name == "probe_seen":
        return _from_seen_probe(started, default)
    if name == "auto_scale":
        return _as_it_is(started, default, scaled=True)
    if name == "auto_tenth":
        return _as_it_is(started, default / 10)
    if name == "auto_thirtieth":
        return _as_it_is(started, 0.03 * default)
    if name == "auto_careful":
        careful = functools.partial(_with_still_norms, tie=_CAREFUL_TIE)
        return _unless_the_head_learns(started, default, careful)
    if name == "auto_low":
        lower = functools.partial(_with_still_norms, begin=default / _FACTOR**4)
        return _unless_the_head_learns(started, default, lower)
    if name in ("auto_probe", "auto_still"):
        otherwise = _from_seen_probe if name == "auto_probe" else _with_still_norms
        return _unless_the_head_learns(started, default, otherwise)
    if name == "auto_head":
        return _with_head_rate(started, default)
    if name == "auto_se":
        return _one_error(started, default, before)
    if before is not None and before["rate_se"] == before["rate"]:
        return {**before, "contestant": name, "same_as": "probe_auto"}
    penalty = _start_from_probe(started)
    if name == "probe_default":
        return {**started.train(started.rates(default)), "rate": default, "penalty": penalty}
    if before is not None:
        rate = before["rate_se"]
        of_search = {field: before[field] for field in ("trained", "judged", "penalty", "search")}
        return {**started.train(started.rates(rate)), "rate": rate, **of_search}
    search = started.rehearsals
    steps = max(8, int(_SHARE * search.steps_of_run))
    losses = rate_search.climb(
        lambda rate: search.run(started.rates(rate), steps).loss, default, factor=_FACTOR, most=_MOST
    )
    rate = _rounded(rate_search.smallest_within(losses, _TIE))
    chosen = {"rate": rate, "rate_se": _within_error(search), "penalty": penalty, "search": _tried(search)}
    return {**started.train(started.rates(rate)), **chosen}


def _one_error(started: Any, default: float, before: Row | None) -> dict[str, Any]:
    search = started.rehearsals
    begun = dataclasses.replace(started.config, learning_rate=default)
    choice = dict(started.program.method.find(begun, search).settings)
    rate, head = _within_error(search), _HEAD_FACTOR * default
    of_search = {"rate": rate, "head_learning_rate": head, "search": _tried(search)}
    if before is not None and before["rate"] == rate == choice["learning_rate"]:
        return {**before, "contestant": "auto_se", **of_search, "same_as": "auto"}
    return {**started.train(started.rates(rate, head_learning_rate=head)), **of_search}


def _in_proportion(name: str, started: Any, default: float, before: Row) -> dict[str, Any]:
    rate = before["rate"]
    head = _HEAD_FACTOR * min(rate, default)
    if rate >= default:
        return {**before, "contestant": name, "same_as": FOLLOWS[name]}
    of_search = {field: before[field] for field in ("trained", "judged")}
    scores = started.train(started.rates(rate, head_learning_rate=head))
    return {**scores, "rate": rate, "head_learning_rate": head, **of_search}


def _as_it_is(started: Any, default: float, *, scaled: bool = False) -> dict[str, Any]:
    begun = dataclasses.replace(started.config, learning_rate=default)
    choice = dict(started.program.method.find(begun, started.rehearsals).settings)
    rate, head = choice["learning_rate"], choice["head_learning_rate"]
    train = functools.partial(rates_scale.train, started) if scaled else started.train
    scores = train(started.rates(rate, head_learning_rate=head))
    of_search = {"rate": rate, "head_learning_rate": head, "search": _tried(started.rehearsals)}
    return {**scores, **of_search}


def _from_seen_probe(started: Any, default: float) -> dict[str, Any]:
    search = started.rehearsals
    probe = rates_probe.in_training(started)
    steps = max(8, int(_SHARE_OF_REHEARSAL * search.steps_of_run))
    losses = rate_search.climb(
        lambda rate: probe.begun.run(started.rates(rate), steps).loss, default, factor=_FACTOR, most=_MOST
    )
    rate = _rounded(rate_search.smallest_within(losses, _TIE))
    started.whole = rates_probe.with_head(started.whole, probe.head)
    of_probe = {"penalty": probe.penalty, "loss_of_probe": round(probe.loss, 5)}
    return {**started.train(started.rates(rate)), "rate": rate, **of_probe, "search": _tried(search)}


def _with_still_norms(
    started: Any, default: float, begin: float | None = None, tie: float = _TIE
) -> dict[str, Any]:
    still = started.cell.still.of_seed(started.config.seed)
    search = still.rehearsals = dataclasses.replace(still.rehearsals, cost=started.rehearsals.cost)
    probe = rates_probe.in_evaluation(still, search, in_proportion=True)
    steps = max(8, int(_SHARE_OF_REHEARSAL * search.steps_of_run))
    losses = rate_search.climb(
        lambda rate: probe.begun.run(still.rates(rate), steps).loss,
        begin or default / _FACTOR**3,
        factor=_FACTOR,
        most=3,
    )
    rate = _rounded(rate_search.smallest_within(losses, tie))
    still.whole = dataclasses.replace(rates_probe.with_head(still.whole, probe.head), cost=started.whole.cost)
    of_probe = {"penalty": probe.penalty, "loss_of_probe": round(probe.loss, 5)}
    return {**still.train(still.rates(rate)), "rate": rate, **of_probe, "search": _tried(probe.begun)}


def _unless_the_head_learns(
    started: Any, default: float, otherwise: Callable[[Any, float], dict[str, Any]]
) -> dict[str, Any]:
    search = started.rehearsals
    untrained = search.judge()
    fast = started.rates(default, head_learning_rate=_HEAD_FACTOR * default)
    alone = {name: rate if name == "head" else 0.0 for name, rate in fast.items()}
    steps = max(8, int(_SHARE_OF_HEAD * search.steps_of_run))
    with_head = search.after(alone, steps).judge()
    of_head = {"loss_untrained": round(untrained, 5), "loss_of_head": round(with_head, 5)}
    if with_head <= untrained:
        # The search of --method=auto takes the same steps of the head anew; they count once.
        started.rehearsals = dataclasses.replace(search, log=[], cost=type(search.cost)())
        return {**_as_it_is(started, default), **of_head}
    return {**otherwise(started, default), **of_head}


def _with_head_rate(started: Any, default: float) -> dict[str, Any]:
    search = started.rehearsals
    losses_of_head = rate_search.climb(
        _loss_of_head(started), _HEAD_FACTOR * default, factor=_FACTOR, most=_MOST_OF_HEAD
    )
    fast = min(losses_of_head, key=losses_of_head.__getitem__)
    begin = started.rates(default, head_learning_rate=fast)
    alone = {name: rate if name == "head" else 0.0 for name, rate in begin.items()}
    with_head = search.after(alone, max(8, int(_SHARE_OF_HEAD * search.steps_of_run)))
    steps = max(8, int(0.12 * search.steps_of_run))
    losses = rate_search.climb(
        lambda rate: with_head.run(started.rates(rate, head_learning_rate=fast), steps).loss,
        default,
        factor=_FACTOR,
        most=_MOST,
    )
    rate = _rounded(rate_search.smallest_within(losses, _TIE))
    head = min(fast, _HEAD_FACTOR * rate)
    scores = started.train(started.rates(rate, head_learning_rate=head))
    tried = [[rate, steps, round(value, 5)] for rate, value in losses.items()]
    of_head = [[rate, round(value, 5)] for rate, value in losses_of_head.items()]
    return {**scores, "rate": rate, "head_learning_rate": head, "search": tried, "search_of_head": of_head}


def _loss_of_head(started: Any) -> Callable[[float], float]:
    """A rate to the loss of the held-out images after the head has learnt alone at it, on stored features."""
    program, search = started.program, started.rehearsals
    fresh = search.state.params["head"]
    if set(fresh) != {"classifier"}:  # such as that of retrieval
        return lambda rate: abs(math.log(rate) - math.log(_HEAD_FACTOR * 0.01))
    network, normalize = program.method.network, program.normalize
    compute = evaluation.compile_evaluation(
        lambda variables, images: network.embed(variables, normalize(images)), program.replicas
    )
    features = jnp.asarray(program.outputs(compute, program.replicas.replicate(program.variables), "train"))
    labels = jnp.asarray(program.images.splits["train"].labels)
    search.cost.images_judged += len(labels)
    rule, held = rates.rule_of(started.config), search.held_out
    transform = rule.transform(1.0, **rule.hyperparameters)  # steps of length 1, scaled below

    def loss(head: Any, rows: Any) -> Any:
        logits = features[rows] @ head["kernel"] + head["bias"]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    @jax.jit
    def step(head: Any, state: Any, rows: Any, rate: Any) -> Any:
        updates, state = transform.update(jax.grad(loss)(head, rows), state, head)
        return jax.tree.map(lambda weight, update: weight + rate * update, head, updates), state

    total = search.steps_of_run
    order = np.concatenate([search.plan.order(epoch).ravel() for epoch in range(2 * search.plan.epochs)])
    order = order[~np.isin(order, held)][: total * search.plan.batch_size].reshape(total, -1)

    def of_rate(rate: float) -> float:
        head = jax.tree.map(jnp.asarray, fresh["classifier"])
        state = transform.init(head)
        for number, rows in enumerate(order):
            factor = 0.5 * (1 + math.cos(math.pi * number / total))
            head, state = step(head, state, rows, rate * factor)
        return float(loss(head, held))

    return of_rate


def _ordered(started: Any, default: float) -> dict[str, Any]:
    search, trained = started.rehearsals, started.program.trained
    blocks = tuple(name for name in trained if name.startswith("block_"))
    fast = _HEAD_FACTOR * default
    steps = max(8, int(0.12 * search.steps_of_run))
    begin = started.rates(default, head_learning_rate=fast)
    alone = {name: rate if name == "head" else 0.0 for name, rate in begin.items()}
    with_head = search.after(alone, max(8, int(_SHARE_OF_HEAD * search.steps_of_run)))
    moved = with_head.after(begin, steps)
    variations = autolr.weight_variation(
        with_head.state.params, moved.state.params, blocks=blocks, measure="relative"
    )
    targets = autolr.initial_targets(variations)
    factors = np.asarray(autolr.renewed_learning_rates(np.ones(len(blocks)), targets, variations))
    factors = factors / np.exp(np.log(factors).mean())
    of_parts = {"stem": factors[0] / 2, **dict(zip(blocks, factors, strict=True))}
    settings = {"rate_factors": tuple(f"{name}={value:.3g}" for name, value in of_parts.items())}

    def loss(rate: float) -> float:
        return with_head.run(started.rates(rate, head_learning_rate=fast, **settings), steps).loss

    losses = rate_search.climb(loss, default, factor=_FACTOR, most=_MOST - 1)
    rate = _rounded(rate_search.smallest_within(losses, _TIE))
    head = _HEAD_FACTOR * min(rate, default)
    scores = started.train(started.rates(rate, head_learning_rate=head, **settings))
    tried = [[rate, steps, round(value, 5)] for rate, value in losses.items()]
    return {**scores, "rate": rate, "head_learning_rate": head, **settings, "search": tried}


def smallest_within_error(losses: Mapping[float, np.ndarray]) -> float:
    """The smallest rate whose mean loss is no more than one standard error above the lowest.

    The rule of Breiman et al., "Classification and Regression Trees" (1984), with the standard error of the
    differences to the best rate, image by image, in which what makes an image hard for all rates cancels.

    Args:
        losses: ``{rate: losses of the same images [N]}``; empty where training diverged.

    Raises:
        ValueError: it diverged at every rate.

    Examples:
        >>> import numpy as np
        >>> from benchmarks import rates_ideas
        >>> losses = {0.1: np.array([1.0, 1.3, 0.8]), 1.0: np.array([0.9, 1.0, 1.0]), 10.0: np.zeros(0)}
        >>> rates_ideas.smallest_within_error(losses)
        0.1
    """
    finite = {rate: of_images for rate, of_images in losses.items() if of_images.size}
    if not finite:
        raise ValueError("training diverged at every rate")
    best = finite[min(finite, key=lambda rate: float(finite[rate].mean()))]

    def near(of_images: np.ndarray) -> bool:
        differences = of_images - best
        error = differences.std(ddof=1) / math.sqrt(differences.size) if differences.size > 1 else 0.0
        return bool(differences.mean() <= error)

    return min(rate for rate, of_images in finite.items() if near(of_images))


def _within_error(search: Rehearsals) -> float:
    return _rounded(smallest_within_error({tried.rates["stem"]: tried.losses for tried in search.log}))


def _tried(search: Rehearsals) -> list[list[float]]:
    return [[tried.rates["stem"], tried.steps, round(tried.loss, 5)] for tried in search.log]


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _start_from_probe(started: Any) -> float:
    """Give the runs and the rehearsals heads of logistic regression; the penalty that was chosen."""
    program = started.program
    network, normalize = program.method.network, program.normalize
    compute = evaluation.compile_evaluation(
        lambda variables, images: network.embed(variables, normalize(images)), program.replicas
    )
    features = program.outputs(compute, program.replicas.replicate(program.variables), "train")
    labels = program.images.splits["train"].labels
    count, held = len(program.images.class_names), started.rehearsals.held_out
    started.rehearsals.cost.images_judged += len(labels)
    penalty = linear_probe.chosen_penalty(features, labels, count, held)
    others = np.delete(np.arange(len(labels)), held)

    def with_head(rehearsals: Rehearsals, chosen: np.ndarray) -> Rehearsals:
        kernel, bias = logistic(features[chosen], labels[chosen], count, penalty)
        state = rehearsals.state
        head = dict(state.params["head"])
        fresh = head["classifier"]
        if jax.tree.map(np.shape, fresh) != {"kernel": kernel.shape, "bias": bias.shape}:
            raise ValueError(
                f"a classifier with {jax.tree.map(np.shape, fresh)} is not linear in the features"
            )
        head["classifier"] = {"kernel": kernel, "bias": bias}
        return dataclasses.replace(rehearsals, state=state.replace(params={**state.params, "head": head}))

    started.rehearsals = with_head(started.rehearsals, others)
    started.whole = with_head(started.whole, np.arange(len(labels)))
    return penalty
