"""Fast Trainable Projection: weights stay within learned distances of the pretrained ones.

Tian et al., "Fast Trainable Projection for Robust Fine-Tuning" (NeurIPS 2023), the successor of "Trainable Projected
Gradient Method for Robust Fine-tuning" (CVPR 2023), which learns the same radii from validation images. After every
step of the optimiser each array is projected into a ball around its pretrained values, and the radius of the ball
learns by Adam from the gradient that the step has anyway:

    g      gradient at the projected weights W of the step before
    γ   ←  Adam(γ, Σ over rows ⟨g, c / n⟩), kept between 1e-8 and the largest n
    W̃   ←  W − step of the optimiser;   c = W̃ − W₀,  n = norm of each row of c
    W   ←  W₀ + min(1, γ / n) · c

``n`` is the L1 norm of the weights of one output, so that the ball is one of the maximum absolute row sum (MARS) norm;
of arrays of one axis each element is a row. The first step learns no radius: it stays at 1e-8. As in the published
code the gradient of γ is that of an active projection, also for rows inside the ball.
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from finetune_jax.algorithms.optimizer_rules import Rule

SMALLEST_RADIUS = 1e-8
"""Radius before anything was learned, and the least there is."""

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class ProjectionState(NamedTuple):
    """State of :func:`projected`.

    Attributes:
        inner: of the optimiser.
        reference: the weights at the start.
        movement: ``c`` of the last step, a tree like the weights.
        norms: ``n`` of the last step, of each array.
        radii: γ ``[]`` of each array.
        first: Adam's first moment of γ's gradient.
        second: Adam's second moment.
        steps: int32 ``[]``, taken so far.
    """

    inner: Any
    reference: Any
    movement: Any
    norms: Any
    radii: Any
    first: Any
    second: Any
    steps: jax.Array


def row_norms(leaf: jax.Array) -> jax.Array:
    """L1 norms of the weights of each output, with axes of length 1 in place of the others.

    Args:
        leaf: ``[…, outputs]``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax.algorithms import projection
        >>> projection.row_norms(jnp.array([[1.0, -2.0], [3.0, 0.0]])).tolist()
        [[4.0, 2.0]]
    """
    return jnp.abs(leaf).sum(tuple(range(leaf.ndim - 1)), keepdims=True)


def project(params: Any, reference: Any, radii: Any) -> Any:
    """The nearest weights along the way to the reference whose row norms are at most the radii.

    Args:
        params: tree of arrays.
        reference: the same tree.
        radii: the same tree of scalars.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax.algorithms import projection
        >>> weights = {"kernel": jnp.array([[1.0, 4.0], [1.0, 4.0]])}
        >>> pretrained = {"kernel": jnp.array([[1.0, 0.0], [0.0, 0.0]])}
        >>> projection.project(weights, pretrained, {"kernel": 2.0})["kernel"].tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """

    def nearest(leaf: jax.Array, start: jax.Array, radius: Any) -> jax.Array:
        movement = leaf - start
        return start + _within(row_norms(movement), radius) * movement

    return jax.tree.map(nearest, params, reference, radii)


def projected(
    optimizer: optax.GradientTransformation,
    radius_rate: Any = 0.01,
    shrinking: Any = 1.0,
    *,
    shared: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """An optimiser whose steps end inside balls around the weights at its start.

    Args:
        optimizer: takes the steps.
        radius_rate: Adam's rate of the radii, the papers' μ.
        shrinking: factor of gradients that make a radius smaller, the paper's κ; with 0 radii only grow.
        shared: whether all arrays share one radius.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from finetune_jax.algorithms import projection
        >>> params = {"kernel": jnp.zeros((2, 1))}
        >>> tx = projection.projected(optax.sgd(1.0), radius_rate=0.25)
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     updates, state = tx.update({"kernel": -jnp.ones((2, 1))}, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> round(float(jnp.abs(params["kernel"]).sum()), 4) == round(float(state.radii["kernel"]), 4)
        True
    """
    extended = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> ProjectionState:
        # Copies: parameters and optimiser state are both given up to the step.
        copied = jax.tree.map(jnp.array, params)
        zeros = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), params)
        return ProjectionState(
            inner=extended.init(jax.tree.map(jnp.array, params)),
            reference=copied,
            movement=jax.tree.map(jnp.zeros_like, params),
            norms=jax.tree.map(lambda leaf: _positive(row_norms(leaf) * 0), params),
            radii=jax.tree.map(lambda leaf: leaf + SMALLEST_RADIUS, zeros),
            first=zeros,
            second=jax.tree.map(jnp.copy, zeros),
            steps=jnp.zeros((), jnp.int32),
        )

    def update(
        gradients: Any, state: ProjectionState, params: Any = None, **values: Any
    ) -> tuple[Any, ProjectionState]:
        updates, inner = extended.update(gradients, state.inner, params, **values)
        movement = jax.tree.map(
            lambda leaf, step, start: leaf + step - start, params, updates, state.reference
        )
        norms = jax.tree.map(lambda leaf: _positive(row_norms(leaf)), movement)
        steps = state.steps + 1
        slopes = jax.tree.map(
            lambda gradient, leaf, norm: (gradient * leaf / norm).sum(),
            gradients,
            state.movement,
            state.norms,
        )
        longest = jax.tree.map(jnp.max, norms)
        if shared:
            slopes, longest = _same(slopes, sum), _same(longest, lambda values: jnp.stack(values).max())
        slopes = jax.tree.map(lambda slope: jnp.where(slope > 0, slope * shrinking, slope), slopes)
        first = jax.tree.map(lambda old, slope: _BETA1 * old + (1 - _BETA1) * slope, state.first, slopes)
        second = jax.tree.map(lambda old, slope: _BETA2 * old + (1 - _BETA2) * slope**2, state.second, slopes)

        def learned(radius: jax.Array, mean: jax.Array, square: jax.Array, most: jax.Array) -> jax.Array:
            mean = mean / (1 - _BETA1**steps)
            square = square / (1 - _BETA2**steps)
            moved = radius - radius_rate * mean / (jnp.sqrt(square) + _EPSILON)
            return jnp.where(steps > 1, jnp.clip(moved, SMALLEST_RADIUS, most), radius)

        radii = jax.tree.map(learned, state.radii, first, second, longest)
        updates = jax.tree.map(
            lambda leaf, start, moved, norm, radius: start + _within(norm, radius) * moved - leaf,
            params,
            state.reference,
            movement,
            norms,
            radii,
        )
        return updates, ProjectionState(inner, state.reference, movement, norms, radii, first, second, steps)

    return optax.GradientTransformationExtraArgs(init, update)


def projected_rule(rule: Rule, *, radius_rate: float, shrinking: float, shared: bool) -> Rule:
    """The rule of a block whose steps end inside balls; arguments as of :func:`projected`.

    Examples:
        >>> from finetune_jax.algorithms import optimizers, projection
        >>> rule = projection.projected_rule(optimizers.sgd(0.9), radius_rate=0.01, shrinking=1.0, shared=False)
        >>> sorted(rule.hyperparameters)
        ['momentum', 'radius_rate', 'shrinking', 'weight_decay']
    """
    hyperparameters: Mapping[str, float] = {
        **rule.hyperparameters,
        "radius_rate": radius_rate,
        "shrinking": shrinking,
    }

    def transform(
        learning_rate: Any, radius_rate: Any, shrinking: Any, **others: Any
    ) -> optax.GradientTransformation:
        inner = rule.transform(learning_rate=learning_rate, **others)
        return projected(inner, radius_rate, shrinking, shared=shared)

    # optax looks there for the names of what is injected, and cannot for keywords that are only gathered.
    names = ["learning_rate", *hyperparameters]
    transform.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    )
    return Rule(transform, hyperparameters)


def _within(norms: jax.Array, radius: Any) -> jax.Array:
    return jnp.minimum(1.0, radius / jnp.maximum(norms, SMALLEST_RADIUS))


def _positive(norms: jax.Array) -> jax.Array:
    return norms + SMALLEST_RADIUS


def _same(tree: Any, combined: Any) -> Any:
    """The tree with one value in all its places."""
    leaves, structure = jax.tree.flatten(tree)
    value = combined(leaves)
    return jax.tree.unflatten(structure, [value] * len(leaves))
