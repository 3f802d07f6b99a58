"""Training with less memory: a part keeps its input only, and is computed again for its gradient."""

from collections.abc import Callable
from typing import Any

import jax

Run = Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]]
"""``(variables, x, random streams) → (output, statistics)`` of a part; the streams may be None."""


def rematerialised(run: Run, *, gathers: bool = False) -> Run:
    """``run`` with the same values and gradients, whose backward pass starts from its arguments alone.

    Args:
        run: a part.
        gathers: whether it brings its parameters together from shares, which it then does again.

    Unlike ``jax.checkpoint`` this holds on CPU too: XLA drops optimisation barriers there before it decides the
    order of operations, and would compute everything again early, for more memory than without.
    """

    @jax.custom_vjp
    def function(variables: Any, x: jax.Array, rngs: Any) -> tuple[jax.Array, Any]:
        return run(variables, x, rngs)

    def forward(variables: Any, x: jax.Array, rngs: Any) -> tuple[tuple[jax.Array, Any], Any]:
        return run(variables, x, rngs), (variables, x, rngs)

    def backward(saved: Any, cotangent: tuple[jax.Array, Any]) -> tuple[Any, jax.Array, None]:
        variables, x, rngs = saved
        if gathers:
            variables, x = after(cotangent[0], (variables, x))
        else:
            x = after(cotangent[0], x)
        _, transposed = jax.vjp(lambda variables, x: run(variables, x, rngs), variables, x)
        return (*transposed(cotangent), None)

    function.defvjp(forward, backward)
    return function


def after(signal: jax.Array, tree: Any) -> Any:
    """The arrays of ``tree``, not before ``signal`` is there."""
    signal = jax.lax.stop_gradient(signal)
    if jax.default_backend() == "cpu":
        # A sum that XLA must not simplify, because infinity times zero is none: then training has diverged.
        return jax.tree.map(lambda leaf: leaf + 0 * signal.ravel()[0].astype(leaf.dtype), tree)
    tree, _ = jax.lax.optimization_barrier((tree, signal))
    return tree
