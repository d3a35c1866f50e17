"""The plan: its laws, for plans that are given."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.conformance.vectors.vector import Array, Vector, booleans, floats, integers, mixed, numbered

PAIRS = [[0, 1, 0, 2, 1], [2, 2, 0, 1, 0]]  # two partitions of five tokens
DENSE = floats([[[0.5, 0.25, 0.0, 0.25], [0.125, 0.0, 0.0, 0.875]], [[1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]]])


def partition(name: str, rules: str, about: str, groups: Any, slots: int, **inputs: Array) -> Vector:
    assignment = integers(groups)
    given = {"x": numbered(*assignment.shape), "assignment": assignment} | inputs
    return Vector(name, tuple(rules.split()), about, "partition", {"num_tokens_out": slots}, given)


def compose(name: str, about: str, tokens: tuple[int, int, int], **inputs: Array) -> Vector:
    return Vector(name, ("PLAN-5",), about, "compose", {"num_tokens": list(tokens)}, inputs)


VECTORS = [
    partition("plan-1-merge", "PLAN-1 PLAN-6", "Every slot holds the mean of its members.", PAIRS, 3),
    partition(
        "plan-1-alone",
        "PLAN-1",
        "A token alone in its slot is copied bit by bit, whatever its size.",
        [[2, 0, 3, 1]],
        4,
        size=floats([[3, 1, 7, 0]]),
        x=mixed((1, 4, 3), 2, 16),
    ),
    Vector(
        "plan-2-share-dense",
        ("PLAN-2", "PLAN-3", "PLAN-4"),
        "The share divides every column by its sum; token 2 of sample 0 is in no slot, its row of the share is zero.",
        "dense",
        {},
        {"x": numbered(2, 4), "weights": DENSE, "size": floats([[1, 2, 3, 4], [1, 1, 2, 2]])},
    ),
    partition(
        "plan-3-size-sums",
        "PLAN-3",
        "Sizes are added, also past 256, where bfloat16 cannot count.",
        [[0, 0, 1, 0, 1]],
        2,
        size=floats([[255, 1, 2, 1, 0.5]]),
    ),
    Vector(
        "plan-3-size-selection",
        ("PLAN-3", "PLAN-4", "PLAN-7"),
        "What a selection drops is lost from the sizes and comes back as zeros.",
        "selection",
        {"num_tokens_in": 5},
        {
            "x": numbered(2, 5),
            "indices": integers([[0, 2, 4], [3, 1, 0]]),
            "size": floats([[1, 2, 3, 4, 5], [2, 2, 2, 2, 2]]),
        },
    ),
    partition(
        "plan-4-unmerge-dropped",
        "PLAN-4 PLAN-3",
        "Slot -1 drops a token: it is in no row of the matrix and comes back as zeros.",
        [[1, -1, 0, 1, -1]],
        2,
        size=floats([[1, 9, 1, 3, 9]]),
    ),
    partition(
        "plan-6-weighted-mean",
        "PLAN-6",
        "A token's weight is its size over the size of its group.",
        PAIRS,
        3,
        size=floats([[3, 1, 1, 5, 2], [1, 7, 2, 4, 6]]),
    ),
    partition(
        "plan-6-size-zero",
        "PLAN-6",
        "Members of size 0 weigh nothing, but a group of sizes 0 only is averaged plainly.",
        [[0, 0, 1, 1, 1, 2]],
        3,
        size=floats([[0, 2, 0, 0, 0, 0]]),
    ),
    partition(
        "plan-6-padded-slot",
        "PLAN-6 PLAN-1",
        "A slot without members has a row of zeros, size 0 and a token of zeros.",
        [[0, 0, 1, -1]],
        3,
        mask=booleans("110"),
    ),
    Vector(
        "plan-7-selection",
        ("PLAN-7", "PLAN-1"),
        "Every row of the matrix is one-hot; the padded slots are zero although their index is 0.",
        "selection",
        {"num_tokens_in": 4},
        {
            "x": numbered(2, 4),
            "indices": integers([[0, 3, 0], [0, 1, 2]]),
            "mask": booleans("110", "111"),
        },
    ),
    Vector(
        "plan-11-dense",
        ("PLAN-11",),
        "Token 2 of sample 0 and token 0 of sample 1 hold NaN and infinity and are in no slot: nothing sees them.",
        "dense",
        {},
        {
            "x": floats([[[1, 2], [3, 4], [np.nan, np.inf], [5, 6]], [[-np.inf, np.nan], [1, 0], [2, 4], [8, 2]]]),
            "weights": floats([DENSE[0], [[0, 0.5, 0.5, 0], [0, 0, 0.25, 0.75]]]),
            "size": floats([[1, 2, np.inf, 4], [np.nan, 1, 2, 2]]),
        },
    ),
    partition(
        "plan-11-partition",
        "PLAN-11 PLAN-6",
        "A member of size 0 beside others holds NaN, and a dropped token infinity.",
        [[0, 1, 0, 1, -1]],
        2,
        size=floats([[0, 1, 2, 3, 1]]),
        x=floats([[[np.nan, np.inf], [1, 2], [3, 4], [5, 6], [-np.inf, np.nan]]]),
    ),
    compose(
        "plan-5-partition-partition",
        "Two partitions compose to one by a gather of integers; -1 stays -1.",
        (6, 4, 2),
        first_assignment=integers([[0, 1, 1, 2, 3, -1], [3, 2, 1, 0, 0, 1]]),
        second_assignment=integers([[0, 1, 0, -1], [1, 1, 0, 0]]),
        size=floats([[1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 2, 2]]),
    ),
    compose(
        "plan-5-partition-selection",
        "A selection after a partition drops whole groups.",
        (5, 3, 2),
        first_assignment=integers([[0, 1, 0, 2, 1]]),
        second_indices=integers([[2, 1]]),
        second_mask=booleans("11"),
        size=floats([[1, 3, 3, 1, 1]]),
    ),
    compose(
        "plan-5-selection-selection",
        "Indices of indices; a slot that is padded in either selection is padded, with index 0.",
        (5, 4, 4),
        first_indices=integers([[1, 2, 4, 0]]),
        first_mask=booleans("1110"),
        second_indices=integers([[0, 2, 3, 0]]),
        second_mask=booleans("1110"),
    ),
    compose(
        "plan-5-selection-partition",
        "A partition after a selection: tokens that were not selected are dropped.",
        (5, 3, 2),
        first_indices=integers([[0, 2, 4]]),
        first_mask=booleans("111"),
        second_assignment=integers([[1, 0, 0]]),
        size=floats([[1, 2, 3, 4, 5]]),
    ),
    compose(
        "plan-5-partition-dense",
        "Anything dense makes the product dense; the partition brings the sizes in.",
        (4, 2, 2),
        first_assignment=integers([[0, 1, 0, 1]]),
        second_weights=floats([[[0.75, 0.25], [0.5, 0.5]]]),
        size=floats([[1, 2, 3, 2]]),
    ),
    compose(
        "plan-5-dense-dense",
        "Two dense plans compose by a product of matrices.",
        (4, 2, 2),
        first_weights=DENSE,
        second_weights=floats([[[0.5, 0.5], [0, 1]], [[0.25, 0.75], [0.75, 0.25]]]),
    ),
]
