"""Hypothesis strategies: cases of every merger.

Shapes come from a small fixed pool, because a compiling backend compiles once per shape; values are free. Three kinds:

- "generic": ordinary floats, with now and then a zero vector, a copy of another token, or one scaled by a power of ten;
- "exact": numbers whose arithmetic is exact in every precision, full of ties, so that decisions must be the spec's own;
- "degenerate": empty and tiny shapes, all tokens equal or zero, nothing real, options larger than possible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import Case
from tokenmerge.spec.schedule import ltm_tokens_out

Array = np.ndarray[Any, Any]
Draw = Callable[..., Any]

CHANNELS = 4  # width of the tokens; a power of four, so that norms of signs are exact
WIDTH = 16  # width of the metric
SHAPES = {
    "generic": [(2, 9), (1, 16), (3, 6)],
    "exact": [(2, 9), (1, 16), (3, 6)],
    "degenerate": [(0, 6), (2, 0), (2, 1), (3, 2), (1, 3), (2, 6)],
    "large": [(1, 197), (1, 577), (1, 1024)],
}
seeds = st.integers(0, 2**32 - 1)


@st.composite
def cases(draw: Draw, merger: str, kind: str, padded: bool | None = None) -> Case:
    """A case of a merger.

    Args:
        merger: one of the four.
        kind: "generic", "exact", "degenerate" or "large".
        padded: whether there is a mask; None for sometimes.
    """
    shape = draw(st.sampled_from(SHAPES[kind]), label="B, N")
    if padded is None:
        padded = kind != "large" and draw(st.booleans(), label="padded")
    mask = draw(masks(shape, class_token=merger == "ats" and kind != "degenerate"), label="mask") if padded else None
    case: Case = draw(MERGERS[merger](kind, shape, mask))
    return case


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
        flat[rng.integers(len(flat))] *= 10.0 ** rng.integers(-3, 4)
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
def sizes(draw: Draw, shape: tuple[int, int]) -> Array | None:
    """None, or sizes as they come out of earlier layers; a zero now and then."""
    if draw(st.booleans(), label="without sizes"):
        return None
    rng = np.random.default_rng(draw(seeds, label="seed of the sizes"))
    return rng.integers(0 if draw(st.booleans(), label="a size may be zero") else 1, 9, shape).astype(np.float64)


@st.composite
def tome(draw: Draw, kind: str, shape: tuple[int, int], mask: Array | None) -> Case:
    n = shape[1]
    config: dict[str, Any] = {
        "protected": draw(st.sampled_from([p for p in (0, 1, 2, 5) if p <= n]), label="protected")
    }
    matching = draw(st.sampled_from(["bipartite", "bipartite", "bipartite", "kth", "random"]), label="matching")
    if matching != "bipartite":
        config["matching"] = matching
    if matching == "kth":
        config["k"] = draw(st.sampled_from([1, 2, 3, 7]), label="k")
    else:
        config["r"] = draw(st.sampled_from([0, 1, 3, max(1, n // 4), 10**6]), label="r")
    if matching == "bipartite":
        config["order"] = draw(st.sampled_from(["grouped", "positional", "score"]), label="order")
    inputs = {"x": draw(tokens("generic", (*shape, CHANNELS)))}
    inputs["metric"] = draw(tokens(kind, (*shape, WIDTH), "metrics"))
    if matching == "random":
        rng = np.random.default_rng(draw(seeds, label="seed of the permutation"))
        inputs["permutation"] = rng.permuted(np.tile(np.arange(n), (shape[0], 1)), axis=1)
    return Case("tome", config, _optional(inputs, size=draw(sizes(shape)), mask=mask))


@st.composite
def ats(draw: Draw, kind: str, shape: tuple[int, int], mask: Array | None) -> Case:
    b, n = shape
    k = draw(st.sampled_from([1, 4, 7, 64]), label="max_tokens")
    config: dict[str, Any] = {"max_tokens": k, "score": draw(st.sampled_from(["per_head", "concat"]), label="score")}
    if kind != "exact" and draw(st.booleans(), label="gumbel"):
        config["sampling"] = "gumbel"
    rng = np.random.default_rng(draw(seeds, label="seed of attention and values"))
    heads = draw(st.sampled_from([1, 4]), label="heads")
    if kind == "exact":
        row, value = _dyadic_attention(rng, (b, heads, n), mask), rng.choice([-1.0, 1.0], (b, heads, n, CHANNELS))
    else:
        row, value = rng.random((b, heads, n)) ** 4, rng.standard_normal((b, heads, n, CHANNELS))
        if kind == "degenerate":
            row *= draw(st.sampled_from([0.0, 1.0]), label="attention is there")
        elif draw(st.booleans(), label="some scores are zero"):
            row *= rng.random(row.shape) < 0.5
        row /= np.maximum(row.sum(axis=2, keepdims=True), 1e-30)
    attn = row
    if draw(st.booleans(), label="whole attention matrix"):
        attn = rng.random((b, heads, n, n))
        attn[:, :, :1] = row[:, :, None][:, :, : min(1, n)]
    inputs = {"x": draw(tokens("generic", (*shape, CHANNELS))), "attn": attn, "value": value}
    if "sampling" in config:
        inputs["noise"] = rng.gumbel(size=(b, k, max(n - 1, 0)))
    elif kind != "exact" and draw(st.booleans(), label="own sample points"):
        inputs["uniforms"] = rng.random((b, k))
    return Case("ats", config, _optional(inputs, size=draw(sizes(shape)), mask=mask))


def _dyadic_attention(rng: np.random.Generator, shape: tuple[int, int, int], mask: Array | None) -> Array:
    """Attention to the class token's peers in 64ths that add up to one over the real ones, many of them zero."""
    b, heads, n = shape
    row = np.zeros(shape)
    for i in range(b):
        real = np.arange(1, n) if mask is None else 1 + np.flatnonzero(mask[i, 1:])
        if len(real):
            for h in range(heads):
                some = rng.choice(real, size=rng.integers(1, len(real) + 1), replace=False)
                row[i, h] = np.bincount(rng.choice(some, size=64), minlength=n) / 64
    return row


@st.composite
def patch_merger(draw: Draw, kind: str, shape: tuple[int, int], mask: Array | None) -> Case:
    m = draw(st.sampled_from([1, 3]), label="num_tokens_out")
    config: dict[str, Any] = {"dim": CHANNELS, "num_tokens_out": m}
    config |= draw(
        st.sampled_from([{}, {"logit_scale": 1.0}, {"normalize": False}, {"use_bias": False}, {"eps": 1e-3}])
    )
    inputs = {"x": draw(tokens(kind, (*shape, CHANNELS)))}
    rng = np.random.default_rng(draw(seeds, label="seed of the parameters"))
    params = {"queries": rng.standard_normal((m, CHANNELS)), "scale": rng.random(CHANNELS) + 0.5}
    if config.get("use_bias", True):
        params["bias"] = rng.standard_normal(CHANNELS)
    params = {name: value.astype(np.float32) for name, value in params.items()}
    return Case("patch_merger", config, _optional(inputs, size=draw(sizes(shape)), mask=mask), params)


@st.composite
def ltm(draw: Draw, kind: str, shape: tuple[int, int], mask: Array | None) -> Case:
    b, n = shape
    config: dict[str, Any] = {"dim": CHANNELS, "compression_ratio": draw(st.sampled_from([0.25, 0.5, 0.8, 1.0]))}
    config["protected"] = draw(st.sampled_from([p for p in (0, 1, 2) if p <= n]), label="protected")
    config["prior_smoothing"] = draw(st.sampled_from([0.0, 0.1, 1.0]), label="prior_smoothing")
    inputs = {"x": draw(tokens(kind, (*shape, CHANNELS)))}
    rng = np.random.default_rng(draw(seeds, label="seed of the parameters"))
    rest = n - config["protected"]
    prior_shape = (rest, ltm_tokens_out(rest, config["compression_ratio"]))
    given_as = draw(st.sampled_from([None, prior_shape, (b, *prior_shape)]), label="shape of the prior")
    prior = None if given_as is None else rng.dirichlet(np.ones(max(rest, 1)), given_as[:-2] + given_as[-1:])
    if prior is not None:
        prior = np.swapaxes(prior[..., :rest], -1, -2)
        if draw(st.booleans(), label="zeros in the prior"):
            prior = prior * (rng.random(prior.shape) < 0.7)
    params = {"weight": rng.standard_normal(CHANNELS).astype(np.float32)}
    return Case("ltm", config, _optional(inputs, size=draw(sizes(shape)), prior=prior, mask=mask), params)


def _optional(inputs: dict[str, Array], **optional: Array | None) -> dict[str, Array]:
    return inputs | {name: array for name, array in optional.items() if array is not None}


MERGERS: dict[str, Any] = {"tome": tome, "ats": ats, "patch_merger": patch_merger, "ltm": ltm}
