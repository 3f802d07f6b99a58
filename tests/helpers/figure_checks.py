"""Reads lines, curves and texts off an axis."""

import numpy as np
from matplotlib.colors import to_hex


def lines_of_points(axis, *, marker):
    """Drawn points of one marker, as ``[(face, x, y)]``, one per line that has any."""
    return [
        (to_hex(line.get_markerfacecolor()), line.get_xdata(), line.get_ydata())
        for line in axis.lines
        if line.get_marker() == marker and len(line.get_xdata())
    ]


def texts(axis):
    return [text.get_text() for text in axis.texts]


def descending(epochs, blocks, spread):
    return 1e-6 * spread ** -np.linspace(0, 1, blocks) * np.linspace(1, 0.5, epochs)[:, None]


TRIALS = [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1)]
ACCEPTED = np.array([False, False, True, True, True])
