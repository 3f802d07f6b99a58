"""Attention of tokens among themselves by oneDNN: products of matrices whose rows lie apart, and softmax.

Queries, keys and values stay where the dense layer has put them, beside each other, and so do their gradients. A few
images at a time go through all the steps, so that their weights are still in the cache at the next one.
"""

import ctypes
import math
from collections.abc import Callable

from finetune_jax.models.layers.onednn.descriptions import Attention, AttentionKind, Layout, OneDNNError
from finetune_jax.models.layers.onednn.engine import (
    FORWARD_TRAINING,
    KERNEL,
    RESULT,
    RESULT_GRADIENT,
    SCRATCHPAD,
    SOURCE,
    SOURCE_GRADIENT,
    Engine,
    Handle,
)

_LINEAR, _SOFTMAX = 0x26, 0x30000  # of dnnl_types.h
_FLOAT = 4  # bytes


class _Step:
    """A primitive and the memories of its operands; ``spare`` bytes are for it alone."""

    def __init__(
        self, engine: Engine, description: Handle, operands: tuple[tuple[int, Handle], ...], what: object
    ) -> None:
        if engine.name(description).startswith("ref"):
            raise OneDNNError(f"oneDNN has only its reference for {what}")
        self._engine = engine
        scratchpad = engine.scratchpad(description)
        self.spare = engine.size(scratchpad)
        self._scratch = engine.memory(scratchpad)
        memories = {id(layout): engine.memory(layout) for _, layout in operands}
        self._operands = [memories[id(layout)] for _, layout in operands]
        arguments = [(role, memories[id(layout)]) for role, layout in operands]
        self._run = engine.execution(
            engine.create("primitive_create", description), (*arguments, (SCRATCHPAD, self._scratch))
        )

    def __call__(self, spare: int, *addresses: int) -> None:
        self._engine.place(self._scratch, spare)
        for memory, address in zip(self._operands, addresses, strict=True):
            self._engine.place(memory, address)
        self._run()


class _Steps:
    """The steps for some images of an attention, made when they are first needed."""

    def __init__(self, engine: Engine, attention: Attention) -> None:
        self._engine, self._attention = engine, attention
        self.images = images_at_once(attention, engine.functions.omp_get_max_threads())
        channels = attention.heads * attention.channels
        self.joint, self.alone = 3 * channels, channels  # numbers in the row of a token
        self.scale = attention.channels**-0.5

    def tokens(self, row: int) -> Layout:
        """Of one of queries, keys, values: a matrix ``[S, d]`` for each image and head."""
        of = self._attention
        sizes = (self.images, of.heads, of.tokens, of.channels)
        return sizes, (of.tokens * row, of.channels, row, 1)

    @property
    def shares(self) -> Layout:
        """A matrix ``[S, S]`` for each image and head."""
        of = self._attention
        square = of.tokens * of.tokens
        return (self.images, of.heads, of.tokens, of.tokens), (of.heads * square, square, of.tokens, 1)

    def product(self, left: Layout, right: Layout, result: Layout, scale: float = 1.0) -> _Step:
        """``scale · left · right``."""
        engine = self._engine
        attributes = engine.attributes()
        if scale != 1:
            steps = engine.create("post_ops_create")
            numbers = ctypes.c_float(scale), ctypes.c_float(0)
            engine.check(
                engine.functions.dnnl_post_ops_append_eltwise(steps, ctypes.c_int(_LINEAR), *numbers)
            )
            engine.check(engine.functions.dnnl_primitive_attr_set_post_ops(attributes, steps))
        a, b, c = (engine.memory_description(*layout, "float32") for layout in (left, right, result))
        description = engine.create("matmul_primitive_desc_create", engine.engine, a, b, None, c, attributes)
        return _Step(engine, description, ((SOURCE, a), (KERNEL, b), (RESULT, c)), self._attention)

    def softmax(self) -> tuple[_Step, _Step]:
        """Of the rows of the weights, and its gradient, from the result and that of the result; both in place."""
        engine, of = self._engine, self._attention
        rows = self.images * of.heads * of.tokens
        layout = engine.memory_description((rows, of.tokens), (of.tokens, 1), "float32")
        axis, kind = ctypes.c_int(1), ctypes.c_int(_SOFTMAX)
        forward = engine.create(
            "softmax_forward_primitive_desc_create",
            engine.engine,
            ctypes.c_int(FORWARD_TRAINING),
            kind,
            layout,
            layout,
            axis,
            engine.attributes(),
        )
        other = engine.memory_description((rows, of.tokens), (of.tokens, 1), "float32")
        backward = engine.create(
            "softmax_backward_primitive_desc_create",
            engine.engine,
            kind,
            layout,
            layout,
            layout,
            axis,
            forward,
            engine.attributes(),
        )
        return (
            _Step(engine, forward, ((SOURCE, layout), (RESULT, layout)), of),
            _Step(
                engine, backward, ((SOURCE_GRADIENT, layout), (RESULT_GRADIENT, layout), (RESULT, other)), of
            ),
        )


def images_at_once(attention: Attention, threads: int) -> int:
    """As few images as give every thread a head, of those that divide the batch."""
    fewest = min(math.ceil(threads / attention.heads), attention.images)
    return next(n for n in range(fewest, attention.images + 1) if attention.images % n == 0)


def primitive(engine: Engine, kind: AttentionKind, attention: Attention) -> Callable[..., None]:
    """A function of addresses.

    ``attend(joint, y)``, ``keep(joint, y, shares)`` and ``gradient(joint, shares, gradient_of_y, gradient_of_joint)``,
    with ``joint [B, S, 3, H, d]``, ``y [B, S, H, d]`` and ``shares [B, H, S, S]``.

    Raises:
        OneDNNError: the library has nothing for these shapes, or nothing but its slow reference.
    """
    of = _Steps(engine, attention)
    return _gradient(engine, attention, of) if kind == "gradient" else _forward(engine, attention, of)


def _forward(engine: Engine, attention: Attention, of: _Steps) -> Callable[..., None]:
    tokens, shares = of.tokens(of.joint), of.shares
    score = of.product(tokens, _turned(tokens), shares, of.scale)
    normalise, _ = of.softmax()
    mix = of.product(shares, tokens, of.tokens(of.alone))
    spare = max(step.spare for step in (score, normalise, mix))
    third, *sizes = _bytes(attention, of)

    def run(joint: int, y: int, kept: int = 0) -> None:
        scratch = engine.reserve(spare + sizes[2])
        for number in range(attention.images // of.images):
            at, result = joint + number * sizes[0], y + number * sizes[1]
            shares = kept + number * sizes[2] if kept else scratch + spare
            score(scratch, at, at + third, shares)
            normalise(scratch, shares, shares)
            mix(scratch, shares, at + 2 * third, result)

    return run


def _gradient(engine: Engine, attention: Attention, of: _Steps) -> Callable[..., None]:
    tokens, alone, shares = of.tokens(of.joint), of.tokens(of.alone), of.shares
    by_value = of.product(_turned(shares), alone, tokens)
    by_shares = of.product(alone, _turned(tokens), shares)
    _, by_scores = of.softmax()
    by_query = of.product(shares, tokens, tokens, of.scale)
    by_key = of.product(_turned(shares), tokens, tokens, of.scale)
    spare = max(step.spare for step in (by_value, by_shares, by_scores, by_query, by_key))
    third, *sizes = _bytes(attention, of)

    def run(joint: int, kept: int, gradient: int, result: int) -> None:
        scratch = engine.reserve(spare + sizes[2])
        slopes = scratch + spare
        for number in range(attention.images // of.images):
            at, into = joint + number * sizes[0], result + number * sizes[0]
            slope, shares = gradient + number * sizes[1], kept + number * sizes[2]
            by_value(scratch, shares, slope, into + 2 * third)
            by_shares(scratch, slope, at + 2 * third, slopes)
            by_scores(scratch, slopes, slopes, shares)
            by_query(scratch, slopes, at + third, into)
            by_key(scratch, slopes, at, into + third)

    return run


def _bytes(attention: Attention, of: _Steps) -> tuple[int, int, int, int]:
    """From queries to keys, and of ``joint``, ``y`` and the shares of as many images as go at once."""
    tokens = of.images * attention.tokens * _FLOAT
    shares = of.images * attention.heads * attention.tokens**2 * _FLOAT
    return of.alone * _FLOAT, of.joint * tokens, of.alone * tokens, shares


def _turned(layout: Layout) -> Layout:
    (*sizes, rows, columns), (*strides, down, right) = layout
    return (*sizes, columns, rows), (*strides, right, down)
