"""How many tokens a layer removes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tokenmerge import merge_schedule
from tokenmerge.spec.shared.schedule import kth_tokens_out, kth_width, ltm_tokens_out, tokens_removed


@pytest.mark.parametrize(
    ("r", "depth", "schedule"),
    [
        (8, 3, (8, 8, 8)),
        (0, 2, (0, 0)),
        ([5, 3], 4, (5, 3, 0, 0)),
        ([], 2, (0, 0)),
        ((8, 0.0), 3, (8, 8, 8)),
        ((8, 1.0), 3, (0, 8, 16)),
        ((8, -1.0), 3, (16, 8, 0)),
        ((8, 0.5), 4, (4, 6, 9, 12)),  # 4 + 8 i / 3, cut to integers
        ((8, 1.0), 1, (8,)),
    ],
)
def test_schedule(r: Any, depth: int, schedule: tuple[int, ...]) -> None:
    assert merge_schedule(r, depth) == schedule


@pytest.mark.parametrize(
    ("r", "depth", "steps", "schedule"),
    [
        (16, 12, 4, (0, 48, 0, 0, 48, 0, 0, 48, 0, 0, 48, 0)),
        (8, 5, 2, (0, 24, 0, 16, 0)),
        (8, 3, 3, (8, 8, 8)),
        (8, 3, 7, (8, 8, 8)),
        (8, 4, 1, (0, 32, 0, 0)),
        ([5, 3], 4, 2, (8, 0, 0, 0)),
        ((8, -1.0), 3, 1, (0, 24, 0)),
    ],
)
def test_stairs(r: Any, depth: int, steps: int, schedule: tuple[int, ...]) -> None:
    assert merge_schedule(r, depth, steps=steps) == schedule
    assert sum(schedule) == sum(merge_schedule(r, depth))


def test_stairs_need_a_step() -> None:
    with pytest.raises(ValueError, match="`steps` must be an integer >= 1, got 0"):
        merge_schedule(8, 3, steps=0)


@pytest.mark.parametrize(
    ("r", "depth", "sentence"),
    [
        ([1, 2, 3], 2, "`r` must have at most depth = 2 entries, got 3"),
        (-1, 2, "`r` must be an integer >= 0, got -1"),
        ([1, -1], 2, "`r` must be an integer >= 0, got -1"),
        ((8, 1.5), 2, r"`inflect` must be a number in \[-1, 1\], got 1.5"),
        ((8, 8, 8), 3, r"`r` must be \(r, inflect\) when it is a tuple, got 3 entries"),
        (8, 0, "`depth` must be an integer >= 1, got 0"),
    ],
)
def test_bad_schedule(r: Any, depth: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        merge_schedule(r, depth)


def test_r_is_clamped() -> None:
    assert [tokens_removed(n, 4, protected=1) for n in (0, 1, 2, 3, 8, 9, 10)] == [0, 0, 0, 1, 3, 4, 4]


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_kth_width_is_the_largest_of_all_shorter_samples(k: int) -> None:
    for n in range(20):
        assert kth_width(n, k, 2) == max(kth_tokens_out(m, k, 2) for m in range(n + 1))


def test_ltm_tokens_out_reads_the_decimal() -> None:
    assert ltm_tokens_out(100, 0.55) == 55 != math.ceil(0.55 * 100)
    assert all(ltm_tokens_out(n, 1 / 3) == math.ceil(n / 3) for n in range(1, 50) if n % 3)
