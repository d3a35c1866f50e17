"""From a case to a row."""

from __future__ import annotations

from statistics import median

from tokenmerge.bench.machine import Limits
from tokenmerge.bench.row import Case, Row
from tokenmerge.bench.timing import compare


def measure(case: Case, limits: Limits, seconds: float) -> Row:
    """Time a case, then look at its memory."""
    pair = compare(case.ours, case.other, seconds)
    low, ratio, high = pair.ratio()
    ours = median(pair.ours)
    floor = None if case.work is None else case.work.seconds(*limits)
    return Row(
        operation=case.operation,
        backend=case.backend,
        device=case.device,
        dtype=case.dtype,
        shape=case.shape,
        against=case.against,
        ours=ours,
        other=median(pair.other),
        ratio=ratio,
        low=low,
        high=high,
        rounds=len(pair.ours),
        floor=floor,
        of_floor=None if floor is None else ours / floor,
        predicted=case.predicted,
        our_peak=None if case.our_peak is None else case.our_peak(),
        other_peak=None if case.other_peak is None else case.other_peak(),
    )
