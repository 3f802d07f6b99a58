"""Convolutions in forms that are fast on CPU.

All have the values and gradients of ``lax.conv_general_dilated``. On CPU, those that are worth a call go to oneDNN
where that is installed. The others stay with XLA, which is slow in some places (measured in docs/lab), and
each has a form of its own here. Where the kernel covers the image, XLA exchanges the two and
multiplies in plain loops, up to 150 times slower; one product over pixels and channels is not. The input gradient of a
stride is a convolution over an image most of whose pixels are zeros; each kind of pixel sees only some of the taps.
The kernel gradient takes examples for channels, and loses speed as the batch grows; the sum over pieces of the
batch does not. That of a 1×1 kernel is ``gradientᵀ · x``, for which all of ``gradient`` is turned round in memory;
``xᵀ · gradient`` is not. Accelerators get what JAX derives.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from finetune_jax.models.layers.onednn import convolution as onednn
from finetune_jax.models.layers.onednn.descriptions import Convolution

Pads = tuple[tuple[int, int], tuple[int, int]]
NO_PADS: Pads = ((0, 0), (0, 0))

# From these sizes on, oneDNN is worth a call, which takes 0.1 to 0.2 ms, and the reordering of the kernel.
PRODUCTS_WORTH_A_CALL = 2**25
PIXELS_WORTH_A_CALL = 256

# Of kernel gradients. More pieces are hardly faster, and every one of them has to be compiled.
EXAMPLES_PER_PIECE = 16
MOST_PIECES = 8
# A long sum over pixels is faster in two halves.
PIXELS_TO_HALVE = 2048


_counted: contextvars.ContextVar[bool] = contextvars.ContextVar("counted", default=False)


@contextlib.contextmanager
def countable() -> Iterator[None]:
    """What is traced inside has JAX's own convolutions everywhere, whose operations XLA can count."""
    token = _counted.set(True)
    try:
        yield
    finally:
        _counted.reset(token)


def conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """``x [B, H, W, I]`` with ``kernel [h, w, I, O]`` of the same dtype, ``[B, H', W', O]``."""
    pointwise = kernel.shape[:2] == (1, 1) and stride == 1 and pads == NO_PADS
    if not runs_on_cpu():
        if pointwise:
            return jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0])
        return _plain(stride, pads, x, kernel)
    convolution = call_for(x, kernel, stride, pads)
    if convolution is not None:
        return onednn.convolve(convolution, x, kernel)
    if pointwise:
        return _product(x, kernel[0, 0])
    rows, columns = _axes(x, kernel, stride, pads)
    if not rows.outputs or not columns.outputs:
        return _plain(stride, pads, x, kernel)
    seen = kernel[rows.seeing_taps(), columns.seeing_taps()]
    rows, columns = rows.trimmed(), columns.trimmed()
    form = _covering if _covers(rows, columns) else _sliding
    return form(rows, columns, x, seen)


def call_for(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> Convolution | None:
    """What oneDNN is called for if this is worth a call; None where XLA does it."""
    convolution = Convolution(x.shape, kernel.shape, stride, pads, dtype=x.dtype.name)
    if not runs_on_cpu() or not _worth_a_call(convolution):
        return None
    rows, columns = _axes(x, kernel, stride, pads)
    if kernel.shape[:2] != (1, 1) and _covers(rows.trimmed(), columns.trimmed()):
        return None
    return convolution if onednn.serves(convolution, x, kernel) else None


def runs_on_cpu() -> bool:
    """Whether what is traced here is to be fast on CPU."""
    return jax.default_backend() == "cpu" and not _counted.get()


def _worth_a_call(convolution: Convolution) -> bool:
    pixels = math.prod(convolution.outputs[:3])
    return pixels >= PIXELS_WORTH_A_CALL and pixels * math.prod(convolution.kernel) >= PRODUCTS_WORTH_A_CALL


def _plain(stride: int, pads: Pads, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One of the two axes: output ``p`` sees pixel ``p · stride - low + tap`` through each ``tap``."""

    pixels: int
    taps: int
    stride: int
    low: int
    high: int

    @property
    def outputs(self) -> int:
        return max(0, (self.pixels + self.low + self.high - self.taps) // self.stride + 1)

    def seeing_taps(self) -> slice:
        """Without those at both ends that see nothing but padding, whatever the output."""
        starts = [output * self.stride - self.low for output in range(self.outputs)]
        seeing = [tap for tap in range(self.taps) if any(0 <= at + tap < self.pixels for at in starts)]
        return slice(seeing[0], seeing[-1] + 1) if seeing else slice(0, 1)

    def trimmed(self) -> "_Axis":
        """The axis for a kernel of the seeing taps alone."""
        kept = self.seeing_taps()
        low, taps = self.low - kept.start, kept.stop - kept.start
        high = (self.outputs - 1) * self.stride + taps - low - self.pixels
        return _Axis(self.pixels, taps, self.stride, low, high)


def _axes(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> tuple[_Axis, _Axis]:
    rows, columns = (
        _Axis(pixels, taps, stride, *pad)
        for pixels, taps, pad in zip(x.shape[1:3], kernel.shape[:2], pads, strict=True)
    )
    return rows, columns


def _covers(rows: _Axis, columns: _Axis) -> bool:
    """Whether a trimmed kernel has as many taps as the image has pixels."""
    return rows.pixels * columns.pixels <= rows.taps * columns.taps


def _covering(rows: _Axis, columns: _Axis, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One product over all pixels and channels: each output pixel takes one tap, or zero, for each input pixel."""
    before, after = [], []
    for axis in (rows, columns):
        before.append(max(0, (axis.outputs - 1) * axis.stride - axis.low))
        after.append(max(0, axis.pixels - axis.taps + axis.low))
    zeros = ((before[0], after[0]), (before[1], after[1]), (0, 0), (0, 0))
    taps = jnp.pad(kernel, zeros)
    tops, lefts = (
        [zero + axis.low - output * axis.stride for output in range(axis.outputs)]
        for axis, zero in zip((rows, columns), before, strict=True)
    )
    matrix = jnp.stack(
        [taps[top : top + rows.pixels, left : left + columns.pixels] for top in tops for left in lefts],
        axis=3,
    )
    count, outputs = len(x), (rows.outputs, columns.outputs, kernel.shape[3])
    pixels, features = math.prod(x.shape[1:]), math.prod(outputs)
    return _product(x.reshape(count, pixels), matrix.reshape(pixels, features)).reshape(count, *outputs)


def _strided(rows: _Axis, columns: _Axis, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _plain(rows.stride, ((rows.low, rows.high), (columns.low, columns.high)), x, kernel)


_sliding = jax.custom_vjp(_strided, nondiff_argnums=(0, 1))


def _sliding_forward(
    rows: _Axis, columns: _Axis, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _strided(rows, columns, x, kernel), (x, kernel)


def _sliding_backward(
    rows: _Axis, columns: _Axis, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    pieces = min(MOST_PIECES, -(-len(x) // EXAMPLES_PER_PIECE)) or 1  # an empty batch is one
    by_kernel = jnp.zeros_like(kernel)
    for images, slopes in zip(jnp.array_split(x, pieces), jnp.array_split(gradient, pieces), strict=True):
        by_kernel += jax.vjp(functools.partial(_strided, rows, columns, images), kernel)[1](slopes)[0]
    return _input_gradient(rows, columns, kernel, gradient), by_kernel


_sliding.defvjp(_sliding_forward, _sliding_backward)


def _input_gradient(rows: _Axis, columns: _Axis, kernel: jax.Array, gradient: jax.Array) -> jax.Array:
    """From the ``stride²`` kinds of pixels, which see taps ``stride`` apart, each a convolution of ``gradient``."""
    stride = rows.stride
    height, width = (-(-axis.pixels // stride) for axis in (rows, columns))  # of the largest kind
    kinds = []
    for row in range(stride):
        for column in range(stride):
            (vertical, top), (horizontal, left) = _seen_by(rows, row), _seen_by(columns, column)
            taps = kernel[vertical, horizontal][::-1, ::-1].swapaxes(2, 3)
            if not taps.size:
                kinds.append(jnp.zeros((len(gradient), height, width, kernel.shape[2]), gradient.dtype))
                continue
            bottom = height - 1 + len(taps) - gradient.shape[1] - top
            right = width - 1 + taps.shape[1] - gradient.shape[2] - left
            kinds.append(conv(gradient, taps, 1, ((top, bottom), (left, right))))
    if stride == 1:
        return kinds[0]
    side_by_side = [jnp.stack(kinds[row * stride : (row + 1) * stride], axis=3) for row in range(stride)]
    shape = (len(gradient), height * stride, width * stride, kernel.shape[2])
    pixels = jnp.stack(side_by_side, axis=2).reshape(shape)
    return pixels[:, : rows.pixels, : columns.pixels]


def _seen_by(axis: _Axis, kind: int) -> tuple[slice, int]:
    """Taps through which the pixels ``kind``, ``kind + stride``, … are seen, and the padding of the outputs there."""
    first = (kind + axis.low) % axis.stride
    taps = slice(first, axis.taps, axis.stride)
    last = first + (len(range(axis.taps)[taps]) - 1) * axis.stride
    return taps, (last - kind - axis.low) // axis.stride


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    pixels = math.prod(x.shape[:-1])
    halves = 2 if pixels >= PIXELS_TO_HALVE and pixels % 2 == 0 else 1
    by_half = jnp.einsum(
        "npi,npo->nio",
        x.reshape(halves, pixels // halves, x.shape[-1]),
        gradient.reshape(halves, pixels // halves, gradient.shape[-1]),
    )
    return gradient @ kernel.T, by_half.sum(0)


_product.defvjp(_product_forward, _product_backward)
