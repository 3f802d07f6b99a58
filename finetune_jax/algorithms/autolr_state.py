"""Algorithm 2 of AutoLR as a state machine, and its equations (Ro and Choi, AAAI 2021)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from finetune_jax.algorithms.weight_variation import per_block

_DIVERGED_FACTOR = 0.1
_TARGET_FLOOR = 0.1  # share of the smallest variation
SPACINGS = ("linear", "geometric")
"""How the targets of the first epoch lie between the first and the last block's."""
_NO_TARGET = -1.0  # below every target, and unlike NaN equal to itself


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class AutoLRConfig:
    """Settings of AutoLR; a static argument wherever it is handed to a compiled function.

    Attributes:
        alpha: the first epoch's smallest target is ``alpha`` times the smallest variation, Eq. 11.
        beta: the first epoch's largest target is ``beta`` times the largest variation.
        threshold: sorting quality, in [0, 1], from which on a trial of the first epoch is accepted.
        threshold_decay: factor of the threshold at the start of every later epoch; 1 is the paper's constant.
        threshold_floor: the threshold decays only while it is above this value (so it ends just below).
        max_trials: the last of so many trials of one epoch is taken however its variations are ordered.
        tuned_epochs: after so many epochs every trial that does not diverge is accepted; 0 tunes in all epochs.
        spacing: of the first epoch's targets, one of :data:`SPACINGS`.
        ratio: of the last to the first target of the first epoch, above 1; 0 takes ``alpha`` and ``beta``.

    Raises:
        ValueError: a value is out of range.
    """

    alpha: float = 2.0
    beta: float = 0.4
    threshold: float = 0.94
    threshold_decay: float = 0.99
    threshold_floor: float = 0.8
    max_trials: int = 5
    tuned_epochs: int = 0
    spacing: str = "linear"
    ratio: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(alpha=self.alpha, beta=self.beta)
        for name in ("threshold", "threshold_floor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0.0 < self.threshold_decay <= 1.0:
            raise ValueError(f"threshold_decay must be in (0, 1], got {self.threshold_decay}")
        if not isinstance(self.max_trials, int) or self.max_trials < 1:
            raise ValueError(f"max_trials must be a whole number of at least 1, got {self.max_trials}")
        if self.tuned_epochs < 0:
            raise ValueError(f"tuned_epochs must be at least 0, got {self.tuned_epochs}")
        _check_spacing(self.spacing)
        _check_ratio(self.ratio)


class AutoLRState(NamedTuple):
    """What the next trial needs to know.

    Attributes:
        learning_rates: ``[K]``, rates of the next trial.
        targets: ``[K]``, variations the next trial aims at; −1 as long as this epoch has set none.
        threshold: ``[]``, sorting quality from which on the next trial is accepted.
        epoch: int32 ``[]``, 0-based.
        trial: int32 ``[]``, 0-based within the epoch.
    """

    learning_rates: jax.Array
    targets: jax.Array
    threshold: jax.Array
    epoch: jax.Array
    trial: jax.Array


class AutoLROutcome(NamedTuple):
    """What became of a trial; all ``[]``, boolean but for ``quality``.

    Attributes:
        accepted: its weights are the start of the next epoch.
        quality: sorting quality, not rounded; NaN where a variation is.
        capped: accepted as the last trial allowed, although its quality is below the threshold.
        fallback: its targets lie between the smallest and the largest variation themselves, since α and β
            ask for a descending order (the hatched area of Figure 3).
        diverged: its loss or a variation is not finite; rejected, and all rates divided by 10.
        stop: it diverged and was the last trial allowed: the run cannot go on.
    """

    accepted: jax.Array
    quality: jax.Array
    capped: jax.Array
    fallback: jax.Array
    diverged: jax.Array
    stop: jax.Array


def sorting_quality(variations: ArrayLike) -> jax.Array:
    """How nearly the variations ascend, ``1 − 2/K² · Σ |k − rank of v_k|``, Eq. 9.

    Args:
        variations: ``[K]``; equal ones count as sorted.

    Returns:
        ``[]`` in [0, 1], 1 where they never descend; NaN where one is NaN, which has no rank.

    Examples:
        >>> from finetune_jax import autolr
        >>> float(autolr.sorting_quality([1.0, 2.0, 3.0, 4.0]))
        1.0
        >>> float(autolr.sorting_quality([2.0, 1.0, 3.0, 4.0]))
        0.75
    """
    v = per_block(variations, "variations")
    count = v.shape[0]
    ranks = jnp.argsort(jnp.argsort(v, stable=True))
    displacement = jnp.abs(ranks - jnp.arange(count)).sum().astype(v.dtype)
    return jnp.where(jnp.isnan(v).any(), jnp.nan, 1 - 2 * displacement / count**2)


def initial_targets(
    variations: ArrayLike,
    *,
    alpha: float = 2.0,
    beta: float = 0.4,
    spacing: str = "linear",
    ratio: float = 0.0,
) -> jax.Array:
    """Target variations of the first epoch: equally spaced, ascending, Eq. 10–11.

    From ``alpha · min v`` in the first block to ``beta · max v`` in the last. The first term of Eq. 11 as
    printed lacks α; the text, Figure 3 and the rates in Table 1 of the supplement have it. Where these two
    ends do not ascend, they are ``min v`` and ``max v``. A variation of 0 makes the first target 0.

    Args:
        variations: ``[K]``; a single one is its own target.
        alpha: factor of the smallest variation, positive.
        beta: factor of the largest variation, positive.
        spacing: ``linear`` as in the paper; ``geometric`` has a constant ratio from block to block, for variations that
            differ by orders of magnitude (but where the first target is 0, which has no ratio to anything).
        ratio: above 1, the last target is that many times the first one, and their geometric mean that of the
            variations, so that the blocks move as far as before on the whole; our own. 0 takes α and β.

    Returns:
        ``[K]``.

    Raises:
        ValueError: a factor is not positive, the ratio does not ascend, or there is no such spacing.

    Examples:
        >>> from finetune_jax import autolr
        >>> autolr.initial_targets([2.0, 30.0, 10.0], alpha=2.0, beta=0.4).tolist()
        [4.0, 8.0, 12.0]
        >>> autolr.initial_targets([1.0, 80.0, 5.0], spacing="geometric").tolist()
        [2.0, 8.0, 32.0]
        >>> autolr.initial_targets([8.0, 2.0], ratio=4.0).tolist()
        [2.0, 8.0]
    """
    _check_positive(alpha=alpha, beta=beta)
    _check_spacing(spacing)
    _check_ratio(ratio)
    v = per_block(variations, "variations")
    first, last, _ = _ends(v, alpha, beta, ratio)
    count = v.shape[0]
    places = jnp.arange(count, dtype=v.dtype)
    linear = first + places * ((last - first) / max(count - 1, 1))
    if spacing == "linear":
        return linear
    positive = first > 0
    growth = jnp.where(positive, last / jnp.where(positive, first, 1), 1)
    return jnp.where(positive, first * growth ** (places / max(count - 1, 1)), linear)


def renewed_targets(variations: ArrayLike) -> jax.Array:
    """Target variations of all later epochs: those out of order are moved behind their neighbour, Eq. 12–13.

    Starts from the block ``K // 2`` (0-based), which keeps its value, and moves to both ends. The step behind
    the neighbour is ``(max v − min v) / (K − 1)``. No target is below a tenth of the smallest variation:
    downwards the equations reach negative values, which would turn descent into ascent.

    Args:
        variations: ``[K]``.

    Returns:
        ``[K]``, never descending.

    Examples:
        >>> from finetune_jax import autolr
        >>> autolr.renewed_targets([1.0, 2.0, 4.0, 3.0, 8.0]).tolist()
        [1.0, 2.0, 4.0, 5.75, 8.0]
    """
    v = per_block(variations, "variations")
    count = v.shape[0]
    centre = count // 2
    step = (v.max() - v.min()) / max(count - 1, 1)

    def upwards(below: jax.Array, variation: jax.Array) -> tuple[jax.Array, jax.Array]:
        target = jnp.where(variation >= below, variation, below + step)
        return target, target

    def downwards(above: jax.Array, variation: jax.Array) -> tuple[jax.Array, jax.Array]:
        target = jnp.where(variation <= above, variation, above - step)
        return target, target

    _, upper = jax.lax.scan(upwards, v[centre], v[centre + 1 :])
    _, lower = jax.lax.scan(downwards, v[centre], v[:centre], reverse=True)
    targets = jnp.concatenate([lower, v[centre : centre + 1], upper])
    return jnp.maximum(targets, _TARGET_FLOOR * v.min())


def renewed_learning_rates(learning_rates: ArrayLike, targets: ArrayLike, variations: ArrayLike) -> jax.Array:
    """Rates that give the target variations if variations are proportional to rates, Eq. 15–16.

    Args:
        learning_rates: ``[K]``, rates of the trial.
        targets: ``[K]``, variations wanted.
        variations: ``[K]``, variations of the trial; a block that did not move keeps its rate.

    Returns:
        ``[K]``, ``learning_rates · targets / variations``.

    Raises:
        ValueError: shapes differ.

    Examples:
        >>> from finetune_jax import autolr
        >>> autolr.renewed_learning_rates([0.5, 0.5], targets=[1.0, 4.0], variations=[2.0, 2.0]).tolist()
        [0.25, 1.0]
    """
    rates = per_block(learning_rates, "learning_rates")
    t = per_block(targets, "targets")
    v = per_block(variations, "variations")
    if not rates.shape == t.shape == v.shape:
        raise ValueError(
            "learning_rates, targets and variations must have one value per block each, "
            f"got shapes {rates.shape}, {t.shape} and {v.shape}"
        )
    unmoved = v == 0
    return rates * jnp.where(unmoved, 1, t / jnp.where(unmoved, 1, v))


def init(config: AutoLRConfig, learning_rates: ArrayLike) -> AutoLRState:
    """The state before the first trial of the first epoch.

    Args:
        config: settings.
        learning_rates: ``[K]``, rates of the first trial; their dtype is that of the whole state.

    Raises:
        ValueError: not one finite rate of at least 0 per block.

    Examples:
        >>> from finetune_jax import autolr
        >>> state = autolr.init(autolr.AutoLRConfig(threshold=0.75), [0.5, 0.25])
        >>> state.learning_rates.tolist(), float(state.threshold), int(state.epoch), int(state.trial)
        ([0.5, 0.25], 0.75, 0, 0)
    """
    rates = per_block(learning_rates, "learning_rates")
    if not isinstance(rates, jax.core.Tracer):
        values = np.asarray(rates)
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"learning_rates must be finite and at least 0, got {values.tolist()}")
    return AutoLRState(
        learning_rates=rates,
        targets=jnp.full_like(rates, _NO_TARGET),
        threshold=jnp.asarray(config.threshold, rates.dtype),
        epoch=jnp.zeros((), jnp.int32),
        trial=jnp.zeros((), jnp.int32),
    )


@jax.jit
def update(
    config: AutoLRConfig, state: AutoLRState, variations: ArrayLike, finite: ArrayLike = True
) -> tuple[AutoLRState, AutoLROutcome]:
    """Judge a trial, Algorithm 2.

    A trial is accepted if its sorting quality, rounded to three decimals, reaches the threshold, or if it is
    the last one allowed; the next epoch goes on with its rates. Otherwise the rates are renewed: the first
    rejected trial of an epoch sets the targets, the further ones keep them. A trial that diverged is never
    accepted, sets no targets, and only has its rates divided by 10.

    Compiled, with ``config`` static; under ``jax.vmap`` every run has its own state.

    Args:
        config: settings.
        state: from `init` or the last call, with the rates the trial was trained with.
        variations: ``[K]`` of the trial, see `weight_variation`.
        finite: whether all losses of the trial were finite.

    Returns:
        The state for the next trial or epoch, of the same shapes and dtypes, and what became of this trial.

    Raises:
        ValueError: not as many variations as rates.

    Examples:
        >>> from finetune_jax import autolr
        >>> config = autolr.AutoLRConfig()
        >>> state = autolr.init(config, [0.5, 0.5, 0.5])
        >>> state, outcome = autolr.update(config, state, [2.0, 30.0, 10.0])
        >>> bool(outcome.accepted), state.targets.tolist()
        (False, [4.0, 8.0, 12.0])
        >>> state, outcome = autolr.update(config, state, [4.0, 8.0, 12.0])
        >>> bool(outcome.accepted), int(state.epoch)
        (True, 1)
    """
    rates = state.learning_rates
    v = per_block(variations, "variations")
    if v.shape != rates.shape:
        raise ValueError(
            f"variations must have one value per block, got shape {v.shape} for rates {rates.shape}"
        )
    quality = sorting_quality(v).astype(rates.dtype)
    v = v.astype(rates.dtype)

    diverged = ~(jnp.asarray(finite, bool) & jnp.isfinite(v).all())
    last = state.trial + 1 >= config.max_trials
    ordered = _reaches(quality, state.threshold)
    if config.tuned_epochs:
        ordered |= state.epoch >= config.tuned_epochs
    accepted = ~diverged & (ordered | last)

    # Not always the epoch's first trial: one that diverged leaves the targets to the next.
    first = (state.trial == 0) | (state.targets == _NO_TARGET).all()
    sets_targets = first & ~accepted & ~diverged
    initial = sets_targets & (state.epoch == 0)
    of_first = initial_targets(
        v, alpha=config.alpha, beta=config.beta, spacing=config.spacing, ratio=config.ratio
    )
    new_targets = jnp.where(state.epoch == 0, of_first, renewed_targets(v))
    targets = jnp.where(sets_targets, new_targets, state.targets)
    renewed = jnp.where(diverged, rates * _DIVERGED_FACTOR, renewed_learning_rates(rates, targets, v))
    decayed = jnp.where(
        state.threshold > config.threshold_floor, state.threshold * config.threshold_decay, state.threshold
    )
    next_state = AutoLRState(
        learning_rates=jnp.where(accepted, rates, renewed),
        targets=jnp.where(accepted, _NO_TARGET, targets),
        threshold=jnp.where(accepted, decayed, state.threshold),
        epoch=jnp.where(accepted, state.epoch + 1, state.epoch),
        trial=jnp.where(accepted, 0, state.trial + 1),
    )
    outcome = AutoLROutcome(
        accepted=accepted,
        quality=quality,
        capped=accepted & ~ordered,
        fallback=initial & _ends(v, config.alpha, config.beta, config.ratio)[2],
        diverged=diverged,
        stop=diverged & last,
    )
    return next_state, outcome


def _ends(v: jax.Array, alpha: float, beta: float, ratio: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """First and last target of the first epoch, and whether they had to leave α and β, or the ratio, aside."""
    if ratio:
        middle = jnp.exp(jnp.log(v).mean())
        first, last = middle / math.sqrt(ratio), middle * math.sqrt(ratio)
    else:
        first, last = alpha * v.min(), beta * v.max()
    fallback = (last <= first) | (v.shape[0] == 1)
    return jnp.where(fallback, v.min(), first), jnp.where(fallback, v.max(), last), fallback


def _reaches(quality: jax.Array, threshold: jax.Array) -> jax.Array:
    """Whether the quality, rounded to three decimals, is at least the threshold."""
    # In thousandths the rounded quality is exact. The threshold is not (0.94 has no binary form), hence the
    # slack of a few units in its last place.
    slack = 4 * float(jnp.finfo(threshold.dtype).eps)
    return jnp.round(1000 * quality) >= 1000 * threshold * (1 - slack)


def _check_spacing(spacing: str) -> None:
    if spacing not in SPACINGS:
        raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")


def _check_ratio(ratio: float) -> None:
    if ratio and not 1 < ratio < math.inf:
        raise ValueError(f"ratio must be above 1, or 0 for none, got {ratio}")


def _check_positive(**values: Any) -> None:
    for name, value in values.items():
        # A traced value (of a map over α and β) cannot be looked at.
        if not isinstance(value, jax.core.Tracer) and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}")
