"""Convolutions to try, and their sums over the taps."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from finetune_jax.models.layers import convolution as forms
from finetune_jax.models.layers import depthwise
from finetune_jax.models.layers.onednn import library
from finetune_jax.models.layers.onednn.descriptions import Convolution

needs_library = pytest.mark.skipif(library.load() is None, reason="no wheel of oneDNN for this machine")
CASE = Convolution((4, 9, 8, 5), (3, 3, 5, 6), 2, ((1, 1), (1, 0)))
DEPTHWISE = Convolution((3, 6, 8, 24), (3, 3, 1, 24), 1, ((1, 1), (1, 1)), groups=24)


@contextlib.contextmanager
def calls_for_everything() -> Iterator[None]:
    """Convolutions go to the library however small they are; parts of networks are traced anew, then and afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (forms, depthwise):
            patch.setattr(module, "PRODUCTS_WORTH_A_CALL", 0)
        patch.setattr(forms, "PIXELS_WORTH_A_CALL", 0)
        jax.clear_caches()
        yield
    jax.clear_caches()


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def tensors(convolution):
    shapes = convolution.images, convolution.kernel, convolution.outputs
    return [numbers(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def taps(convolution):
    """For each tap, its place in the kernel and the pixels of the padded images that outputs see through it."""
    _, height, width, _ = convolution.outputs
    step = convolution.stride
    for row in range(convolution.kernel[0]):
        for column in range(convolution.kernel[1]):
            rows = slice(row, row + (height - 1) * step + 1, step)
            columns = slice(column, column + (width - 1) * step + 1, step)
            yield (row, column), (slice(None), rows, columns)


def reference(convolution, x, kernel, gradient):
    """Outputs and both gradients, in float64, as sums over the taps of the kernel."""
    (top, bottom), (left, right) = convolution.pads
    padded = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    outputs, by_padded = np.zeros(convolution.outputs), np.zeros_like(padded)
    by_kernel = np.zeros(convolution.kernel)
    for tap, seen in taps(convolution):
        if convolution.groups == 1:
            outputs += padded[seen] @ kernel[tap]
            by_padded[seen] += gradient @ kernel[tap].T
            by_kernel[tap] = np.einsum("bhwi,bhwo->io", padded[seen], gradient)
        else:
            outputs += padded[seen] * kernel[tap][0]
            by_padded[seen] += gradient * kernel[tap][0]
            by_kernel[tap][0] = (padded[seen] * gradient).sum((0, 1, 2))
    height, width = convolution.images[1:3]
    return outputs, by_padded[:, top : top + height, left : left + width], by_kernel


def assert_close(ours, theirs, tolerance=2e-6):
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max() + 1e-30
    np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, atol=tolerance, rtol=0)


def plain(convolution, x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (convolution.stride,) * 2,
        convolution.pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=convolution.groups,
    )
