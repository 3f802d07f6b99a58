"""Image retrieval: nearest neighbours by cosine similarity, Recall@k and MAP@R.

Features are ``[N, D]``, one row per image; labels are ``[N]``, of any type that NumPy compares. Rows are
L2-normalised here, so the scale of a feature never matters. Without a gallery every image is searched for
among all others: the query itself is left out by its index, hence a copy of it elsewhere is a neighbour.

The search is exact and never holds an N×N matrix. Similarities are computed tile by tile, every tile of one
fixed shape, so that a pair gets the same bits wherever it stands and whatever ``chunk_size`` is; exact ties
go to the lower gallery index.
"""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# The shape of every tile of similarities (16 MiB). Wide, since one top_k over a wide row costs far less than
# many over narrow ones.
_QUERY_TILE = 512
_GALLERY_TILE = 8192


def normalise(features: ArrayLike) -> jax.Array:
    """Rows of unit Euclidean length; a row of zeros stays zero, and its gradient is finite.

    Args:
      features: ``[..., D]``.

    Returns:
      ``[..., D]``, float32, or float64 for float64.

    Examples:
        >>> from finetune_jax import retrieval
        >>> retrieval.normalise([[0.0, 4.0], [0.0, 0.0]]).tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    features = jnp.asarray(features)
    features = features.astype(_precision(features.dtype))
    # Divided by the largest entry first: squares of 1e30 or of 1e-30 do not fit into float32.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(features), axis=-1, keepdims=True))
    is_zero = largest == 0
    scaled = features / jnp.where(is_zero, 1, largest)
    squares = jnp.sum(scaled**2, axis=-1, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(is_zero, 1, squares))


def nearest(
    queries: ArrayLike,
    k: int,
    *,
    gallery: ArrayLike | None = None,
    chunk_size: int = 4096,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most similar gallery rows of every query, most similar first.

    Args:
      queries: ``[Q, D]``.
      k: neighbours per query; more than the gallery holds means all of it.
      gallery: ``[G, D]``, or None to search among the other queries.
      chunk_size: queries handed to a device at a time, rounded up to whole tiles of 512. A matter of memory
        (a tile of 512 × (8192 + k) similarities, ``chunk_size * k`` results), never of the result.
      devices: where the chunks go, in turns, each device holding the whole gallery; all local ones if None.

    Returns:
      Indices into the gallery and cosine similarities, both ``[Q, min(k, G)]``, or ``[Q, min(k, Q - 1)]``
      without a gallery. A row of zeros has similarity 0 to everything.

    Raises:
      ValueError: shapes do not fit, an input is empty or not finite, ``k`` or ``chunk_size`` is below 1.

    Examples:
        >>> from finetune_jax import retrieval
        >>> features = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.8]]
        >>> indices, similarities = retrieval.nearest(features, k=1)
        >>> indices[:, 0].tolist()
        [1, 0, 3, 2]
    """
    chunks = list(_nearest_chunks(queries, k, gallery, chunk_size, devices))
    indices, similarities = zip(*chunks, strict=True)
    return np.concatenate(indices), np.concatenate(similarities)


def recall_at_k(
    queries: ArrayLike,
    query_labels: ArrayLike,
    ks: Sequence[int] | int = (1, 2, 4, 8),
    *,
    gallery: ArrayLike | None = None,
    gallery_labels: ArrayLike | None = None,
    chunk_size: int = 4096,
    devices: Sequence[jax.Device] | None = None,
) -> dict[int, float]:
    """Share of queries with at least one image of their class among the ``k`` nearest.

    As in the retrieval papers every query counts, one without any other image of its class in the gallery as a miss:
    where only 20 of 50 queries can be found at all, the recall is at most 0.4. A ``k`` beyond the gallery considers all
    of it.

    Args:
      queries: ``[Q, D]``.
      query_labels: ``[Q]``.
      ks: numbers of neighbours, each at least 1; a single number is fine.
      gallery: ``[G, D]``, or None to search among the other queries.
      gallery_labels: ``[G]``, together with ``gallery``.
      chunk_size: see `nearest`.
      devices: see `nearest`.

    Returns:
      ``{k: recall in [0, 1]}`` in the order of ``ks``.

    Raises:
      ValueError: as in `nearest`; labels do not fit; ``ks`` is empty.

    Examples:
        >>> from finetune_jax import retrieval
        >>> features = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.8]]
        >>> retrieval.recall_at_k(features, ["cat", "cat", "dog", "cat"], ks=(1, 3))
        {1: 0.5, 3: 0.75}
    """
    ks = (ks,) if isinstance(ks, int) else ks
    if len(ks) == 0:
        raise ValueError("ks must name at least one number of neighbours, got none")
    if min(ks) < 1:
        raise ValueError(f"every k must be at least 1, got ks={tuple(ks)}")
    query_labels, gallery_labels = _checked_labels(queries, query_labels, gallery, gallery_labels)
    hits = dict.fromkeys(ks, 0)
    start = 0
    for indices, _ in _nearest_chunks(queries, max(ks), gallery, chunk_size, devices):
        correct = gallery_labels[indices] == query_labels[start : start + len(indices), None]
        for k in hits:
            hits[k] += int(correct[:, :k].any(axis=1).sum())
        start += len(indices)
    return {int(k): count / len(query_labels) for k, count in hits.items()}


def map_at_r(
    queries: ArrayLike,
    query_labels: ArrayLike,
    *,
    gallery: ArrayLike | None = None,
    gallery_labels: ArrayLike | None = None,
    chunk_size: int = 4096,
    devices: Sequence[jax.Device] | None = None,
) -> float:
    """Mean average precision at R (Musgrave et al., "A Metric Learning Reality Check", arXiv:2003.08505).

    ``R`` is the number of gallery images of the query's class, the query itself left out. A query scores
    ``1/R · Σ_{i ≤ R} [neighbour i is correct] · (correct ones among the first i) / i``. A query with
    ``R = 0`` scores 0, as it is a miss in `recall_at_k`.

    Args:
      queries: ``[Q, D]``.
      query_labels: ``[Q]``.
      gallery: ``[G, D]``, or None to search among the other queries.
      gallery_labels: ``[G]``, together with ``gallery``.
      chunk_size: see `nearest`.
      devices: see `nearest`.

    Returns:
      Mean over all queries, in [0, 1].

    Raises:
      ValueError: as in `nearest`; labels do not fit.

    Examples:
        >>> from finetune_jax import retrieval
        >>> features = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.8]]
        >>> retrieval.map_at_r(features, ["cat", "cat", "dog", "dog"])
        1.0
    """
    chunks = _average_precisions(queries, query_labels, gallery, gallery_labels, chunk_size, devices)
    total, count = 0.0, 0
    for values in chunks:
        total += float(values.sum())
        count += len(values)
    return total / count


def average_precisions(
    queries: ArrayLike,
    query_labels: ArrayLike,
    *,
    gallery: ArrayLike | None = None,
    gallery_labels: ArrayLike | None = None,
    chunk_size: int = 4096,
    devices: Sequence[jax.Device] | None = None,
) -> np.ndarray:
    """The score of each query of which `map_at_r` is the mean, float64 ``[Q]``; arguments and errors as there.

    Examples:
        >>> from finetune_jax import retrieval
        >>> features = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.8]]
        >>> retrieval.average_precisions(features, ["cat", "cat", "dog", "cat"]).round(2).tolist()
        [1.0, 1.0, 0.0, 0.25]
    """
    chunks = _average_precisions(queries, query_labels, gallery, gallery_labels, chunk_size, devices)
    return np.concatenate(list(chunks))


def _average_precisions(
    queries: ArrayLike,
    query_labels: ArrayLike,
    gallery: ArrayLike | None,
    gallery_labels: ArrayLike | None,
    chunk_size: int,
    devices: Sequence[jax.Device] | None,
) -> Iterator[np.ndarray]:
    query_labels, labels = _checked_labels(queries, query_labels, gallery, gallery_labels)
    counts = Counter(labels.tolist())
    relevant = np.array([counts[label] for label in query_labels.tolist()], int) - (gallery is None)
    start = 0
    # At least one neighbour, even where no query has a partner: bad features must not pass unseen.
    most = int(relevant.max(initial=1))
    for indices, _ in _nearest_chunks(queries, most, gallery, chunk_size, devices):
        rows = slice(start, start + len(indices))
        position = np.arange(1, indices.shape[1] + 1)
        correct = (labels[indices] == query_labels[rows, None]) & (position <= relevant[rows, None])
        precision = np.cumsum(correct, axis=1) / position
        yield (precision * correct).sum(axis=1) / np.maximum(relevant[rows], 1)
        start += len(indices)


def _nearest_chunks(
    queries: ArrayLike,
    k: int,
    gallery: ArrayLike | None,
    chunk_size: int,
    devices: Sequence[jax.Device] | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields `nearest` of consecutive chunks of queries, in order."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    queries = _checked_features(queries, "queries")
    targets = queries if gallery is None else _checked_features(gallery, "gallery")
    if queries.shape[1] != targets.shape[1]:
        raise ValueError(
            f"queries and gallery must have the same width, got {queries.shape[1]} and {targets.shape[1]}"
        )
    k = min(k, len(targets) - (gallery is None))
    if k == 0:  # one image, searched for among no others
        yield np.zeros((1, 0), np.int32), np.zeros((1, 0), queries.dtype)
        return

    devices = devices or jax.local_devices()
    chunk_size = _round_up(min(chunk_size, len(queries)), _QUERY_TILE)
    chunk_count = -(-len(queries) // chunk_size)
    tiles = _padded(targets, _round_up(len(targets), _GALLERY_TILE))
    tiles = tiles.reshape(-1, _GALLERY_TILE, tiles.shape[1])
    galleries = [_normalise(jax.device_put(tiles, device)) for device in devices[:chunk_count]]
    pending: deque[tuple[int, tuple[jax.Array, jax.Array]]] = deque()
    for number in range(chunk_count):
        chunk = queries[number * chunk_size : (number + 1) * chunk_size]
        # No gallery row has index -1, so nothing is left out of a separate gallery.
        excluded_indices = np.full(chunk_size, -1, np.int32)
        if gallery is None:
            excluded_indices = np.arange(chunk_size, dtype=np.int32) + number * chunk_size
        device = devices[number % len(devices)]
        inputs = jax.device_put((_padded(chunk, chunk_size), excluded_indices), device)
        result = _search(*inputs, galleries[number % len(devices)], len(targets), k=k)
        pending.append((len(chunk), result))
        if len(pending) > len(devices):  # every device has its next chunk before the oldest is waited for
            yield _on_host(*pending.popleft())
    while pending:
        yield _on_host(*pending.popleft())


@functools.partial(jax.jit, static_argnames="k")
def _search(
    queries: jax.Array, excluded_indices: jax.Array, gallery: jax.Array, gallery_size: jax.Array, *, k: int
) -> tuple[jax.Array, jax.Array]:
    """Indices and similarities ``[Q, k]`` of the nearest rows of a normalised, tiled gallery.

    Args:
      queries: ``[Q, D]``, ``Q`` a multiple of the tile.
      excluded_indices: ``[Q]``, the gallery row that a query must not find.
      gallery: ``[T, tile, D]``; rows from ``gallery_size`` on are padding.
      gallery_size: scalar.
      k: at most the number of rows that may be found.
    """

    def search_tile(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        rows, excluded = normalise(inputs[0]), inputs[1]

        def merge(
            best: tuple[jax.Array, jax.Array], numbered_tile: tuple[jax.Array, jax.Array]
        ) -> tuple[tuple[jax.Array, jax.Array], None]:
            best_indices, best_similarities = best
            number, tile = numbered_tile
            # HIGHEST, or accelerators would round the features to bfloat16 or TensorFloat-32.
            similarities = jax.lax.dot_general(
                rows, tile, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST
            )
            similarities = jnp.where(similarities == 0, 0, similarities)  # top_k sorts -0.0 below 0.0
            columns = (number * _GALLERY_TILE + jnp.arange(_GALLERY_TILE, dtype=jnp.int32))[None, :]
            may_be_found = (columns < gallery_size) & (columns != excluded[:, None])
            similarities = jnp.where(may_be_found, similarities, -jnp.inf)
            # Earlier tiles go in front: top_k gives ties to the lower position, hence to the lower index.
            candidates = jnp.concatenate([best_similarities, similarities], axis=1)
            best_similarities, position = jax.lax.top_k(candidates, k)
            kept = jnp.take_along_axis(best_indices, jnp.minimum(position, k - 1), axis=1)
            best_indices = jnp.where(position < k, kept, number * _GALLERY_TILE + position - k)
            return (best_indices, best_similarities), None

        nothing = (
            jnp.full((_QUERY_TILE, k), -1, jnp.int32),
            jnp.full((_QUERY_TILE, k), -jnp.inf, rows.dtype),
        )
        best, _ = jax.lax.scan(merge, nothing, (jnp.arange(len(gallery), dtype=jnp.int32), gallery))
        return best

    tiled = (queries.reshape(-1, _QUERY_TILE, queries.shape[1]), excluded_indices.reshape(-1, _QUERY_TILE))
    indices, similarities = jax.lax.map(search_tile, tiled)
    return indices.reshape(-1, k), similarities.reshape(-1, k)


_normalise = jax.jit(normalise)


def _precision(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _on_host(size: int, result: tuple[jax.Array, jax.Array]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(result[0])[:size], np.asarray(result[1])[:size]


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _padded(features: np.ndarray, size: int) -> np.ndarray:
    return np.pad(features, ((0, size - len(features)), (0, 0)))


def _checked_features(features: ArrayLike, name: str) -> np.ndarray:
    """Features on the host, where chunks are cut from them, in the precision of the search."""
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} must be a non-empty [images, features] array, got shape {features.shape}")
    features = features.astype(_precision(jax.dtypes.canonicalize_dtype(features.dtype)), copy=False)
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in row {int(finite.argmin())}")
    return features


def _checked_labels(
    queries: ArrayLike, query_labels: ArrayLike, gallery: ArrayLike | None, gallery_labels: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the queries and of what is searched."""
    if (gallery is None) != (gallery_labels is None):
        present, missing = ("gallery_labels", "gallery") if gallery is None else ("gallery", "gallery_labels")
        raise ValueError(f"gallery and gallery_labels go together, got {present} without {missing}")
    query_labels = np.asarray(query_labels)
    if query_labels.shape != np.shape(queries)[:1]:
        raise ValueError(
            f"query_labels must hold one label per query, got shape {query_labels.shape} for queries "
            f"of shape {np.shape(queries)}"
        )
    if gallery is None or gallery_labels is None:
        return query_labels, query_labels
    gallery_labels = np.asarray(gallery_labels)
    if gallery_labels.shape != np.shape(gallery)[:1]:
        raise ValueError(
            f"gallery_labels must hold one label per gallery row, got shape {gallery_labels.shape} for a "
            f"gallery of shape {np.shape(gallery)}"
        )
    return query_labels, gallery_labels
