"""Learning rates that differ from part to part by a rule, the usual alternatives to AutoLR.

Parts are given in network order, the one nearest to the input first. Two of the rules are geometric: over ``P`` parts,
``layer_decay`` with ``d`` is ``discriminative`` with the ratio ``d ** (1 − P)``.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike


def layer_decay(
    parts: Sequence[str], learning_rate: float, decay: float, together: Collection[str] = ()
) -> dict[str, float]:
    """``learning_rate`` at the top and ``decay`` times the rate of the next higher part elsewhere.

    As timm's ``--layer-decay``, with a block as a layer; Clark et al., "ELECTRA" (ICLR 2020).

    Args:
        parts: names, the top one last.
        learning_rate: of the top part.
        decay: in (0, 1]; 1 is one rate for all.
        together: parts that count as one layer with the part below them.

    Raises:
        ValueError: ``decay`` is out of range.

    Examples:
        >>> from finetune_jax import block_rates
        >>> block_rates.layer_decay(("stem", "block_01", "head"), 1.0, decay=0.5)
        {'stem': 0.25, 'block_01': 0.5, 'head': 1.0}
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1], got {decay}")
    layers = list(itertools.accumulate(0 if name in together else 1 for name in parts))
    return {
        name: learning_rate * decay ** (layers[-1] - layer) for name, layer in zip(parts, layers, strict=True)
    }


def discriminative(parts: Sequence[str], learning_rate: float, ratio: float) -> dict[str, float]:
    """``learning_rate`` at the top, ``learning_rate / ratio`` at the bottom, geometric in between.

    As fastai's ``slice(learning_rate / ratio, learning_rate)``, with a block as a layer group; Howard and
    Ruder, "ULMFiT" (ACL 2018).

    Args:
        parts: names, the top one last; a single one has ``learning_rate``.
        learning_rate: of the top part.
        ratio: at least 1; 1 is one rate for all.

    Raises:
        ValueError: ``ratio`` is out of range.

    Examples:
        >>> from finetune_jax import block_rates
        >>> block_rates.discriminative(("stem", "block_01", "head"), 1.0, ratio=4.0)
        {'stem': 0.25, 'block_01': 0.5, 'head': 1.0}
    """
    if ratio < 1:
        raise ValueError(f"ratio must be at least 1, got {ratio}")
    last = max(len(parts) - 1, 1)
    return {name: learning_rate * ratio ** ((i - len(parts) + 1) / last) for i, name in enumerate(parts)}


def relative_gradients(movements: ArrayLike, learning_rates: ArrayLike) -> np.ndarray:
    """Auto-RGN's factors: accumulated gradients relative to the weights, the largest of them 1.

    Lee et al., "Surgical Fine-Tuning" (ICLR 2023).

    Args:
        movements: ``[K]``, ``‖Δw‖ / ‖w‖`` of each block after steps of SGD.
        learning_rates: ``[K]`` of these steps, in any unit; a block with the rate 0 gets the factor 0.

    Returns:
        float ``[K]`` in [0, 1]; ones where no block moved or a movement is not finite.

    Raises:
        ValueError: shapes differ.

    Examples:
        >>> from finetune_jax import block_rates
        >>> block_rates.relative_gradients([0.5, 0.25, 1.0], [1.0, 1.0, 0.5]).tolist()
        [0.25, 0.125, 1.0]
    """
    moved, rates = np.asarray(movements, np.float64), np.asarray(learning_rates, np.float64)
    if moved.shape != rates.shape or moved.ndim != 1:
        raise ValueError(
            f"there must be one movement and one rate per block, got {moved.shape}, {rates.shape}"
        )
    gradients = np.divide(moved, rates, out=np.zeros_like(moved), where=rates != 0)
    largest = gradients.max(initial=0.0)
    if not np.isfinite(gradients).all() or largest == 0:
        return np.ones_like(moved)
    return gradients / largest


def signal_to_noise(sums: ArrayLike, squares: ArrayLike, count: int) -> np.ndarray:
    """Squared mean of the gradients of some batches over their variance, of each block as a whole.

    Lee et al., "Surgical Fine-Tuning" (ICLR 2023), take ``mean² / variance`` of each element and average it. Of a few
    batches that is dominated by the elements that hardly vary, so numerator and denominator are summed first.

    Args:
        sums: ``[K]``, squared norm of the sum of the gradients, ``‖Σ g‖²``.
        squares: ``[K]``, sum of their squared norms, ``Σ ‖g‖²``.
        count: of the batches.

    Returns:
        float ``[K]``; 0 where there is no gradient or of fewer than two batches, infinite where all are the same.

    Examples:
        >>> from finetune_jax import block_rates
        >>> block_rates.signal_to_noise([16.0, 4.0], [10.0, 10.0], count=2).tolist()  # gradients 1, 3 and −1, 3
        [2.0, 0.125]
    """
    summed, squared = np.asarray(sums, np.float64), np.asarray(squares, np.float64)
    if count < 2:
        return np.zeros_like(summed)
    means = summed / count**2
    variances = np.maximum(squared - summed / count, 0.0) / (count - 1)
    certain = np.where(means > 0, np.inf, 0.0)
    return np.divide(means, variances, out=certain, where=variances > 0)


def clear_gradients(ratios: ArrayLike, threshold: float) -> np.ndarray:
    """Auto-SNR's factors: 1 where the gradient is clear beside the clearest of all, 0 elsewhere.

    Lee et al., "Surgical Fine-Tuning" (ICLR 2023).

    Args:
        ratios: ``[K]`` of :func:`signal_to_noise`.
        threshold: share of the largest ratio, in [0, 1].

    Returns:
        float ``[K]`` of zeros and ones; ones where no ratio is above 0 or one is not a number.

    Raises:
        ValueError: ``threshold`` is out of range.

    Examples:
        >>> from finetune_jax import block_rates
        >>> block_rates.clear_gradients([0.1, 0.8, 1.0], threshold=0.5).tolist()
        [0.0, 1.0, 1.0]
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    values = np.asarray(ratios, np.float64)
    largest = values.max(initial=0.0)
    if np.isnan(values).any() or largest == 0:
        return np.ones_like(values)
    if np.isinf(largest):
        return np.isinf(values).astype(np.float64)
    return (values >= threshold * largest).astype(np.float64)
