"""What the cases of all mergers draw: masks, tokens and sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

Array = np.ndarray[Any, Any]
Draw = Callable[..., Any]

CHANNELS = 4  # width of the tokens; a power of four, so that norms of signs are exact
WIDTH = 16  # width of the metric
seeds = st.integers(0, 2**32 - 1)


@st.composite
def masks(draw: Draw, shape: tuple[int, int], class_token: bool) -> Array:
    """Padding on the right, or anywhere; the class token is always real where there has to be one."""
    b, n = shape
    if draw(st.booleans(), label="padding on the right"):
        lengths = draw(st.lists(st.integers(0, n), min_size=b, max_size=b), label="lengths")
        mask = np.arange(n) < np.array(lengths, int).reshape(b, 1)
    else:
        mask = np.random.default_rng(draw(seeds, label="seed of the mask")).random((b, n)) < 0.7
    if class_token:
        mask[:, :1] = True
    return mask


@st.composite
def tokens(draw: Draw, kind: str, shape: tuple[int, ...], name: str = "tokens") -> Array:
    """Vectors `(..., N, C)` of a kind."""
    rng = np.random.default_rng(draw(seeds, label=f"seed of the {name}"))
    if kind == "exact":
        return _tied(rng, shape, draw(st.integers(1, 6), label=f"different {name}"))
    if kind == "degenerate":
        constant = draw(st.sampled_from([0.0, 1.0, None]), label=f"all {name} equal to")
        return rng.standard_normal(shape) if constant is None else np.full(shape, constant)
    values = rng.standard_normal(shape)
    if values.size and draw(st.booleans(), label=f"some special {name}"):
        flat = values.reshape(-1, shape[-1])
        flat[rng.integers(len(flat))] = 0
        flat[rng.integers(len(flat))] = flat[rng.integers(len(flat))]
        flat[rng.integers(len(flat))] *= 10.0 ** rng.integers(-3, 4 if name == "metrics" else 2)
    return values


def _tied(rng: np.random.Generator, shape: tuple[int, ...], different: int) -> Array:
    """Copies of a few vectors: signs, one-hots and zeros. Their norms and products are exact in every precision."""
    width = shape[-1]
    signs = rng.choice([-1.0, 1.0], (different, width))
    one_hots = np.eye(width)[rng.integers(width, size=different)] * rng.choice([-2.0, 0.5, 1.0], (different, 1))
    pool = np.where(rng.random((different, 1)) < 0.7, signs, one_hots)
    pool[rng.random(different) < 0.1] = 0
    return pool[rng.integers(different, size=shape[:-1])]


@st.composite
def sizes(draw: Draw, shape: tuple[int, int]) -> Array:
    """Sizes as they come out of earlier layers, some more than half precision can count; a zero now and then."""
    rng = np.random.default_rng(draw(seeds, label="seed of the sizes"))
    drawn = rng.integers(1, draw(st.sampled_from([9, 5000]), label="sizes below"), shape).astype(np.float64)
    if draw(st.booleans(), label="a size may be zero"):
        drawn[rng.random(shape) < 0.15] = 0
    return drawn
