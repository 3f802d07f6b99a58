"""The operations of AutoAugment and its successors on one image, as Pillow defines them, on the device.

An image is float32 ``[H, W, 3]`` of whole numbers from 0 to 255, and so is the result. Which operation is applied is
a traced value, so each image of a batch may have its own. On accelerators the whole batch goes through everything at
once: what the operations have in common (moving pixels, blending with a second image) is computed once, with
coefficients that change nothing for the other operations. A CPU takes image after image, each through its own
operation alone, which is several times faster there.

Magnitudes mean what they do in torchvision: a factor of brightness is ``1 + magnitude``, a rotation is in degrees, a
translation in pixels, ``posterize`` keeps so many bits, ``solarize`` inverts what is at least so bright. Pixels are
moved to their nearest place; uncovered ones are black.

    >>> import jax.numpy as jnp
    >>> image = jnp.full((2, 2, 3), 100.0)
    >>> float(operate(image, OPERATIONS.index("brightness"), 0.5)[0, 0, 0])
    150.0
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
"""Names, in the order of their numbers."""

_NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
_LUMINANCE = (19595, 38470, 7471)  # of 65536: ITU-R BT.601 as Pillow has it


def operate(image: jax.Array, operation: jax.Array | int, magnitude: jax.Array | float) -> jax.Array:
    """One operation.

    Args:
        image: float32 ``[H, W, 3]``, whole numbers from 0 to 255.
        operation: int ``[]``, a place in :data:`OPERATIONS`.
        magnitude: float ``[]``, with its sign.
    """
    numbers = jnp.asarray(operation, jnp.int32), jnp.asarray(magnitude, jnp.float32)
    return jax.lax.platform_dependent(image, *numbers, cpu=one_after_the_other, default=all_at_once)


def all_at_once(image: jax.Array, operation: jax.Array, magnitude: jax.Array) -> jax.Array:
    """:func:`operate` without a branch: every operation is prepared, and one of them changes something."""
    image = _blended(_moved(image, operation, magnitude), operation, magnitude)
    # Pixels are looked at twice, for the counts of their values and to exchange these: XLA would compute what comes
    # before again for every further use.
    return _in_channels(image, operation, magnitude)


@jax.custom_batching.sequential_vmap
def one_after_the_other(image: jax.Array, operation: jax.Array, magnitude: jax.Array) -> jax.Array:
    """:func:`operate` with a branch for each kind of operation; a batch is a loop over its images."""
    places = [_BRANCHES.index(_KINDS.get(name, "moved")) for name in OPERATIONS]
    return jax.lax.switch(
        jnp.asarray(places, jnp.int32)[operation],
        [_BRANCH_FUNCTIONS[name] for name in _BRANCHES],
        image,
        operation,
        magnitude,
    )


def _exchanged(channel: jax.Array, operation: jax.Array | int, magnitude: jax.Array) -> jax.Array:
    """What gives every value of a channel another value, by a table of the 256 values."""
    values = jnp.arange(256)
    counts = jnp.zeros(256, jnp.int32).at[channel.ravel()].add(1)
    bits = magnitude.astype(jnp.int32)
    tables = {
        "posterize": jnp.left_shift(jnp.right_shift(values, 8 - bits), 8 - bits),
        "solarize": jnp.where(values < magnitude, values, 255 - values),
        "auto_contrast": _stretched(counts),
        "equalize": _equalized(counts),
    }
    is_one = [jnp.asarray(operation == _NUMBER[name]) for name in tables]
    return jnp.select(is_one, list(tables.values()), values)[channel].astype(jnp.float32)


def _stretched(counts: jax.Array) -> jax.Array:
    """The table that makes the lowest value 0 and the highest 255."""
    values = jnp.arange(256)
    low, high = jnp.argmax(counts > 0), 255 - jnp.argmax(counts[::-1] > 0)
    return jnp.where(high > low, (values - low) * 255 // jnp.maximum(high - low, 1), values)


def _equalized(counts: jax.Array) -> jax.Array:
    """The table that makes the histogram flat."""
    values = jnp.arange(256)
    highest = 255 - jnp.argmax(counts[::-1] > 0)
    step = (counts.sum() - counts[highest]) // 255
    below = jnp.cumsum(counts) - counts
    return jnp.where(step > 0, jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255), values)


def _moved(image: jax.Array, operation: jax.Array | int, magnitude: jax.Array) -> jax.Array:
    """Shears around the upper left corner, translations, and the rotation around the centre."""
    height, width, _ = image.shape

    def is_one(name: str) -> jax.Array:
        return jnp.asarray(operation == _NUMBER[name])

    angle = jnp.where(is_one("rotate"), jnp.deg2rad(magnitude), 0)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    shear_x = jnp.where(is_one("shear_x"), magnitude, 0)
    shear_y = jnp.where(is_one("shear_y"), magnitude, 0)
    shift_x = jnp.where(is_one("translate_x"), jnp.trunc(magnitude), 0)
    shift_y = jnp.where(is_one("translate_y"), jnp.trunc(magnitude), 0)
    y, x = jnp.arange(height)[:, None] + 0.5, jnp.arange(width)[None] + 0.5
    from_center_y, from_center_x = y - height / 2, x - width / 2
    source_x = cosine * from_center_x - sine * from_center_y + width / 2 + shear_x * y - shift_x
    source_y = sine * from_center_x + cosine * from_center_y + height / 2 + shear_y * x - shift_y
    column, row = jnp.floor(source_x).astype(jnp.int32), jnp.floor(source_y).astype(jnp.int32)
    covered = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    moved = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(covered[..., None], moved, 0)


def _blended(image: jax.Array, operation: jax.Array | int, magnitude: jax.Array) -> jax.Array:
    """Away from or towards black, the image's greys, its mean grey, or itself smoothed."""
    names = ("brightness", "color", "contrast", "sharpness")
    is_one = [jnp.asarray(operation == _NUMBER[name]) for name in names]
    grey = _grey(image)
    mean = jnp.floor(grey.mean() + 0.5)
    references = [jnp.zeros_like(grey), grey, jnp.broadcast_to(mean, grey.shape), _smoothed(image)]
    reference = jnp.select(is_one, references, image)
    blend = jnp.floor(jnp.clip(reference + (1 + magnitude) * (image - reference), 0, 255))
    return jnp.where(jnp.any(jnp.stack(is_one)), blend, image)


def _in_channels(image: jax.Array, operation: jax.Array, magnitude: jax.Array) -> jax.Array:
    return jax.vmap(lambda channel: _exchanged(channel.astype(jnp.int32), operation, magnitude), 2, 2)(image)


def _reduced(image: jax.Array, operation: jax.Array, magnitude: jax.Array) -> jax.Array:
    del operation
    bits = 8 - magnitude.astype(jnp.int32)
    return jnp.left_shift(jnp.right_shift(image.astype(jnp.int32), bits), bits).astype(jnp.float32)


def _inverted(image: jax.Array, operation: jax.Array, magnitude: jax.Array) -> jax.Array:
    del operation
    return jnp.where(image < magnitude, image, 255 - image)


def _towards(reference: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    def blended(image: jax.Array, operation: jax.Array, magnitude: jax.Array) -> jax.Array:
        del operation
        other = reference(image)
        return jnp.floor(jnp.clip(other + (1 + magnitude) * (image - other), 0, 255))

    return blended


def _grey(image: jax.Array) -> jax.Array:
    """``[H, W, 1]``, whole numbers."""
    weighted = (image.astype(jnp.int32) * jnp.array(_LUMINANCE, jnp.int32)).sum(-1, keepdims=True)
    return jnp.right_shift(weighted + 0x8000, 16).astype(jnp.float32)


def _smoothed(image: jax.Array) -> jax.Array:
    """Mean of each pixel, five times, and its eight neighbours; the border stays."""
    height, width, _ = image.shape
    # A window and not shifted images: XLA would move the pixels again for each of these.
    around = jax.lax.reduce_window(image, 0.0, jax.lax.add, (3, 3, 1), (1, 1, 1), "valid")
    inner = jnp.floor((around + 4 * image[1:-1, 1:-1]) / 13 + 0.5)
    return image.at[1 : height - 1, 1 : width - 1].set(inner)


_KINDS = {
    name: name
    for name in ("identity", "brightness", "color", "contrast", "sharpness", "posterize", "solarize")
} | {"auto_contrast": "counted", "equalize": "counted"}
"""Branch of each operation; the others move pixels."""

_BRANCH_FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    "identity": lambda image, operation, magnitude: image,
    "moved": _moved,
    "brightness": _towards(lambda image: jnp.zeros_like(image[..., :1])),
    "color": _towards(_grey),
    "contrast": _towards(lambda image: jnp.floor(_grey(image).mean(keepdims=True) + 0.5)),
    "sharpness": _towards(_smoothed),
    "posterize": _reduced,
    "solarize": _inverted,
    "counted": _in_channels,
}
_BRANCHES = tuple(_BRANCH_FUNCTIONS)
