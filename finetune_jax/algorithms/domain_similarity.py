"""How alike two data sets are: Earth Mover's Distance between their classes.

Sources: Cui et al., "Large scale fine-grained categorization and domain-specific transfer learning" (CVPR
2018), section 4.1; Li et al., "Rethinking the Hyperparameters for Fine-tuning" (ICLR 2020), appendix B.
Distances are in the unit of the features, so only those from the same network compare.
"""

import os
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SIMPLEX_ITERATIONS = 100_000_000  # no limit in practice: an answer short of the optimum would be a wrong one


def class_means(features: jax.Array, labels: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Mean feature of every class and the share of images it holds.

    Args:
        features: ``[N, D]``, pooled output of the last block.
        labels: ``[N]`` integers; one outside ``[0, num_classes)`` (such as −1 in padding) leaves its row out.
        num_classes: ``C``, static under ``jax.jit``.

    Returns:
        Means ``[C, D]`` and weights ``[C]`` with sum 1, at least float32. A class without images has mean 0 and
        weight 0; without any image all weights are 0.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import domain_similarity
        >>> features = jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0], [0.0, 4.0]])
        >>> means, weights = domain_similarity.class_means(features, jnp.array([0, 0, 1, 1]), num_classes=2)
        >>> means.tolist(), weights.tolist()
        ([[2.0, 0.0], [0.0, 4.0]], [0.5, 0.5])
    """
    return means_and_weights(*class_sums(features, labels, num_classes))


def class_sums(features: jax.Array, labels: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Sums ``[C, D]`` and int32 counts ``[C]`` behind :func:`class_means`.

    Those of several batches may be added, so that the features of a large data set need not be held at once.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import domain_similarity
        >>> sums, counts = domain_similarity.class_sums(jnp.array([[1.0], [3.0], [4.0]]), jnp.array([0, 0, 1]), 2)
        >>> sums.tolist(), counts.tolist()
        ([[4.0], [4.0]], [2, 1])
    """
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features must be [N, D] and labels [N], not {features.shape} and {labels.shape}")
    if num_classes < 1:
        raise ValueError(f"there must be at least one class, not {num_classes}")
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    sums = jax.ops.segment_sum(features, labels, num_classes)
    counts = jax.ops.segment_sum(jnp.ones(labels.shape, jnp.int32), labels, num_classes)
    return sums, counts


def means_and_weights(sums: jax.Array, counts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means ``[C, D]`` and weights ``[C]`` of (added) :func:`class_sums`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import domain_similarity
        >>> means, weights = domain_similarity.means_and_weights(jnp.array([[4.0], [4.0]]), jnp.array([2, 2]))
        >>> means.tolist(), weights.tolist()
        ([[2.0], [2.0]], [0.5, 0.5])
    """
    filled = jnp.maximum(counts, 1).astype(sums.dtype)
    total = jnp.maximum(counts.sum(), 1).astype(sums.dtype)
    return sums / filled[:, None], counts.astype(sums.dtype) / total


def earth_movers_distance(
    source_means: Any, source_weights: Any, target_means: Any, target_weights: Any
) -> float:
    """Exact Earth Mover's Distance with Euclidean ground distance.

    Least total of mass times distance that turns one weighted set of points into the other, both of mass 1.
    Runs on the host in float64 (network simplex), not under ``jax.jit``.

    Args:
        source_means: ``[S, D]``.
        source_weights: ``[S]``, not negative; only their proportions count. Points of weight 0 are left out.
        target_means: ``[T, D]``.
        target_weights: ``[T]``, likewise.

    Returns:
        The distance, in the unit of the means.

    Raises:
        ValueError: shapes that do not fit, negative or non-finite weights, all weights 0, or non-finite means.

    Examples:
        >>> from finetune_jax import domain_similarity
        >>> domain_similarity.earth_movers_distance([[0.0], [1.0]], [1, 1], [[3.0], [1.0]], [1, 1])
        1.5
    """
    from scipy.spatial.distance import cdist

    source, source_weights = _weighted_points("source", source_means, source_weights)
    target, target_weights = _weighted_points("target", target_means, target_weights)
    if source.shape[1] != target.shape[1]:
        raise ValueError(f"source means have {source.shape[1]} features, target means {target.shape[1]}")
    # Differences first: the cheaper |x|² − 2xy + |y|² cancels where the points are close.
    distances = cdist(source, target)
    cost, log = _optimal_transport().emd2(
        source_weights, target_weights, distances, numItermax=_SIMPLEX_ITERATIONS, log=True
    )
    if log["warning"]:
        raise RuntimeError(f"optimal transport found no optimum: {log['warning']}")
    return float(cost)


def similarity(distance: float | jax.Array, gamma: float = 0.01) -> jax.Array:
    """``exp(−γ · distance)``, in (0, 1]; 1 for equal domains.

    Examples:
        >>> from finetune_jax import domain_similarity
        >>> round(float(domain_similarity.similarity(20.0, gamma=0.01)), 4)
        0.8187
    """
    return jnp.exp(-gamma * jnp.asarray(distance))


def _weighted_points(name: str, means: Any, weights: Any) -> tuple[np.ndarray, np.ndarray]:
    means, weights = np.asarray(means, np.float64), np.asarray(weights, np.float64)
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        raise ValueError(
            f"{name} means must be [C, D] and weights [C], not {list(means.shape)} and {list(weights.shape)}"
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(f"{name} weights must be finite, not negative and not all 0, not {weights}")
    means, weights = means[weights > 0], weights[weights > 0]
    if not np.isfinite(means).all():
        raise ValueError(f"{name} means must be finite")
    return means, weights / weights.sum()


def _optimal_transport() -> ModuleType:
    """POT, imported without the array libraries it would import for itself (torch alone costs seconds)."""
    switches = {f"POT_BACKEND_DISABLE_{name}": "1" for name in ("CUPY", "JAX", "PYTORCH", "TENSORFLOW")}
    before = {name: os.environ.get(name) for name in switches}
    os.environ.update(switches)
    try:
        import ot
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return ot
