"""Trainable Projected Gradient Method: how far each array may stay from its start is learned from validation images.

Tian et al., "Trainable Projected Gradient Method for Robust Fine-tuning" (CVPR 2023), applied once after training, as
in its experiments on ImageNet. The trained weights W̃ and those of the start W₀ stay as they are; each array has one
radius γ, which Adam learns from the loss of the weights that are projected into balls of the radii:

    W(γ) = W₀ + min(1, γ / n) · (W̃ - W₀)        n: norm of each row of W̃ - W₀

Radii begin at half of the smallest norm of their array and are kept between 1e-8 and the largest. Rows inside their
ball have no part in the gradient. ``n`` is the L1 norm of the weights of one output, see ``algorithms.projection``;
that module learns radii in every step from the gradients of training (Fast Trainable Projection, by the same authors).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from finetune_jax.algorithms import projection

Tree = Any


class RadiiState(NamedTuple):
    """State of the learning.

    Attributes:
        radii: γ ``[]`` of each array, a tree like the weights.
        moments: of Adam.
    """

    radii: Tree
    moments: Any


def init(params: Tree, reference: Tree) -> RadiiState:
    """Radii before anything was learned.

    Args:
        params: the trained weights W̃, a tree of arrays.
        reference: W₀, the same tree.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax.algorithms import learned_radii
        >>> learned_radii.init(jnp.array([[1.0, 3.0], [1.0, 3.0]]), jnp.zeros((2, 2))).radii.tolist()
        1.0
    """
    radii = jax.tree.map(
        lambda norms: jnp.maximum(norms.min() / 2, projection.SMALLEST_RADIUS), _norms(params, reference)
    )
    return RadiiState(radii, optax.scale_by_adam().init(radii))


def update(
    gradients: Tree, state: RadiiState, params: Tree, reference: Tree, rate: float | jax.Array
) -> RadiiState:
    """One step of Adam.

    Args:
        gradients: of the loss at ``projection.project(params, reference, state.radii)`` for the radii.
        state: before the step.
        params: W̃.
        reference: W₀.
        rate: of Adam, as a share of the largest norm of the array; the published code has one rate for all arrays, in
            the unit of the norms, which are larger the further a training went.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from finetune_jax.algorithms import learned_radii, projection
        >>> trained, start = jnp.ones((2, 1)), jnp.zeros((2, 1))
        >>> loss = lambda radius: ((projection.project(trained, start, radius) - 0.75) ** 2).sum()
        >>> state = learned_radii.init(trained, start)
        >>> for _ in range(200):
        ...     state = learned_radii.update(jax.grad(loss)(state.radii), state, trained, start, 0.01)
        >>> round(float(state.radii), 2)
        1.5
    """
    steps, moments = optax.scale_by_adam().update(gradients, state.moments)

    def learned(radius: jax.Array, step: jax.Array, norms: jax.Array) -> jax.Array:
        longest = jnp.maximum(norms.max(), projection.SMALLEST_RADIUS)
        return jnp.clip(radius - rate * longest * step, projection.SMALLEST_RADIUS, longest)

    radii = jax.tree.map(learned, state.radii, steps, _norms(params, reference))
    return RadiiState(radii, moments)


def kept(params: Tree, reference: Tree, radii: Tree) -> Tree:
    """Share of the movement that the projection keeps, of each array: norms after it over norms before.

    Args:
        params: W̃.
        reference: W₀.
        radii: γ of each array.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax.algorithms import learned_radii
        >>> float(learned_radii.kept(jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2)), 1.0))
        0.5
    """

    def of_array(norms: jax.Array, radius: jax.Array) -> jax.Array:
        total = norms.sum()
        return jnp.where(total > 0, jnp.minimum(norms, radius).sum() / jnp.where(total > 0, total, 1), 1.0)

    return jax.tree.map(of_array, _norms(params, reference), radii)


def _norms(params: Tree, reference: Tree) -> Tree:
    return jax.tree.map(lambda leaf, start: projection.row_norms(leaf - start), params, reference)
