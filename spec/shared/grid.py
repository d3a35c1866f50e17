"""Tokens on a grid: how many rows and columns are left, and what a prior over a grid takes."""

from __future__ import annotations

import math
from typing import Any

from tokenmerge.spec.shared.arguments import check_integer, check_real, shown
from tokenmerge.spec.shared.schedule import ltm_tokens_out

Grid = tuple[int, int]


def grid_tokens_out(grid: Grid, compression_ratio: float) -> Grid:
    """Rows and columns that LTM leaves of a grid: `h' = ceil(sqrt(rho) h)`, `w' = ceil(sqrt(rho) w)`.

    The root is taken in float64 and read as the decimal number that it prints as, so that 0.64 of 5 rows are 4.

    Raises:
        TypeError, ValueError: a grid that is no pair of positive integers, or a ratio out of (0, 1].

    >>> grid_tokens_out((5, 7), 0.64), grid_tokens_out((14, 14), 0.8)
    ((4, 6), (13, 13))
    """
    rows, columns = _pair("grid", grid)
    check_real("ltm", "compression_ratio", compression_ratio, 0.0, 1.0, "(0, 1]")
    root = math.sqrt(float(compression_ratio))
    return ltm_tokens_out(rows, root), ltm_tokens_out(columns, root)


def check_grid_prior(grid: Any, merged: Any, smoothing: Any) -> tuple[Grid, Grid]:
    """The arguments of `ltm.grid_prior`: both grids.

    Raises:
        TypeError, ValueError: one of another type, or a merged grid that is larger.
    """
    rows, columns = _pair("grid", grid)
    fewer_rows, fewer_columns = _pair("merged", merged)
    if fewer_rows > rows or fewer_columns > columns:
        raise ValueError(f"ltm: `merged` must be at most the grid {(rows, columns)}, got {(fewer_rows, fewer_columns)}")
    check_real("ltm", "smoothing", smoothing, 0.0, 1.0, "[0, 1]")
    return (rows, columns), (fewer_rows, fewer_columns)


def _pair(name: str, value: Any) -> Grid:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"ltm: `{name}` must be a pair of rows and columns, got {shown(value)}")
    rows, columns = (check_integer("ltm", name, side, minimum=1, hint="rows and columns") for side in value)
    return rows, columns
