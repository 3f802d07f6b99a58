"""Heat maps over photographs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


def grad_cam_grid(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    row_names: Sequence[str] | None = None,
    format: canvas.Format = "png",
) -> bytes:
    """Each image beside its heat maps as a file, the AutoLR paper's Figures 5 and 6.

    Args:
        images: uint8 ``[N, H, W, C]``, ``C`` 1 or 3.
        maps: title of a column (a block, a pruning depth, a trial) to ``[N, h, w]`` in [0, 1], of any size.
        row_names: ``N`` names, for instance classes.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> photos = np.zeros((1, 8, 8, 3), np.uint8)
        >>> figures.grad_cam_grid(photos, {"block_01": np.ones((1, 2, 2))})[1:4]
        b'PNG'
    """
    return canvas.encode(draw_grad_cam_grid(images, maps, row_names=row_names), format)


def draw_grad_cam_grid(
    images: np.ndarray, maps: Mapping[str, np.ndarray], *, row_names: Sequence[str] | None = None
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
    height, width = images.shape[1:3]
    side = float(np.clip(18 / columns, 0.8, 1.6))
    size = (side * columns + 1.2, side * rows * height / width + 0.5)
    figure, axes = canvas.new(rows, columns, size, squeeze=False)
    colors = _heat()
    for row, image in enumerate(images):
        canvas.show_photo(axes[row, 0], image)
        if row_names is not None:
            axes[row, 0].set_ylabel(row_names[row], fontsize=8)
        # Grey, for the colours to be those of the map alone.
        grey = np.broadcast_to(image.mean(2, keepdims=True), image.shape).astype(np.uint8)
        for axis, column in zip(axes[row, 1:], maps.values(), strict=True):
            canvas.show_photo(axis, grey)
            heat = axis.imshow(
                column[row],
                cmap=colors,
                vmin=0,
                vmax=1,
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                interpolation="bilinear",
            )
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


def _heat() -> "Colormap":
    """From transparent to bright: where there is nothing, the photograph is as it was."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    colors = matplotlib.colormaps["plasma"](np.linspace(0.1, 1, 256))
    colors[:, 3] = np.linspace(0, 0.75, 256)
    return ListedColormap(colors)
