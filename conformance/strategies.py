"""Hypothesis strategies: cases of every merger.

Shapes and options come from small fixed pools, because a compiling backend compiles once for each of them; values are
free. Three kinds:

- "generic": ordinary floats, with now and then a zero vector, a copy of another token, or one scaled by a power of ten;
- "exact": numbers whose arithmetic is exact in every precision, full of ties, so that decisions must be the spec's own;
- "degenerate": empty and tiny shapes, all tokens equal or zero, nothing real, options larger than possible.

Where every shape and option costs a compilation, all kinds but the degenerate one share their shapes, and options come
from few combinations: those in which each value occurs, or each pair of values of two options.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import Case
from tokenmerge.spec.shared.schedule import ltm_tokens_out

Array = np.ndarray[Any, Any]
Draw = Callable[..., Any]

CHANNELS = 4  # width of the tokens; a power of four, so that norms of signs are exact
WIDTH = 16  # width of the metric
SHAPES = {
    "generic": [(2, 9), (1, 16), (3, 6)],
    "exact": [(2, 9), (1, 80), (3, 6)],  # 80: sorts that are not stable keep the order of 16 equal entries
    "degenerate": [(0, 6), (2, 0), (2, 1), (3, 2), (1, 3), (2, 6)],
    "large": [(1, 197), (1, 577), (1, 1024)],
}
COMPILED = {"generic": [(2, 9), (1, 80)], "exact": [(2, 9), (1, 80)], "degenerate": [(0, 6), (2, 0), (2, 1), (1, 3)]}
seeds = st.integers(0, 2**32 - 1)


@st.composite
def cases(
    draw: Draw,
    merger: str,
    kind: str,
    padded: bool | None = None,
    options: str = "free",
    shape: tuple[int, int] | None = None,
    mask: Array | None = None,
    fixed: dict[str, Any] | None = None,
    turn: int = 0,
) -> Case:
    """A case of a merger.

    Args:
        merger: one of the four.
        kind: "generic", "exact", "degenerate" or "large".
        padded: whether to draw a mask; None for sometimes.
        options: "free"; "pairs" or "values", from a set in which every pair or every value of them occurs; or
            "typical", always the same.
        shape: `(B,N)`; None for one of `SHAPES[kind]`.
        mask: `(B,N)`, where the shape is given.
        fixed: options of `SPACES` that have one value only.
        turn: which of the combinations of "pairs" or "values" comes first.
    """
    fixed = fixed or {}
    few = options in COVERING
    shapes = COMPILED.get(kind, SHAPES[kind]) if few else SHAPES[kind]
    space: dict[str, tuple[Any, ...]] = {"shape": tuple(shapes) if shape is None else (shape,)}
    space["padded"] = (padded,) if padded is not None else (False,) if kind == "large" or shape else (False, True)
    space |= {"sized": (False, True)} | SPACES[merger]
    if few:
        # of one set, whatever is fixed, so that nothing is compiled that would not be compiled anyway
        rows = COVERING[options](tuple((space | {"padded": (False, True)}).items()))
        wanted = fixed | ({"padded": space["padded"][0]} if len(space["padded"]) == 1 else {})
        rows = [row for row in rows if row | wanted == row] or [row | wanted for row in rows[:2]]
        first = turn % len(rows)
        choice = draw(st.sampled_from(rows[first:] + rows[:first]), label="shape and options")
    elif options == "typical":
        choice = {name: values[0] for name, values in space.items()} | fixed
    else:
        free = {name: (fixed[name],) if name in fixed else values for name, values in space.items()}
        choice = {name: draw(st.sampled_from(values), label=name) for name, values in free.items()}
    if choice["padded"]:
        mask = draw(masks(choice["shape"], class_token=merger == "ats" and kind != "degenerate"), label="mask")
    case: Case = draw(MERGERS[merger](kind, choice["shape"], mask, choice))
    case.inputs.update(_given(size=draw(sizes(choice["shape"])) if choice["sized"] else None, mask=mask))
    return case


@cache
def covering(space: tuple[tuple[str, tuple[Any, ...]], ...]) -> list[dict[str, Any]]:
    """Few choices in which every pair of values of two options occurs: greedy, always the same.

    >>> len(covering((("a", (1, 2, 3)), ("b", (1, 2)), ("c", (1, 2)), ("d", (1, 2)))))
    6
    """
    names = [name for name, _ in space]
    missing = {
        (i, u, j, v)
        for (i, (_, us)), (j, (_, vs)) in combinations(enumerate(space), 2)
        for u in range(len(us))
        for v in range(len(vs))
    }
    rows: list[dict[str, Any]] = []
    while missing:
        row: dict[int, int] = {}
        i, u, j, v = min(missing)
        row[i], row[j] = u, v
        for k in (k for k in range(len(space)) if k not in row):
            gain = [sum(_pair(k, value, o, row[o]) in missing for o in row) for value in range(len(space[k][1]))]
            row[k] = gain.index(max(gain))
        missing -= {_pair(a, row[a], b, row[b]) for a, b in combinations(row, 2)}
        rows.append({names[k]: space[k][1][value] for k, value in row.items()})
    return rows


@cache
def each_value(space: tuple[tuple[str, tuple[Any, ...]], ...]) -> list[dict[str, Any]]:
    """Fewer choices still, in which every value of every option occurs, with and without padding.

    >>> len(each_value((("a", (1, 2, 3)), ("padded", (False, True)), ("b", (1, 2)))))
    6
    """
    values = dict(space)
    padded = values.pop("padded")
    return [
        # the second round of an option begins one further for every second option, or they would all go in step
        {n: v[(i + i // len(v) * (j % 2)) % len(v)] for j, (n, v) in enumerate(values.items())} | {"padded": each}
        for i in range(max(map(len, values.values())))
        for each in padded
    ]


COVERING = {"pairs": covering, "values": each_value}


def _pair(i: int, u: int, j: int, v: int) -> tuple[int, int, int, int]:
    return (i, u, j, v) if i < j else (j, v, i, u)


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


@st.composite
def tome(draw: Draw, kind: str, shape: tuple[int, int], mask: Array | None, choice: dict[str, Any]) -> Case:
    n = shape[1]
    matching = choice["matching"]
    config: dict[str, Any] = {"protected": min(choice["protected"], n)}
    if matching == "kth":
        config |= {"matching": "kth", "k": choice["k"]}
    else:
        config["r"] = max(1, n // 4) if choice["r"] == "a quarter" else choice["r"]
        config |= {"matching": "random"} if matching == "random" else {"order": matching}
    inputs = {"x": draw(tokens("generic", (*shape, CHANNELS)))}
    inputs["metric"] = draw(tokens(kind, (*shape, WIDTH), "metrics"))
    if matching == "random":
        rng = np.random.default_rng(draw(seeds, label="seed of the permutation"))
        inputs["permutation"] = rng.permuted(np.tile(np.arange(n), (shape[0], 1)), axis=1)
    return Case("tome", config, inputs)


@st.composite
def ats(draw: Draw, kind: str, shape: tuple[int, int], mask: Array | None, choice: dict[str, Any]) -> Case:
    b, n = shape
    k, heads = choice["max_tokens"], choice["heads"]
    config: dict[str, Any] = {"max_tokens": k, "score": choice["score"]}
    random = choice["random"] if kind != "exact" or choice["random"] == "released" else None
    rng = np.random.default_rng(draw(seeds, label="seed of attention and values"))
    if kind == "exact":
        row, value = _dyadic_attention(rng, (b, heads, n), mask), rng.choice([-1.0, 1.0], (b, heads, n, CHANNELS))
    else:
        row, value = rng.random((b, heads, n)) ** 4, rng.standard_normal((b, heads, n, CHANNELS))
        if kind == "degenerate":
            row *= draw(st.sampled_from([0.0, 1.0]), label="attention is there")
        elif draw(st.booleans(), label="some scores are zero"):
            row *= rng.random(row.shape) < 0.5
            row[rng.random(b) < 0.3] = 0  # and all of a sample
        row /= np.maximum(row.sum(axis=2, keepdims=True), 1e-30)
    attn = row
    if choice["whole attention matrix"]:
        attn = rng.random((b, heads, n, n))
        attn[:, :, :1] = row[:, :, None][:, :, : min(1, n)]
    inputs = {"x": draw(tokens("generic", (*shape, CHANNELS))), "attn": attn, "value": value}
    if random == "noise":
        config["sampling"] = "gumbel"
        inputs["noise"] = rng.gumbel(size=(b, k, max(n - 1, 0)))
    elif random == "released":
        config["sampling"] = "released"
    elif random == "uniforms":
        inputs["uniforms"] = rng.random((b, k))
    return Case("ats", config, inputs)


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
def patch_merger(draw: Draw, kind: str, shape: tuple[int, int], mask: Array | None, choice: dict[str, Any]) -> Case:
    m = choice["num_tokens_out"]
    config = {"dim": CHANNELS, "num_tokens_out": m, **dict([choice["variant"]] if choice["variant"] else [])}
    # without eps a constant token amplifies rounding without limit, unless it is zero
    inputs = {"x": draw(tokens("generic" if config.get("eps") == 0 else kind, (*shape, CHANNELS)))}
    rng = np.random.default_rng(draw(seeds, label="seed of the parameters"))
    params = {"queries": rng.standard_normal((m, CHANNELS)), "scale": rng.random(CHANNELS) + 0.5}
    if config.get("use_bias", True):
        params["bias"] = rng.standard_normal(CHANNELS)
    params = {name: value.astype(np.float32) for name, value in params.items()}
    return Case("patch_merger", config, inputs, params)


@st.composite
def ltm(draw: Draw, kind: str, shape: tuple[int, int], mask: Array | None, choice: dict[str, Any]) -> Case:
    b, n = shape
    protected, ratio = min(choice["protected"], n), choice["compression_ratio"]
    config = {"dim": CHANNELS, "compression_ratio": ratio, "protected": protected}
    config["prior_smoothing"] = choice["prior_smoothing"]
    inputs = {"x": draw(tokens(kind, (*shape, CHANNELS)))}
    rng = np.random.default_rng(draw(seeds, label="seed of the parameters"))
    rest = n - protected
    if choice["prior"] != "pooling":
        columns = (b,) * (choice["prior"] == "one per sample") + (ltm_tokens_out(rest, ratio),)
        prior = rng.dirichlet(np.ones(max(rest, 1)), columns)[..., :rest]
        if draw(st.booleans(), label="zeros in the prior"):
            prior = prior * (rng.random(prior.shape) < 0.7)
        inputs["prior"] = np.swapaxes(prior, -1, -2)
    params = {"weight": rng.standard_normal(CHANNELS).astype(np.float32)}
    return Case("ltm", config, inputs, params)


def _given(**arrays: Array | None) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if array is not None}


MERGERS: dict[str, Any] = {"tome": tome, "ats": ats, "patch_merger": patch_merger, "ltm": ltm}

# What a compiling backend compiles anew for, besides shapes. ToMe: bipartite matching goes by the name of its order.
SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "tome": {
        "matching": ("grouped", "positional", "score", "kth", "random"),
        "protected": (0, 1, 2, 5),
        "r": (1, 3, 10**6, "a quarter", 0),
        "k": (2, 3, 7, 1),
    },
    "ats": {
        "max_tokens": (4, 7, 1, 64),
        "score": ("per_head", "concat"),
        "random": (None, "uniforms", "noise", "released"),
        "heads": (1, 4),
        "whole attention matrix": (False, True),
    },
    "patch_merger": {
        "num_tokens_out": (3, 1),
        "variant": (None, ("logit_scale", 1.0), ("normalize", False), ("use_bias", False), ("eps", 1e-3), ("eps", 0.0)),
    },
    "ltm": {
        "compression_ratio": (0.5, 0.25, 0.8, 1.0),
        "protected": (0, 1, 2),
        "prior_smoothing": (0.1, 0.0, 1.0),
        "prior": ("pooling", "shared", "one per sample"),
    },
}
