"""Arrays in equal shares over the replicas of a run: the one place that knows what a share looks like.

Zero Redundancy Optimizer, stage 3 (Rajbhandari et al., "ZeRO", SC 2020), known as fully sharded data parallel: of every
array a replica keeps its share alone, :func:`gathered` brings the shares together where the whole array is needed,
and the gradient comes back as the mean over the replicas, again in shares.

An array of ``n`` elements and ``d`` axes is, over ``R`` replicas, ``R`` rows of ``⌈n / R⌉`` elements, zeros behind the
last one. The share of a replica has the shape ``[1, …, 1, ⌈n / R⌉]`` with ``d`` axes, so that what looks at names and
numbers of axes alone (which parameters decay, say) sees no difference. Arrays without axes stay whole.

    >>> import numpy as np
    >>> rows = cut({"kernel": np.arange(6.0).reshape(2, 3), "count": np.array(7)}, 4)
    >>> rows["kernel"].shape, rows["kernel"][:, 0].tolist()
    ((4, 1, 2), [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [0.0, 0.0]])
    >>> joined(rows["kernel"], (2, 3)).tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    >>> axes(rows)
    {'count': None, 'kernel': 0}
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


def share_shape(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Shape of the share of one of ``count`` replicas in an array.

    >>> share_shape((3, 3, 64, 128), 8), share_shape((), 8)
    ((1, 1, 1, 9216), ())
    """
    return (*[1] * (len(shape) - 1), -(-math.prod(shape) // count)) if shape else ()


def cut(tree: Tree, count: int) -> Tree:
    """Host arrays as rows ``[count, 1, …, 1, m]``, the share of each replica in one."""

    def rows(array: Any) -> np.ndarray:
        array = np.asarray(array)
        if not array.ndim:
            return array
        shape = share_shape(array.shape, count)
        filled = np.zeros(count * shape[-1], array.dtype)
        filled[: array.size] = array.reshape(-1)
        return filled.reshape(count, *shape)

    return jax.tree.map(rows, tree)


def joined(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array of ``shape`` whose rows these are, on the host."""
    return np.ascontiguousarray(rows).reshape(-1)[: math.prod(shape)].reshape(shape)


def axes(tree: Tree) -> Tree:
    """For ``Replicas.map``: which arrays of a tree are in shares; of those in shares or whole, and of their shapes."""
    return jax.tree.map(lambda leaf: 0 if np.ndim(leaf) else None, tree)


def gathered(shares: Tree, shapes: Tree, axis_name: str) -> Tree:
    """The whole arrays, inside a function that is mapped over the replicas.

    The gradient of a share is the mean over the replicas of the gradients of what it is a share of.

    Args:
        shares: of this replica.
        shapes: the same tree of anything with the shapes of the whole arrays.
        axis_name: of the mapped axis.
    """
    return jax.tree.map(lambda share, whole: _gathered(tuple(whole.shape), axis_name, share), shares, shapes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gathered(shape: tuple[int, ...], axis_name: str, share: jax.Array) -> jax.Array:
    if not shape:
        return share
    rows = jax.lax.all_gather(share.reshape(-1), axis_name, tiled=True)
    return rows[: math.prod(shape)].reshape(shape)


def _forward(shape: tuple[int, ...], axis_name: str, share: jax.Array) -> tuple[jax.Array, None]:
    return _gathered(shape, axis_name, share), None


def _backward(shape: tuple[int, ...], axis_name: str, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    if not shape:
        return (jax.lax.pmean(gradient, axis_name),)
    replicas = jax.lax.axis_size(axis_name)
    mine = share_shape(shape, replicas)
    flat = gradient.reshape(-1)
    filled = jnp.pad(flat, (0, replicas * mine[-1] - flat.size))
    mean = jax.lax.psum_scatter(filled, axis_name, tiled=True) / replicas
    return (mean.reshape(mine),)


_gathered.defvjp(_forward, _backward)
