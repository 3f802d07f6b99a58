"""Weight variation of AutoLR: how far the kernels of each block moved (Eq. 1), and other measures of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Include = Callable[[tuple[str, ...], Any], bool]
"""``(names on the way from the block to the leaf, leaf) → whether the leaf counts``."""
MEASURES = ("mean", "rms", "relative")
"""``‖Δw‖ / n`` as AutoLR has it (Eq. 1), ``‖Δw‖ / √n``, and ``‖Δw‖ / ‖w‖`` with the weights before."""
_NOT_KERNELS = re.compile("bias|scale|offset|embed|token", re.IGNORECASE)


def block_names(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys ``block_*`` of a tree, by their number: ``block_2`` before ``block_10``.

    The order of the keys themselves does not count: JAX sorts the keys of dictionaries as text.

    Examples:
        >>> from finetune_jax import autolr
        >>> autolr.block_names({"block_10": {}, "block_2": {}, "head": {}})
        ('block_2', 'block_10')
    """

    def by_number(name: str) -> list[Any]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]

    return tuple(sorted((name for name in tree if str(name).startswith("block_")), key=by_number))


def is_kernel(path: tuple[str, ...], leaf: Any) -> bool:
    """Whether a leaf is a weight of a convolution or of a dense layer.

    That is every floating-point leaf called ``kernel``, and every other one with two or more dimensions whose
    name does not speak of a bias, scale, offset, embedding or token.

    Args:
        path: names on the way from the block to the leaf, the leaf's own last.
        leaf: array, or anything with its shape and dtype.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import autolr
        >>> autolr.is_kernel(("conv", "kernel"), np.zeros((3, 3, 8, 8), np.float32))
        True
        >>> autolr.is_kernel(("norm", "scale"), np.zeros(8, np.float32))
        False
    """
    name = path[-1] if path else ""
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return False
    return name == "kernel" or (np.ndim(leaf) >= 2 and not _NOT_KERNELS.search(name))


def weight_variation(
    previous: Mapping[str, Any],
    current: Mapping[str, Any],
    *,
    blocks: Sequence[str] | None = None,
    include: Include = is_kernel,
    measure: str = "mean",
) -> jax.Array:
    """How far the weights of each block moved: ``‖current − previous‖₂ / n``, Eq. 1.

    That falls with the root of the number ``n`` of weights even where each of them moves as far, so a large block
    looks still beside a small one. The other measures do not: the root mean square of the differences, and the
    movement relative to the weights.

    Args:
        previous: ``{block name: tree of arrays}``; other names may stand beside the blocks.
        current: the same later.
        blocks: names in order, or ways into a block such as ``block_1/kernel``; by default those called ``block_*``,
            see `block_names`.
        include: which leaves of a block count, for the norm and for their number ``n`` of elements.
        measure: one of :data:`MEASURES`; the relative movement of weights that were all 0 is infinite.

    Returns:
        ``[K]``. The gradient at weights that have not moved is 0.

    Raises:
        ValueError: no such measure, no blocks, a block is missing, has no leaf that counts, or differs in structure or
            shapes.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import autolr
        >>> before = {"block_01": {"kernel": np.zeros((2, 2))}, "block_02": {"kernel": np.zeros((2, 2))}}
        >>> after = {"block_01": {"kernel": np.full((2, 2), 2.0)}, "block_02": {"kernel": np.zeros((2, 2))}}
        >>> autolr.weight_variation(before, after).tolist()
        [1.0, 0.0]
        >>> autolr.weight_variation(before, after, measure="rms").tolist()
        [2.0, 0.0]
    """
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    if blocks is None:
        names = block_names(current)
        if names != block_names(previous):
            raise ValueError(f"blocks differ: {block_names(previous)} before, {names} after")
        if not names:
            raise ValueError(f"no key is called block_*; give blocks=, out of {sorted(map(str, current))}")
    else:
        names = tuple(blocks)
        if not names:
            raise ValueError("blocks must name at least one block, got none")
    return jnp.stack([_block_variation(name, previous, current, include, measure) for name in names])


def kernel_counts(
    params: Mapping[str, Any], *, blocks: Sequence[str] | None = None, include: Include = is_kernel
) -> np.ndarray:
    """The ``n`` of `weight_variation`: elements of each block that count, int ``[K]``.

    Args:
        params: ``{block name: tree of arrays}``, or of anything with shapes and dtypes.
        blocks: names in order; by default those called ``block_*``.
        include: which leaves of a block count.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import autolr
        >>> autolr.kernel_counts({"block_01": {"kernel": np.zeros((3, 3, 4, 8)), "bias": np.zeros(8)}}).tolist()
        [288]
    """
    names = block_names(params) if blocks is None else tuple(blocks)
    counts = [
        sum(
            math.prod(leaf.shape) for path, leaf in _named_leaves(params[name]).items() if include(path, leaf)
        )
        for name in names
    ]
    return np.array(counts, np.int64)


def accumulated_gradient_norms(
    learning_rates: ArrayLike, variations: ArrayLike, counts: ArrayLike
) -> jax.Array:
    """``‖∇L_acc‖ = n · v / learning rate`` of each block, Eq. 7–8: what of a variation is not due to the rate.

    The ratio of two of them, of passes at different rates from the same start, is γ of the supplement's
    Table 1; Eq. 16 takes it for 1.

    Args:
        learning_rates: ``[K]``; NaN is returned for a rate of 0.
        variations: ``[K]``.
        counts: ``[K]``, see `kernel_counts`.

    Examples:
        >>> from finetune_jax import autolr
        >>> autolr.accumulated_gradient_norms([0.5, 0.25], variations=[1.0, 1.0], counts=[8, 8]).tolist()
        [16.0, 32.0]
    """
    rates, v = per_block(learning_rates, "learning_rates"), per_block(variations, "variations")
    moving = rates != 0
    return jnp.where(moving, _floating(counts) * v / jnp.where(moving, rates, 1), jnp.nan)


def _block_variation(
    name: str, previous: Mapping[str, Any], current: Mapping[str, Any], include: Include, measure: str
) -> jax.Array:
    for when, tree in (("before", previous), ("after", current)):
        if _part(tree, name) is None:
            raise ValueError(f"there is no block {name!r} {when}, only {sorted(map(str, tree))}")
    before, after = _named_leaves(_part(previous, name)), _named_leaves(_part(current, name))
    if list(before) != list(after):
        changed = sorted("/".join(path) for path in before.keys() ^ after.keys())
        raise ValueError(f"block {name!r} does not have the same leaves before and after: {changed}")
    differences, weights = [], []
    for path, leaf in after.items():
        if not include(path, leaf) or np.size(leaf) == 0:
            continue
        if np.shape(before[path]) != np.shape(leaf):
            raise ValueError(
                f"block {name!r}: {'/'.join(path)} has the shape {np.shape(before[path])} before "
                f"and {np.shape(leaf)} after"
            )
        differences.append(_floating(leaf) - _floating(before[path]))
        weights.append(_floating(before[path]))
    if not differences:
        raise ValueError(
            f"block {name!r} has no kernels among {['/'.join(path) for path in after]}; give include="
        )
    count = sum(difference.size for difference in differences)
    moved = _norm(differences)
    if measure == "mean":
        return moved / count
    if measure == "rms":
        return moved / math.sqrt(count)
    length = _norm(weights)
    # Weights of 0 that stay have not moved.
    return moved / jnp.where(moved == 0, 1, length)


def _part(tree: Mapping[str, Any], name: str) -> Any:
    """The part of that name, or what lies on the way that the name is; None where there is neither."""
    if name in tree:
        return tree[name]
    part: Any = tree
    for key in name.split("/"):
        if not isinstance(part, Mapping) or key not in part:
            return None
        part = part[key]
    return part


def _named_leaves(tree: Any) -> dict[tuple[str, ...], Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path): leaf for path, leaf in leaves
    }


def _norm(arrays: Sequence[jax.Array]) -> jax.Array:
    """Euclidean norm of all elements; finite and exact to rounding wherever the elements are."""
    # Squares of differences below 1e-19 do not fit into float32, and a variation of 0 would freeze the rate.
    largest = jax.lax.stop_gradient(jnp.stack([jnp.abs(array).max() for array in arrays]).max())
    is_zero = largest == 0
    scale = jnp.where(is_zero, 1, largest)
    squares = sum(jnp.square(array / scale).sum() for array in arrays)
    return jnp.where(is_zero, 0, scale * jnp.sqrt(jnp.where(is_zero, 1, squares)))


def per_block(values: ArrayLike, name: str) -> jax.Array:
    """A float vector with one value per block.

    Raises:
        ValueError: it has another rank or is empty.
    """
    array = _floating(values)
    if array.ndim != 1 or array.shape[0] == 0:
        raise ValueError(
            f"{name} must be a non-empty array [K], one value per block, got shape {array.shape}"
        )
    return array


def _floating(values: ArrayLike) -> jax.Array:
    array = jnp.asarray(values)
    return array.astype(jnp.float64 if array.dtype == jnp.float64 else jnp.float32)
