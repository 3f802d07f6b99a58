"""Penalties on the parameters."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def l2_sp(
    params: Mapping[str, Any],
    reference: Mapping[str, Any],
    shared: Collection[str],
    lambda_shared: float | jax.Array,
    lambda_novel: float | jax.Array,
) -> jax.Array:
    """L2-SP: ``½ λ1 ‖θ′ − θ0‖² + ½ λ2 ‖θ″‖²``.

    ``θ′`` are all parameters of the shared parts, those of norms included, ``θ0`` their values in the
    pretrained network, ``θ″`` the parameters of all other parts. The gradient is ``λ1 (θ′ − θ0)`` and ``λ2 θ″``.

    Sources: Li et al., "Explicit inductive bias for transfer learning with convolutional networks" (ICML
    2018); Li et al., "Rethinking the Hyperparameters for Fine-tuning" (ICLR 2020), section 3.4.

    Args:
        params: ``{part: tree}``.
        reference: ``{part: tree}``, pretrained; parts that are not shared are ignored.
        shared: names of parts in both.
        lambda_shared: λ1.
        lambda_novel: λ2.

    Returns:
        Scalar.

    Raises:
        ValueError: a shared part is missing on either side, or its leaves differ in name or shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import regularizers
        >>> params = {"block_01": jnp.array([1.0, 3.0]), "head": jnp.array([2.0])}
        >>> pretrained = {"block_01": jnp.array([1.0, 1.0])}
        >>> float(regularizers.l2_sp(params, pretrained, ("block_01",), lambda_shared=0.5, lambda_novel=0.25))
        1.5
    """
    for owner, tree in (("parameters", params), ("reference", reference)):
        missing = sorted(set(shared) - set(tree))
        if missing:
            raise ValueError(f"the {owner} lack the shared parts {missing}; they have {sorted(tree)}")
    for name in shared:
        _check_equal_shapes(name, params[name], reference[name])
    novel = {name: tree for name, tree in params.items() if name not in shared}
    moved = {name: jax.tree.map(jnp.subtract, params[name], reference[name]) for name in shared}
    penalty = 0.5 * lambda_shared * _squared_norm(moved) + 0.5 * lambda_novel * _squared_norm(novel)
    return jnp.asarray(penalty)


def _squared_norm(tree: Any) -> jax.Array | int:
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))


def _check_equal_shapes(name: str, ours: Any, theirs: Any) -> None:
    shapes = [
        {name + jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (ours, theirs)
    ]
    differing = [
        leaf for leaf in sorted({*shapes[0], *shapes[1]}) if shapes[0].get(leaf) != shapes[1].get(leaf)
    ]
    if differing:
        sides = [
            f"{leaf} {shapes[0].get(leaf, 'missing')} and {shapes[1].get(leaf, 'missing')}"
            for leaf in differing
        ]
        raise ValueError(f"shared parameters and reference differ in shape: {'; '.join(sides)}")
