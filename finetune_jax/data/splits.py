"""Which examples are held out. Pure functions of the labels and of an explicit random generator."""

import numpy as np


def stratified_split(
    labels: np.ndarray, fraction: float, *, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a part of every class.

    ``round(fraction · N)`` examples are held out, at least one if `fraction` is positive. Every class
    gives its share; what is left over by rounding down comes from the classes with the largest remainders,
    the first class first among equals. A class keeps one example at least. So the sizes depend on the
    class counts alone, not on `rng`.

    Args:
      labels: int ``[N]``.
      fraction: In ``[0, 1)``.
      rng: Decides which examples of a class are held out.

    Returns:
      Indices of the examples kept and of those held out, both ascending.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"fraction must lie in [0, 1), not {fraction}")
    counts = np.bincount(labels)
    total = round(fraction * len(labels))
    if fraction > 0.0:
        total = max(total, 1)
    shares = _shares(counts, fraction, total)
    # One random number for each example, whatever its class: the classes do not disturb each other.
    order = np.lexsort((rng.random(len(labels)), labels))
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    held_out = np.zeros(len(labels), bool)
    held_out[order] = rank < np.repeat(shares, counts)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _shares(counts: np.ndarray, fraction: float, total: int) -> np.ndarray:
    """How many examples each class gives: largest remainders, never the last example of a class."""
    most = np.maximum(counts - 1, 0)
    exact = fraction * counts
    shares = np.minimum(np.floor(exact).astype(np.int64), most)
    by_remainder = np.argsort(-(exact - shares), kind="stable")
    missing = total - int(shares.sum())
    while missing > 0 and (shares < most).any():
        for label in by_remainder:
            if missing > 0 and shares[label] < most[label]:
                shares[label] += 1
                missing -= 1
    return shares


def num_validation_classes(num_train_classes: int, fraction: float) -> int:
    """How many training classes retrieval holds out for validation.

    Among the images of one class every answer is right, so it takes at least two, or none where fewer than
    two would be left to train on.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"fraction must lie in [0, 1), not {fraction}")
    if fraction == 0.0 or num_train_classes < 4:
        return 0
    return min(max(round(fraction * num_train_classes), 2), num_train_classes - 2)


def class_split(num_classes: int) -> tuple[range, range]:
    """The usual split for retrieval: the first half of the classes trains, the rest tests.

    Args:
      num_classes: At least 4: no part shall be a single class. Of an odd number the test gets one more.

    Returns:
      The classes to train on and those to test with.
    """
    if num_classes < 4:
        raise ValueError(f"a class split needs at least 4 classes, not {num_classes}")
    return range(num_classes // 2), range(num_classes // 2, num_classes)


def hashed_split(
    labels: np.ndarray, fraction: float, *, keys: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out the groups of examples whose key is below `fraction`: no group depends on another.

    Every class keeps one group at least, the one with the largest key. A class none of whose groups has fallen below
    `fraction`, though half a group is its share, gives the one with the smallest key. In these two cases alone can
    another example's coming move an example.

    Args:
      labels: int ``[N]``.
      fraction: In ``[0, 1)``.
      keys: float ``[N]`` in ``[0, 1)``, equal within a group, else independent of each other.
      groups: int ``[N]``, the number of each example's group; examples of a group stay together, whatever their labels.

    Returns:
      Indices of the examples kept and of those held out, both ascending.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"fraction must lie in [0, 1), not {fraction}")
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    group_keys = keys[first]
    held = group_keys < fraction
    members: dict[int, np.ndarray] = {
        int(label): np.unique(group_of[labels == label]) for label in np.unique(labels)
    }
    by_key = {
        label: class_groups[np.argsort(group_keys[class_groups], kind="stable")]
        for label, class_groups in members.items()
    }
    for class_groups in by_key.values():
        if held[class_groups].all():
            held[class_groups[-1]] = False
    if fraction > 0.0:
        for class_groups in by_key.values():
            if not held[class_groups].any() and fraction * len(class_groups) >= 0.5:
                _give_first(class_groups, held, by_key)
        if not held.any():
            everything = np.argsort(group_keys, kind="stable")
            _give_first(everything, held, by_key)
    held_out = held[group_of]
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _give_first(candidates: np.ndarray, held: np.ndarray, by_key: dict[int, np.ndarray]) -> None:
    """Holds out the first group that is not the last one a class has."""
    for group in candidates:
        if all((~held[class_groups]).sum() > 1 for class_groups in by_key.values() if group in class_groups):
            held[group] = True
            return
