"""Averages of weights: over the steps of a run, over its epochs or over runs, and between two networks.

All take and give trees of arrays, for example the variables of a network. Running statistics of norms that were
averaged or interpolated with the weights fit no network exactly; estimate them anew from images.

    >>> import numpy as np
    >>> pretrained, tuned = {"kernel": np.zeros(2)}, {"kernel": np.ones(2)}
    >>> interpolate(pretrained, tuned, 0.25)["kernel"].tolist()
    [0.25, 0.25]
    >>> [round(float(ema_decay(0.999, step)), 3) for step in (0, 9, 99_999)]
    [0.1, 0.526, 0.999]
    >>> soup = greedy_soup([tuned, pretrained], score=lambda tree: float(tree["kernel"].sum()))
    >>> soup.chosen, soup.score
    ((0,), 2.0)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Tree = Any


def ema_decay(decay: float | jax.Array, step: int | jax.Array) -> jax.Array:
    """Decay of an exponential moving average at a step: ``min(decay, (1 + step) / (10 + step))``.

    The warm-up of ``tf.train.ExponentialMovingAverage(num_updates=step)``: young averages forget where they started.

    Args:
        decay: from some step on, in [0, 1).
        step: steps taken before this one.
    """
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def ema_update(average: Tree, current: Tree, decay: float | jax.Array) -> Tree:
    """``decay · average + (1 - decay) · current``, leaf by leaf; Polyak and Juditsky (1992) with forgetting.

    Args:
        average: tree of arrays.
        current: tree of the same structure.
        decay: in [0, 1]; 0 is ``current``.
    """
    return jax.tree.map(lambda a, c: (decay * a + (1 - decay) * c).astype(a.dtype), average, current)


def mean_update(average: Tree, current: Tree, count: int | jax.Array) -> Tree:
    """The mean of ``count + 1`` trees, from the mean of the first ``count`` and the last one.

    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (UAI 2018), section 3.2: with
    the weights after each of the last epochs it is stochastic weight averaging.

    Args:
        average: mean so far; of no matter with ``count`` 0.
        current: tree of the same structure.
        count: trees in ``average``.
    """
    return jax.tree.map(
        lambda a, c: jnp.where(count > 0, a + (c - a) / (count + 1), c).astype(a.dtype), average, current
    )


def interpolate(start: Tree, end: Tree, alpha: float | jax.Array) -> Tree:
    """``(1 - alpha) · start + alpha · end``: ``start`` at 0 and ``end`` at 1, exactly.

    Wortsman et al., "Robust fine-tuning of zero-shot models" (CVPR 2022), Eq. 1 (WiSE-FT), with the pretrained network
    as ``start`` and the fine-tuned one as ``end``.
    """
    return jax.tree.map(lambda a, b: ((1 - alpha) * a + alpha * b).astype(a.dtype), start, end)


def mean(trees: Sequence[Tree]) -> Tree:
    """Mean of at least one tree; a uniform soup.

    Raises:
        ValueError: there is none.
    """
    if not trees:
        raise ValueError("there is no tree to average")
    return jax.tree.map(
        lambda *leaves: (sum(leaves[1:], leaves[0]) / len(leaves)).astype(leaves[0].dtype), *trees
    )


class Soup(NamedTuple):
    """An average of candidates.

    Attributes:
        tree: the average.
        chosen: numbers of the candidates in it, in the order in which they came in.
        score: of the average.
    """

    tree: Tree
    chosen: tuple[int, ...]
    score: float


def greedy_soup(candidates: Sequence[Tree], score: Callable[[Tree], float]) -> Soup:
    """The average to which candidates are added, the best first, where it does not get worse.

    Wortsman et al., "Model soups" (ICML 2022), Recipe 1. The score of the result is at least that of the best
    candidate.

    Args:
        candidates: at least one tree; all of the same structure.
        score: of a tree, the larger the better; on images that were not trained on, and not tested on.

    Raises:
        ValueError: there is no candidate.
    """
    if not candidates:
        raise ValueError("there is no candidate for a soup")
    scores = [score(candidate) for candidate in candidates]
    ranked = sorted(range(len(candidates)), key=lambda number: -scores[number])
    chosen: tuple[int, ...] = (ranked[0],)
    best, soup = scores[ranked[0]], candidates[ranked[0]]
    for number in ranked[1:]:
        larger = mean([candidates[i] for i in (*chosen, number)])
        reached = score(larger)
        if reached >= best:
            chosen, best, soup = (*chosen, number), reached, larger
    return Soup(soup, chosen, best)
