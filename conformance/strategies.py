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

from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import Case
from tokenmerge.conformance.draws import Draw, masks, sizes
from tokenmerge.conformance.mergers import MERGERS

Array = np.ndarray[Any, Any]

SHAPES = {
    "generic": [(2, 9), (1, 16), (3, 6)],
    "exact": [(2, 9), (1, 80), (3, 6)],  # 80: sorts that are not stable keep the order of 16 equal entries
    "degenerate": [(0, 6), (2, 0), (2, 1), (3, 2), (1, 3), (2, 6)],
    "large": [(1, 197), (1, 577), (1, 1024)],
}
COMPILED = {"generic": [(2, 9), (1, 80)], "exact": [(2, 9), (1, 80)], "degenerate": [(0, 6), (2, 0), (2, 1), (1, 3)]}


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
        fixed: options of the merger's space that have one value only.
        turn: which of the combinations of "pairs" or "values" comes first.
    """
    proof, fixed = MERGERS[merger], fixed or {}
    few = options in COVERING
    shapes = COMPILED.get(kind, SHAPES[kind]) if few else SHAPES[kind]
    space: dict[str, tuple[Any, ...]] = {"shape": tuple(shapes) if shape is None else (shape,)}
    space["padded"] = (padded,) if padded is not None else (False,) if kind == "large" or shape else (False, True)
    space |= {"sized": (False, True)} | dict(proof.space)
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
        mask = draw(masks(choice["shape"], class_token=proof.class_token and kind != "degenerate"), label="mask")
    case = proof.cases(draw, kind, choice["shape"], mask, choice)
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
    """Fewer choices still, in which every value of every option occurs, half of them with padding.

    >>> len(each_value((("a", (1, 2, 3)), ("padded", (False, True)), ("b", (1, 2)))))
    3
    """
    values = dict(space)
    padded = values.pop("padded")
    return [
        # the second round of an option begins one further for every second option, or they would all go in step
        {n: v[(i + i // len(v) * (j % 2)) % len(v)] for j, (n, v) in enumerate(values.items())}
        | {"padded": padded[i // 2 % len(padded)]}
        for i in range(max(map(len, values.values())))
    ]


# Beyond every small power of two, and no multiple of one: where kernels end. The largest are beyond those of networks
# that are in use, too, whose tokens have up to 768 channels and 16 heads.
ODD: dict[str, tuple[Any, ...]] = {
    "shape": ((5, 33), (35, 3), (2, 129), (1, 257), (6, 65)),
    "channels": (1, 3, 17, 65, 771),
    "padded": (False, True),
    "sized": (False, True),
}


def odd_rows(merger: str, kind: str) -> list[dict[str, Any]]:
    """Choices of shapes, widths and options in which every pair of them occurs."""
    proof = MERGERS[merger]
    exact = dict(proof.odd_exact) if kind == "exact" else {}
    return covering(tuple((dict(proof.space) | ODD | dict(proof.odd) | exact).items()))


@st.composite
def odd_cases(draw: Draw, merger: str, kind: str, row: dict[str, Any]) -> Case:
    """The case of one such choice."""
    proof = MERGERS[merger]
    mask = draw(masks(row["shape"], class_token=proof.class_token), label="mask") if row["padded"] else None
    case = proof.cases(draw, kind, row["shape"], mask, row)
    case.inputs.update(_given(size=draw(sizes(row["shape"])) if row["sized"] else None, mask=mask))
    return case


@st.composite
def any_cases(draw: Draw, /, merger: str, kind: str = "generic", padded: bool | None = None, **fixed: Any) -> Case:
    """A case of any small shape, which hardly ever comes twice, with options of all kinds: not where it is compiled.

    Args:
        merger: one of them.
        kind: "generic" or "exact".
        padded: whether there is a mask; None for sometimes.
        fixed: options, widths or a `shape (B,N)` that are held fixed.
    """
    proof = MERGERS[merger]
    space = dict(proof.space) | ODD | dict(proof.odd) | (dict(proof.odd_exact) if kind == "exact" else {})
    space = {name: (*values, *proof.space.get(name, ())) for name, values in space.items()}
    row = {name: draw(st.sampled_from(values), label=name) for name, values in space.items() if name not in fixed}
    shape = st.tuples(st.integers(1, 7), st.integers(2, 40)), st.sampled_from(ODD["shape"])
    row |= {"shape": draw(st.one_of(*shape), label="B, N"), **fixed}
    if kind == "generic":
        row["channels"] = fixed.get("channels") or draw(st.integers(2, 40), label="channels")
    return draw(odd_cases(merger, kind, row | ({} if padded is None else {"padded": padded})))


COVERING = {"pairs": covering, "values": each_value}


def _pair(i: int, u: int, j: int, v: int) -> tuple[int, int, int, int]:
    return (i, u, j, v) if i < j else (j, v, i, u)


def _given(**arrays: Array | None) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if array is not None}
