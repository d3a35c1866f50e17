"""Patch tokens without a network: what a patch looks like, in twelve numbers and two heads.

    head 0   colour (light, red-green, yellow-blue), place (row, column), a constant
    head 1   texture (light gradients along 0, 45, 90 and 135 degrees, contrast), the same constant

Each number is measured from its mean over the photograph. The constant makes the angle between two tokens grow with
their distance, so that tokens near the mean are similar to each other, and not to anything else by accident.
In front stands a class token, the mean of the patches. Nothing here is learned or random.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

HEADS = 2
COLOUR, PLACE, TEXTURE, CONSTANT = 2.0, 1.0, 0.7, 0.5  # how much each counts
MIDDLE = 0.06  # how wide the middle of the photograph is, for the class query
TEMPERATURE = 0.2

XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def tokens(photo: Array, patch_size: int) -> Array:
    """The class token and the patches of a square photograph: `(1, 1 + n, 12)` float32.

    Args:
        photo: `(S,S,3)` in [0, 1], `S` a multiple of the patch size.
        patch_size: in pixels; `n = (S / patch_size)^2`.

    >>> tokens(np.zeros((32, 32, 3)), 8).shape
    (1, 17, 12)
    """
    colour = lab(photo)
    light = colour[..., 0]
    down, right = np.gradient(light)
    strength, angle = np.hypot(down, right), np.arctan2(down, right)
    directions = np.arange(4) * np.pi / 4
    gradients = strength[..., None] * np.maximum(0, np.cos(2 * (angle[..., None] - directions)))

    mean_colour = _patches(colour, patch_size).mean(axis=1)
    contrast = _patches(light[..., None], patch_size).std(axis=1)
    texture = np.concatenate([4 * _patches(gradients, patch_size).mean(axis=1), contrast], axis=1)
    first = np.concatenate([COLOUR * mean_colour, PLACE * place(len(photo) // patch_size)], axis=1)
    both = np.concatenate([first, TEXTURE * texture], axis=1)
    both -= both.mean(axis=0)
    both /= max(np.sqrt((both**2).sum(axis=1).mean()), 1e-6)

    constant = np.full((len(both), 1), CONSTANT)
    patches = np.concatenate([both[:, :5], constant, both[:, 5:], constant], axis=1)
    return np.concatenate([patches.mean(axis=0, keepdims=True), patches])[None].astype(np.float32)


def lab(photo: Array) -> Array:
    """The colours as CIE L*a*b* / 100, `(S,S,3)`, where equal steps look equal; from sRGB, white D65.

    >>> np.abs(lab(np.ones((1, 1, 3))).round(3)).tolist()
    [[[1.0, 0.0, 0.0]]]
    """
    linear = np.where(photo <= 0.04045, photo / 12.92, ((photo + 0.055) / 1.055) ** 2.4)
    xyz = linear @ (XYZ / XYZ.sum(axis=1, keepdims=True)).T
    x, y, z = np.moveaxis(np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116), 2, 0)
    return np.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], axis=2)


def place(side: int) -> Array:
    """Row and column of every patch, `(side * side, 2)`, from -1/2 to 1/2.

    >>> place(2)[1]
    array([-0.25,  0.25])
    """
    centres = (np.arange(side) + 0.5) / side - 0.5
    return np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=2).reshape(-1, 2)


def looks() -> Array:
    """Which of the twelve numbers say what a patch looks like: colour and texture; not place, not the constants.

    >>> int(looks().sum())
    8
    """
    return np.array([True] * 3 + [False] * 3 + [True] * 5 + [False])


def attention(x: Array) -> tuple[Array, Array]:
    """The class token's row of an attention after softmax, `(1,H,N)`, and the values, `(1,H,N,d)`.

    Keys and values are the two heads of the tokens. The query of the class token asks, in each head, for what the
    middle of the photograph has and the photograph as a whole has not: that is where photographers put what matters.

    >>> attn, value = attention(tokens(np.zeros((32, 32, 3)), 8))
    >>> attn.shape, value.shape
    ((1, 2, 17), (1, 2, 17, 6))
    """
    _, n, c = x.shape
    value = np.moveaxis(x.reshape(n, HEADS, c // HEADS), 1, 0)
    patches = value[:, 1:].astype(float)
    nearness = np.exp(-(place(round((n - 1) ** 0.5)) ** 2).sum(axis=1) / MIDDLE)
    query = np.einsum("n,hnd->hd", nearness / nearness.sum(), patches) - patches.mean(axis=1)
    query /= np.maximum(np.sqrt((query**2).sum(axis=1, keepdims=True)), 1e-6)
    logits = np.einsum("hnd,hd->hn", value, query) / TEMPERATURE
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    row = exponentials / exponentials.sum(axis=1, keepdims=True)
    return row[None].astype(np.float32), np.ascontiguousarray(value)[None]


def centres(points: Array, count: int, steps: int = 10) -> Array:
    """`count` centres of the points `(N,C)` by k-means, started from points far from each other.

    >>> centres(np.array([[0.0], [1.0], [9.0], [11.0]]), 2).ravel().tolist()
    [10.0, 0.5]
    """
    found = points[[_square_distances(points, points.mean(axis=0, keepdims=True)).argmax()]]
    while len(found) < count:
        farthest = _square_distances(points, found).min(axis=1).argmax()
        found = np.concatenate([found, points[[farthest]]])
    for _ in range(steps):
        nearest = _square_distances(points, found).argmin(axis=1)
        found = np.stack(
            [points[nearest == i].mean(axis=0) if (nearest == i).any() else found[i] for i in range(count)]
        )
    return found


def windows(side: int, count: int, smoothing: float) -> Array:
    """`count * count` square windows over the patches, as a mask for LTM: `(1, side * side, count * count)` float32.

    Column by column a mean over one window, smoothed as the pooling prior of LTM is, so that each sums to one.

    >>> windows(4, 2, 0.0)[0, :, 0].reshape(4, 4)[:, 0].tolist()
    [0.25, 0.25, 0.0, 0.0]
    """
    edge = np.arange(count)
    start, stop = edge * side // count, -(-(edge + 1) * side // count)
    inside = (np.arange(side)[:, None] >= start) & (np.arange(side)[:, None] < stop)
    window = np.einsum("ik,jl->ijkl", inside, inside).reshape(side * side, count * count).astype(float)
    return ((1 - smoothing) * window / window.sum(axis=0) + smoothing / side**2)[None].astype(np.float32)


def _patches(values: Array, size: int) -> Array:
    """`(S,S,C)` cut into patches, `(n, size * size, C)`, row by row."""
    side, channels = len(values) // size, values.shape[2]
    return values.reshape(side, size, side, size, channels).swapaxes(1, 2).reshape(side * side, size * size, channels)


def _square_distances(points: Array, others: Array) -> Array:
    return np.asarray(((points[:, None] - others) ** 2).sum(axis=2))
