"""Which examples make up which batch: index arrays, computed on the host from explicit seeds."""

import numpy as np


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
