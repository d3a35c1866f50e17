"""Two calls timed in turn, A B A B, so that whatever disturbs the machine disturbs both."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from tokenmerge.bench.row import Call

FEWEST, MOST = 5, 1000  # rounds


@dataclass(frozen=True)
class Pair:
    """Seconds of every call, and what they say."""

    ours: list[float]
    other: list[float]

    def ratio(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of `other / ours` over the rounds.

        >>> Pair([1.0, 1.0, 2.0], [2.0, 4.0, 6.0]).ratio()
        (2.5, 3.0, 3.5)
        """
        low, middle, high = np.quantile(np.divide(self.other, self.ours), [0.25, 0.5, 0.75])
        return float(low), float(middle), float(high)


def compare(ours: Call, other: Call, seconds: float = 2.0) -> Pair:
    """Time both in turn for about so long, after a warm-up that does not count."""
    for call in (ours, other):
        _warm_up(call, seconds / 10)
    pair = Pair([], [])
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = perf_counter() + seconds
        while len(pair.ours) < FEWEST or (perf_counter() < end and len(pair.ours) < MOST):
            for call, taken in ((ours, pair.ours), (other, pair.other)):
                taken.append(_seconds(call))
    finally:
        if collecting:
            gc.enable()
    return pair


def best(call: Call, seconds: float = 0.5) -> float:
    """The shortest of several calls: what the machine can do."""
    _warm_up(call, seconds / 5)
    end, taken = perf_counter() + seconds, [_seconds(call)]
    while perf_counter() < end:
        taken.append(_seconds(call))
    return min(taken)


def _warm_up(call: Call, seconds: float) -> None:
    """Twice at least: what is compiled or cached is so after the first."""
    end = perf_counter() + seconds
    call()
    call()
    while perf_counter() < end:
        call()


def _seconds(call: Call) -> float:
    """Of one time; a call may do the same several times, and says how often in `times`."""
    start = perf_counter()
    call()
    return (perf_counter() - start) / getattr(call, "times", 1)
