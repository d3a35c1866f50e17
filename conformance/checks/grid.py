"""LTM's prior over tokens that lie on a grid, for backends that have it."""

from __future__ import annotations

from fractions import Fraction
from inspect import signature
from math import sqrt
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import context, to_numpy
from tokenmerge.conformance.checks.check import check
from tokenmerge.conformance.rounding import Rounded
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.conformance.verdict import within
from tokenmerge.spec import ltm

DTYPE = "float32"  # at least: the prior is made from integers, not from arrays that have a dtype
DEFAULT = signature(ltm.grid_prior).parameters["smoothing"].default
SIDES = st.integers(1, 9)


@check(
    "ltm-grid_prior",
    3,
    "Average pooling over rows and columns.",
    "LTM-8",
    needs="ltm.grid_prior",
    dtype=DTYPE,
)
def grid_prior(subject: Subject, data: Any) -> None:
    rows, columns = data.draw(st.sampled_from([(4, 6), (3, 5), (7, 7), (1, 8), (9, 2)]), label="grid")
    merged = (data.draw(st.integers(1, rows), label="rows"), data.draw(st.integers(1, columns), label="columns"))
    smoothing = data.draw(st.sampled_from([0.25, 0.1, 0.0, 1.0]), label="smoothing")
    told = () if smoothing == DEFAULT else (smoothing,)
    with context(subject.module, DTYPE):
        got = to_numpy(subject.module, subject.module.ltm.grid_prior((rows, columns), merged, *told))
    # every entry from the definition: token (i, j) in the window of slot (p, q)
    i, j, p, q = np.ogrid[:rows, :columns, : merged[0], : merged[1]]
    inside, count = _window(i, rows, p, merged[0]), _window(j, columns, q, merged[1])
    shape = (rows * columns, merged[0] * merged[1])
    area = (inside[1] * count[1] + 0 * i + 0 * j).reshape(shape)
    pool = Rounded.exact((inside[0] & count[0]).reshape(shape), DTYPE) / Rounded.exact(area, DTYPE)
    share = Rounded.exact(smoothing, DTYPE)
    share = Rounded(share.value, share.value * share.unit, DTYPE)  # the decimal number, in the backend's precision
    finding = within("grid_prior", got, pool * (Rounded.exact(1.0, DTYPE) - share) + share / float(rows * columns))
    subject.budgets.append(finding.used)
    if not finding.ok:
        raise Mismatch(f"{finding.message} [grid {(rows, columns)} to {merged}, smoothing {smoothing}]")


@check(
    "ltm-grid_tokens_out",
    1,
    "ceil(sqrt(rho) h) rows and ceil(sqrt(rho) w) columns.",
    "LTM-9",
    needs="ltm.grid_tokens_out",
    dtype=DTYPE,
    share=0.25,
)
def grid_tokens_out(subject: Subject, data: Any) -> None:
    grid = (data.draw(SIDES, label="rows"), data.draw(SIDES, label="columns"))
    drawn = data.draw(st.integers(1, 1000), label="thousandths")
    squares = [square / 100 for square in (1, 4, 9, 16, 25, 36, 49, 64, 81)]
    for case, ratio in [(grid, drawn / 1000), *(((sides, 10), ratio) for ratio in squares for sides in (5, 10))]:
        root = Fraction(repr(sqrt(ratio)))
        want = tuple(-(-root.numerator * side // root.denominator) for side in case)
        got = tuple(subject.module.ltm.grid_tokens_out(case, ratio))
        if got != want:
            raise Mismatch(f"grid_tokens_out({case}, {ratio})={got}, but should be {want}")


def _window(place: Any, n: int, slot: Any, p: int) -> tuple[Any, Any]:
    """Whether a place is in the window of a slot, and how long that is."""
    start, stop = slot * n // p, -(-(slot + 1) * n // p)
    return (place >= start) & (place < stop), stop - start
