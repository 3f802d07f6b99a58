"""Heat maps over photographs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

Part = tuple[float, float, float, float]
"""Left, top, right and bottom in an image, as shares of its width and height."""

WHOLE: Part = (0.0, 0.0, 1.0, 1.0)


def grad_cam_grid(
    images: Sequence[np.ndarray],
    maps: Mapping[str, np.ndarray],
    *,
    row_names: Sequence[str] | None = None,
    parts: Sequence[Part] | None = None,
    format: canvas.Format = "png",
) -> bytes:
    """Each image beside its heat maps as a file, the AutoLR paper's Figures 5 and 6.

    Args:
        images: ``N`` of them, uint8 ``[H, W, C]`` of any size, ``C`` 1 or 3.
        maps: title of a column (a block, a pruning depth, a trial) to ``[N, h, w]`` in [0, 1], of any size.
        row_names: ``N`` names, for instance classes.
        parts: of each image, the part that its maps are of, as shares of width and height (left, top, right,
            bottom); by default all of it.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> photos = np.zeros((1, 8, 8, 3), np.uint8)
        >>> figures.grad_cam_grid(photos, {"block_01": np.ones((1, 2, 2))})[1:4]
        b'PNG'
    """
    return canvas.encode(draw_grad_cam_grid(images, maps, row_names=row_names, parts=parts), format)


def draw_grad_cam_grid(
    images: Sequence[np.ndarray],
    maps: Mapping[str, np.ndarray],
    *,
    row_names: Sequence[str] | None = None,
    parts: Sequence[Part] | None = None,
) -> "Figure":
    """The figure of :func:`grad_cam_grid`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> photos = np.zeros((1, 8, 8, 3), np.uint8)
        >>> figure = figures.draw_grad_cam_grid(photos, {"block_01": np.ones((1, 2, 2))})
        >>> [axis.get_title() for axis in figure.axes[:2]]
        ['image', 'block_01']
    """
    rows, columns = len(images), len(maps) + 1
    shapes = np.array([image.shape[:2] for image in images])
    side = float(np.clip(18 / columns, 0.8, 1.6))
    height = sum(side * float(np.clip(h / w, 0.4, 2.0)) for h, w in shapes)
    size = (side * columns + 1.2 + (0.8 if row_names is not None else 0.0), height + 0.5)
    figure, axes = canvas.new(rows, columns, size, squeeze=False)
    colors = _heat()
    for row, image in enumerate(images):
        canvas.show_photo(axes[row, 0], image)
        if row_names is not None:
            axes[row, 0].set_ylabel(
                row_names[row], fontsize=8, rotation=0, ha="right", va="center", labelpad=4
            )
        # Grey, for the colours to be those of the map alone.
        grey = np.broadcast_to(image.mean(2, keepdims=True), image.shape).astype(np.uint8)
        left, top, right, bottom = WHOLE if parts is None else parts[row]
        height, width = image.shape[:2]
        for axis, column in zip(axes[row, 1:], maps.values(), strict=True):
            canvas.show_photo(axis, grey)
            heat = axis.imshow(
                column[row],
                cmap=colors,
                vmin=0,
                vmax=1,
                extent=(left * width - 0.5, right * width - 0.5, bottom * height - 0.5, top * height - 0.5),
                interpolation="bilinear",
            )
            axis.set_xlim(-0.5, width - 0.5)
            axis.set_ylim(height - 0.5, -0.5)
    for axis, title in zip(axes[0], ("image", *maps), strict=True):
        axis.set_title(title, fontsize=8)
    bar = figure.colorbar(
        heat,
        ax=list(axes.flat),
        ticks=(0, 1),
        shrink=min(1.0, 2.5 / size[1]),
        anchor=(0, 1),
        aspect=15,
        pad=0.01,
    )
    bar.ax.tick_params(labelsize=8, length=0)
    return figure


def heat_over(photo: np.ndarray, heat: np.ndarray, part: Part = WHOLE) -> np.ndarray:
    """A heat map over a grey photograph, uint8 ``[H, W, 3]``, in the colours of :func:`grad_cam_grid`.

    Args:
        photo: uint8 ``[H, W, C]``, ``C`` 1 or 3.
        heat: ``[h, w]`` in [0, 1], enlarged bilinearly.
        part: of the photograph, which the map is of.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> photo = np.full((8, 8, 3), 100, np.uint8)
        >>> over = figures.heat_over(photo, np.ones((2, 2)), (0.0, 0.0, 0.5, 1.0))
        >>> bool((over[:, :4] != 100).any()), bool((over[:, 4:] == 100).all())
        (True, True)
    """
    from PIL import Image

    height, width = photo.shape[:2]
    left, top, right, bottom = (
        round(share * length) for share, length in zip(part, (width, height) * 2, strict=True)
    )
    grey = np.repeat(photo.mean(2, keepdims=True), 3, 2)
    size = (max(1, right - left), max(1, bottom - top))
    large = Image.fromarray(np.asarray(heat, np.float32)).resize(size, Image.Resampling.BILINEAR)
    colours = _heat()(np.clip(np.asarray(large), 0, 1))
    inside = grey[top:bottom, left:right]
    colours = colours[: inside.shape[0], : inside.shape[1]]
    weight = colours[..., 3:]
    grey[top:bottom, left:right] = (1 - weight) * inside + weight * 255 * colours[..., :3]
    return grey.round().astype(np.uint8)


def _heat() -> "Colormap":
    """From transparent to bright: where there is nothing, the photograph is as it was."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    colors = matplotlib.colormaps["plasma"](np.linspace(0.1, 1, 256))
    colors[:, 3] = np.linspace(0, 0.75, 256)
    return ListedColormap(colors)
