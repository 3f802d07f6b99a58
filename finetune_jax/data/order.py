"""Which examples make up which batch: index arrays, computed on the host from explicit seeds."""

from collections.abc import Sequence

import numpy as np

BLOCK = 64
"""Images that lie beside each other in a large shard and are read within the same while."""
_WINDOW = 256 * BLOCK
_WHOLE = 4 * _WINDOW
_SHARDS_STREAM = 0x5AAD


def training_order(
    count: int, batch_size: int, *, seed: int, epoch: int, balance: np.ndarray | None = None
) -> np.ndarray:
    """Indices of one epoch of training batches.

    Args:
        count: number of examples.
        batch_size: at most ``count``.
        seed: of the run.
        epoch: every epoch has its own order.
        balance: labels ``[count]``; given them, classes are drawn equally often (with repetition of the
            rarer ones) instead of every example once.

    Returns:
        int32 ``[count // batch_size, batch_size]``; the examples left over differ from epoch to epoch.

    Raises:
        ValueError: fewer examples than one batch.
    """
    if count < batch_size:
        raise ValueError(f"{count} examples do not fill a batch of {batch_size}")
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = rng.permutation(count) if balance is None else _balanced(rng, balance)
    steps = count // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def evaluation_order(count: int, batch_size: int) -> np.ndarray:
    """Indices of all examples in sequence, int32 ``[ceil(count / batch_size), batch_size]``.

    The last batch is filled up with example 0; callers keep the first ``count`` results.
    """
    steps = -(-count // batch_size)
    order = np.zeros(steps * batch_size, np.int32)
    order[:count] = np.arange(count)
    return order.reshape(steps, batch_size)


def rows_of_shards(count: int, shards: int) -> list[np.ndarray]:
    """The examples of each shard of a split, int32, in the order in which the shard keeps them.

    Drawn at random and always the same: data sets are sorted by class. Shards differ by one example at most.

    Args:
        count: number of examples.
        shards: their number.
    """
    rng = np.random.Generator(np.random.Philox(key=[_SHARDS_STREAM, count]))
    order = rng.permutation(count).astype(np.int32)
    return [order[shard::shards] for shard in range(shards)]


def training_order_of_shards(
    rows: Sequence[np.ndarray], batch_size: int, *, seed: int, epoch: int
) -> np.ndarray:
    """:func:`training_order` with an order of its own within each shard; the batch takes its columns from one after
    the other.

    Of shards above 65,536 examples blocks of 64 neighbours are shuffled, then the examples within windows of 256
    blocks: within a while only these are read.

    Args:
        rows: examples of each shard.
        batch_size: a multiple of the number of shards.
        seed: of the run.
        epoch: every epoch has its own order.

    Returns:
        int32 ``[steps, batch_size]``.

    Raises:
        ValueError: the shards cannot share a batch, or one has not enough examples for its share of one.
    """
    width, left = divmod(batch_size, len(rows))
    steps = 0 if left else min(map(len, rows)) // width
    if not steps:
        raise ValueError(
            f"{sum(map(len, rows))} examples in {len(rows)} shards do not fill a batch of {batch_size}"
        )
    columns = []
    for shard, indices in enumerate(rows):
        # The high word of the counter: streams of shards and that of no shards never meet.
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, 1 + shard]))
        drawn = indices[_shuffled(rng, len(indices))]
        columns.append(drawn[: steps * width].reshape(steps, width))
    return np.concatenate(columns, axis=1).astype(np.int32)


def _shuffled(rng: np.random.Generator, count: int) -> np.ndarray:
    if count <= _WHOLE:
        return rng.permutation(count)
    blocks = rng.permutation(-(-count // BLOCK))
    order = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    order = order[order < count]
    for start in range(0, count, _WINDOW):
        rng.shuffle(order[start : start + _WINDOW])
    return order


def evaluation_order_of_shards(rows: Sequence[np.ndarray], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """All examples in batches that take their columns from one shard after the other.

    Args:
        rows: examples of each shard; together ``0 … N - 1``.
        batch_size: a multiple of the number of shards.

    Returns:
        Indices int32 ``[steps, batch_size]``, shards that are shorter being filled up with their first example; and
        whether each place is no filling, bool of that shape.
    """
    width = batch_size // len(rows)
    steps = -(-max(map(len, rows)) // width)
    order = np.zeros((steps, len(rows), width), np.int32)
    real = np.zeros(order.shape, bool)
    for shard, indices in enumerate(rows):
        # A shard without an example has no place that counts; any index does.
        filled = np.full(steps * width, indices[0] if len(indices) else rows[0][0], np.int32)
        filled[: len(indices)] = indices
        order[:, shard] = filled.reshape(steps, width)
        real[:, shard] = (np.arange(steps * width) < len(indices)).reshape(steps, width)
    return order.reshape(steps, -1), real.reshape(steps, -1)


def _balanced(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """As many indices as labels, each class within one of the same number, in random order."""
    classes = np.unique(labels)
    shares = np.full(len(classes), len(labels) // len(classes))
    shares[rng.permutation(len(classes))[: len(labels) - shares.sum()]] += 1
    drawn = []
    for label, share in zip(classes, shares, strict=True):
        members = np.flatnonzero(labels == label)
        rounds = [rng.permutation(members) for _ in range(-(-share // len(members)))]
        drawn.append(np.concatenate(rounds)[:share])
    return rng.permutation(np.concatenate(drawn))
