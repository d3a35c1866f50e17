"""A picture of any plan, drawn from its matrix, or from the slot of every patch.

The matrix says everything a picture needs: which patches went together, which were dropped, what an output token is
made of. So one routine, `draw_plan`, draws every merger of every backend, and any composition of them. Where groups are
all there is to see, a slot per patch says the same without a matrix: `draw_groups`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray[Any, Any]

OUTLINE = "white"
ALIKE = 0.25  # two rows whose cosine is above this show the same thing


def draw_plan(
    axes: Axes,
    matrix: Array,
    image: Array,
    grid: tuple[int, int],
    *,
    protected: int = 0,
    maps: int = 4,
    cmap: str = "magma",
) -> None:
    """Draw what a plan does to the patches of an image; how is decided by the matrix itself.

    Every column of `W` has at most one nonzero (a partition, a selection, a composition of those): each group in its
    mean colour with outlines between the groups. A patch that is alone in its group shows the image; a dropped one is
    faded. Otherwise (a dense plan): heat maps of the rows with the most concentrated weight, no two alike. Each map is
    `sqrt(w / max w)` over the faint image.

    Args:
        axes: where to draw; its frame and ticks are taken away.
        matrix: `W (P,N)`, one sample of `plan.matrix()`, as a NumPy array.
        image: `(H,W,3)` floating point in [0, 1]; `H` and `W` multiples of the grid.
        grid: rows and columns of patches; `N = protected + rows * columns`, patches row by row.
        protected: leading tokens that are no patch (class token, registers).
        maps: number of heat maps, at most; for a dense plan only.
        cmap: colormap of the heat maps, a name matplotlib knows.

    Raises:
        TypeError: the image is not floating point.
        ValueError: the shapes do not fit together, or `maps` is less than 1.

    >>> from matplotlib.figure import Figure
    >>> pairs = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    >>> axes = Figure().subplots()
    >>> draw_plan(axes, pairs, np.zeros((8, 8, 3)), (2, 2))
    >>> len(axes.images), len(axes.child_axes)
    (1, 0)
    >>> draw_plan(axes, pairs + 0.1, np.zeros((8, 8, 3)), (2, 2))
    >>> len(axes.child_axes)
    2
    """
    _check(matrix, image, grid, protected)
    if maps < 1:
        raise ValueError(f"draw_plan: `maps` must be an integer >= 1, got {maps}")
    axes.set_axis_off()
    if is_hard(matrix):
        _show(axes, group_image(matrix, image, grid, protected=protected))
        _outline(axes, owners(matrix, protected=protected), image, grid)
        return
    rows = concentrated_rows(matrix, maps, protected=protected)
    for cell, row in zip(_cells(axes, len(rows)), rows, strict=True):
        cell.set_axis_off()
        _show(cell, heat_image(matrix[row, protected:], image, grid, cmap=cmap))


def draw_groups(axes: Axes, owner: Array, image: Array, grid: tuple[int, int]) -> None:
    """Draw groups of patches: each in the mean colour of its pixels, with outlines between the groups.

    A patch that is alone in its group shows the image; a dropped one is faded.

    Args:
        axes: where to draw; its frame and ticks are taken away.
        owner: `(rows * columns,)` integer, the group of every patch, row by row; -1 for a dropped one.
        image, grid: as in `draw_plan`.

    Raises:
        TypeError: the image is not floating point.
        ValueError: the shapes do not fit together.

    >>> from matplotlib.figure import Figure
    >>> axes = Figure().subplots()
    >>> draw_groups(axes, np.array([0, 0, 7, -1]), np.zeros((8, 8, 3)), (2, 2))
    >>> len(axes.images), len(axes.collections[0].get_segments())
    (1, 3)
    """
    _check_image("draw_groups", image, grid)
    if owner.shape != (grid[0] * grid[1],):
        raise ValueError(f"draw_groups: `owner` must be ({grid[0] * grid[1]},), one group per patch, got {owner.shape}")
    _, group = np.unique(owner, return_inverse=True)  # numbers without gaps
    sums = np.zeros((group.max(initial=-1) + 1, 3))
    np.add.at(sums, group, _patch_means(image, grid))
    colours = sums / np.bincount(group)[:, None]
    axes.set_axis_off()
    _show(axes, _painted(np.where(owner < 0, -1, group), colours, image, grid))
    _outline(axes, owner, image, grid)


def is_hard(matrix: Array) -> bool:
    """Whether every token goes to one slot at most: no column of `W (P,N)` has two nonzeros.

    >>> is_hard(np.array([[0.5, 0.5, 0.0]])), is_hard(np.array([[0.5, 0.5], [0.5, 0.5]]))
    (True, False)
    """
    return bool(((matrix != 0).sum(axis=0) <= 1).all())


def owners(matrix: Array, *, protected: int = 0) -> Array:
    """The row of `W (P,N)` that every patch goes to, of a hard plan: `(N - protected,)`, -1 for a dropped one.

    >>> owners(np.array([[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]))
    array([ 0, -1,  0])
    """
    used = matrix[:, protected:] != 0
    return np.where(used.any(axis=0), used.argmax(axis=0) if len(used) else 0, -1)


def group_image(matrix: Array, image: Array, grid: tuple[int, int], *, protected: int = 0) -> Array:
    """The picture of a hard plan without its outlines, `(H,W,3)`; arguments as in `draw_plan`.

    The colour of a group is what the plan makes of the mean colours of its patches, `W c`.

    >>> image = np.repeat(np.array([[[0.0], [1.0], [0.6]]]), 3, axis=2)
    >>> group_image(np.array([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]), image, (1, 3))[0, :, 0]
    array([0.75, 0.75, 0.6 ])
    """
    _check(matrix, image, grid, protected)
    weights, owner = matrix[:, protected:].astype(float), owners(matrix, protected=protected)
    mass = weights.sum(axis=1, keepdims=True)
    colours = np.divide(weights, mass, out=np.zeros_like(weights), where=mass != 0) @ _patch_means(image, grid)
    return _painted(owner, colours, image, grid)


def _painted(owner: Array, colours: Array, image: Array, grid: tuple[int, int]) -> Array:
    """The image with each group of patches in its colour `(P,3)`; a patch on its own as it is, dropped ones faded."""
    members = np.bincount(owner[owner >= 0], minlength=len(colours))
    picture = np.array(image, dtype=float)
    merged = (owner >= 0) & (members[owner] > 1) if len(colours) else owner >= 0
    of_patches = np.zeros((owner.size, 3))
    of_patches[merged] = colours[owner[merged]]
    merged_pixels, dropped_pixels = _pixels(merged, image, grid), _pixels(owner < 0, image, grid)
    picture[merged_pixels] = _pixels(of_patches, image, grid)[merged_pixels]
    picture[dropped_pixels] = faded(image)[dropped_pixels]
    return picture


def heat_image(weights: Array, image: Array, grid: tuple[int, int], *, cmap: str = "magma") -> Array:
    """One row of a plan as a heat map over the faint image, `(H,W,3)`.

    Args:
        weights: `(rows * columns,)`, what every patch contributes to the output token.
        image, grid, cmap: as in `draw_plan`.
    """
    from matplotlib import colormaps

    largest = np.abs(weights).max(initial=0)
    level = np.sqrt(np.clip(weights / largest, 0, 1)) if largest > 0 else np.zeros_like(weights)
    heat = _pixels(colormaps[cmap](level.astype(float))[:, :3], image, grid)
    return np.clip(heat * (0.6 + 0.4 * grey(image)) + 0.18 * grey(image), 0, 1)


def concentrated_rows(matrix: Array, count: int, *, protected: int = 0) -> list[int]:
    """The rows with the most concentrated weight on patches, `sum w^2 / (sum w)^2`; at most `count`, ascending.

    Rows that live on the protected tokens are left out; so is a row like one already taken, while there are others.

    >>> matrix = np.array([[0.5, 0.5, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [0.0, 0.1, 0.4, 0.5], [0.95, 0.05, 0.0, 0.0]])
    >>> concentrated_rows(matrix, 2)
    [2, 3]
    """
    weights = np.abs(matrix[:, protected:].astype(float))
    mass, length = weights.sum(axis=1), np.sqrt((weights**2).sum(axis=1))
    candidates = np.flatnonzero((mass > 0) & (mass >= np.abs(matrix[:, :protected]).sum(axis=1)))
    concentration = length[candidates] / mass[candidates]
    ranking = candidates[np.argsort(-concentration, kind="stable")]
    unit = np.divide(weights, length[:, None], out=np.zeros_like(weights), where=length[:, None] > 0)

    chosen: list[int] = []
    for row in ranking:
        if all(unit[row] @ unit[other] <= ALIKE for other in chosen):
            chosen.append(int(row))
    chosen += [int(row) for row in ranking if row not in chosen]
    return sorted(chosen[:count])


def grey(image: Array) -> Array:
    """The image without colour, `(H,W,1)`."""
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]))[..., None]


def faded(image: Array) -> Array:
    """The image of dropped tokens: nearly without colour, nearly white."""
    return 0.7 + 0.3 * (0.2 * image + 0.8 * grey(image))


def _check_image(owner: str, image: Array, grid: tuple[int, int]) -> None:
    rows, columns = grid
    if image.dtype.kind != "f":
        raise TypeError(f"{owner}: `image` must be floating point in [0, 1], got {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] % rows or image.shape[1] % columns:
        needed = f"(H, W, 3) with H and W multiples of the grid {rows} x {columns}"
        raise ValueError(f"{owner}: `image` must be {needed}, got {image.shape}")


def _check(matrix: Array, image: Array, grid: tuple[int, int], protected: int) -> None:
    rows, columns = grid
    _check_image("draw_plan", image, grid)
    if matrix.ndim != 2 or matrix.shape[1] != protected + rows * columns:
        raise ValueError(
            f"draw_plan: `matrix` must be (P, N) with N = {protected} protected + {rows} x {columns} patches = "
            f"{protected + rows * columns}, got {matrix.shape}"
        )


def _patch_means(image: Array, grid: tuple[int, int]) -> Array:
    (rows, columns), (height, width, _) = grid, image.shape
    patches = image.reshape(rows, height // rows, columns, width // columns, 3)
    return np.asarray(patches.mean(axis=(1, 3), dtype=float)).reshape(rows * columns, 3)


def _pixels(values: Array, image: Array, grid: tuple[int, int]) -> Array:
    """One value per patch, `(rows * columns, ...)`, to one per pixel."""
    rows, columns = grid
    tall = np.repeat(values.reshape(rows, columns, *values.shape[1:]), image.shape[0] // rows, axis=0)
    return np.repeat(tall, image.shape[1] // columns, axis=1)


def _outline(axes: Axes, owner: Array, image: Array, grid: tuple[int, int]) -> None:
    """Lines where neighbouring patches belong to different groups."""
    from matplotlib.collections import LineCollection

    owner = owner.reshape(grid)
    high, wide = image.shape[0] / grid[0], image.shape[1] / grid[1]
    upright = [
        [((column + 1) * wide, row * high), ((column + 1) * wide, (row + 1) * high)]
        for row, column in np.argwhere(owner[:, 1:] != owner[:, :-1])
    ]
    level = [
        [(column * wide, (row + 1) * high), ((column + 1) * wide, (row + 1) * high)]
        for row, column in np.argwhere(owner[1:] != owner[:-1])
    ]
    axes.add_collection(LineCollection(upright + level, colors=OUTLINE, linewidths=0.5, capstyle="projecting"))


def _show(axes: Axes, picture: Array) -> None:
    height, width, _ = picture.shape
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="antialiased")


def _cells(axes: Axes, count: int) -> Iterable[Axes]:
    """`count` small axes inside `axes`, in rows of equal length."""
    columns = max(1, math.ceil(math.sqrt(count)))
    rows = max(1, math.ceil(count / columns))
    gap = 0.025
    wide, high = (1 - gap * (columns - 1)) / columns, (1 - gap * (rows - 1)) / rows
    for index in range(count):
        row, column = divmod(index, columns)
        yield axes.inset_axes((column * (wide + gap), 1 - high - row * (high + gap), wide, high))
