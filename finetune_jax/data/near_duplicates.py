"""Images that are one photograph: equal, saved again, at another size, a little lighter.

An image is compared by a miniature of 9 × 8 grey values. The signs of the horizontal differences of the miniature are
its 64-bit difference hash (dHash), by which candidates are found; they are near-duplicates where the miniatures agree
too. A library for the hash alone (imagehash) would bring PyWavelets for the eight lines that it saves, and neither
the comparison, without which plain images are all alike, nor the search.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from PIL import Image
from scipy import sparse
from scipy.sparse import csgraph

from finetune_jax.data.decode import UnreadableImage, small_image

_WIDTH, _HEIGHT = 9, 8
APPEARANCE_BYTES = _WIDTH * _HEIGHT + 3
"""Bytes of an appearance: the miniature's grey values in rows, then the mean of red, green and blue."""

_SIDE = 64  # pixels that a JPEG's shorter side is read with at least
_QUARTERS = 4
_MOST_FLIPPED = 12  # of 64 bits
_LEAST = 0.5  # grey levels: rounding, and JPEG's on plain images
_DIFFERENCE = 0.1  # of the contrast: mean difference of the miniatures once their means are equal
_SHIFT = 0.25  # of the contrast: difference of the means
_PAIRS_AT_ONCE = 2**17


def appearance(data: bytes) -> bytes | None:
    """What an encoded image looks like, :data:`APPEARANCE_BYTES`; None where it cannot be decoded."""
    try:
        return appearance_of_pixels(small_image(data, _SIDE))
    except UnreadableImage:
        return None


def appearance_of_pixels(image: np.ndarray) -> bytes:
    """What an image looks like, :data:`APPEARANCE_BYTES`.

    Args:
        image: uint8 ``[h, w, 3]``.
    """
    pixels = Image.fromarray(image)
    grey = pixels.convert("L").resize((_WIDTH, _HEIGHT), Image.Resampling.BOX)
    colour = pixels.resize((1, 1), Image.Resampling.BOX)
    return grey.tobytes() + colour.tobytes()


def difference_hash(appearances: np.ndarray) -> np.ndarray:
    """uint64 ``[N]``: one bit for each two neighbours in a row of the miniature, set where the right one is lighter.

    Args:
        appearances: uint8 ``[N, 75]``.
    """
    grey = appearances[:, : _WIDTH * _HEIGHT].reshape(-1, _HEIGHT, _WIDTH)
    bits = (grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(grey), _HEIGHT * (_WIDTH - 1))
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).reshape(-1)


def are_near(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether images are near-duplicates by their miniatures, bool ``[P]``.

    The mean difference must be small in proportion to the contrast of the plainer image: two plain images are the
    same only where they are equal but for rounding.

    Args:
        first: appearances, uint8 ``[P, 75]``.
        second: likewise.
    """
    count = _WIDTH * _HEIGHT
    a, b = first[:, :count].astype(np.float32), second[:, :count].astype(np.float32)
    means = a.mean(1, keepdims=True), b.mean(1, keepdims=True)
    a, b = a - means[0], b - means[1]
    contrast = np.minimum(np.abs(a).mean(1), np.abs(b).mean(1))
    colour = np.abs(first[:, count:].astype(np.float32) - second[:, count:]).max(1)
    shift = np.maximum(np.abs(means[0] - means[1])[:, 0], colour)
    difference = np.abs(a - b).mean(1)
    return (difference <= _LEAST + _DIFFERENCE * contrast) & (shift <= 2 * _LEAST + _SHIFT * contrast)


def groups_of(digests: np.ndarray, appearances: np.ndarray | None) -> np.ndarray:
    """Which images belong together, int64 ``[N]``: the first index of an image's group.

    Args:
        digests: uint8 ``[N, 16]``; zeros are equal to nothing.
        appearances: uint8 ``[N, 75]``, zeros where unknown; None compares the content alone.
    """
    count = len(digests)
    known = np.flatnonzero(digests.any(1))
    order = known[np.argsort(sort_keys(digests)[known], kind="stable")]
    equal = (digests[order][1:] == digests[order][:-1]).all(1)
    pairs = [(order[:-1][equal], order[1:][equal])]
    if appearances is not None:
        for first, second in _candidates(appearances):
            near = are_near(appearances[first], appearances[second])
            pairs.append((first[near], second[near]))
    rows, columns = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    graph = sparse.coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count))
    _, components = csgraph.connected_components(graph, directed=False)
    _, first, group_of = np.unique(components, return_index=True, return_inverse=True)
    return first[group_of]


def sort_keys(digests: np.ndarray) -> np.ndarray:
    """Digests as one sortable number each; equal ones may differ in bytes that do not fit."""
    return np.ascontiguousarray(digests[:, :8]).view("<u8").reshape(-1)


def _candidates(appearances: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of indices whose hashes share a quarter and differ in few bits, in pieces."""
    known = np.flatnonzero(appearances.any(1))
    hashes = difference_hash(appearances[known])
    for quarter in range(_QUARTERS):
        part = (hashes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = np.argsort(part, kind="stable")
        starts = np.flatnonzero(np.r_[True, part[order][1:] != part[order][:-1], True])
        for start, end in itertools.pairwise(starts):
            members = order[start:end]
            rows = max(1, _PAIRS_AT_ONCE // max(1, len(members)))
            for row in range(0, len(members) - 1, rows):
                block = members[row : row + rows]
                flipped = np.bitwise_count(hashes[block][:, None] ^ hashes[members][None, :])
                i, j = np.nonzero(flipped <= _MOST_FLIPPED)
                later = i + row < j
                if later.any():
                    yield known[block[i[later]]], known[members[j[later]]]


def joined(groups: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Groups of images that are together by either of two rules, also by way of others; int64 ``[N]``.

    Args:
        groups: int64 ``[N]``, as of :func:`groups_of`.
        names: uint8 ``[N, 16]``, equal within a group.
    """
    count = len(groups)
    _, first, inverse = np.unique(names, axis=0, return_index=True, return_inverse=True)
    here = np.arange(count)
    rows, columns = np.concatenate([here, here]), np.concatenate([groups, first[inverse.reshape(-1)]])
    graph = sparse.coo_array((np.ones(2 * count, bool), (rows, columns)), shape=(count, count))
    _, component = csgraph.connected_components(graph, directed=False)
    _, lowest, of = np.unique(component, return_index=True, return_inverse=True)
    return lowest[of]
