"""Shapes and options beyond every small power of two: kernels break where their blocks end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenmerge.conformance.case import Case
from tokenmerge.conformance.checks.check import DECIDING, blame, check_each
from tokenmerge.conformance.checks.independence import alone
from tokenmerge.conformance.strategies import odd_cases, odd_rows
from tokenmerge.conformance.subject import Mismatch, Subject

MOST = {"quick": 12}  # rows
SOME = {"quick": 3, "ci": 12}  # where an interpreter takes seconds for each
FEW = {"quick": 1, "ci": 6}  # where each of them is compiled
ALL = 10**6


def every_row(subject: Subject, data: Any, merger: str, kind: str) -> Iterator[Case]:
    """A case for every row of the covering choice; every dtype begins with another one."""
    rows = odd_rows(merger, kind)
    few = SOME if subject.slow else FEW if subject.compiles else MOST
    most = few.get(subject.level, ALL)
    if subject.brief:
        most = max(1, most // 2)
    first = 5 * list(subject.module.DTYPES).index(subject.dtype)
    # from all over the list: its first rows hold most pairs, the last ones the odd ends
    step = max(1, len(rows) // most)
    for i in range(0, len(rows), step):
        yield data.draw(odd_cases(merger, kind, rows[(first + i) % len(rows)]))


def judged(subject: Subject, case: Case, exact: bool) -> None:
    """Judge a case; where every sample alone is right, the batch is to blame."""
    try:
        subject.judge(case, exact)
    except Mismatch:
        samples = len(case.inputs["x"])
        for i in range(samples if samples > 1 else 0):
            subject.judge(alone(case, i), exact)
        with blame(*(["CALL-4"] if samples > 1 else [])):
            raise


@check_each(
    "odd",
    2,
    "Batches, tokens, channels, heads and options that fill no block are treated as those that do.",
    "TOME-*",
    "ATS-*",
    "PM-*",
    "LTM-*",
    "PLAN-1",
    "PLAN-2",
    "PLAN-3",
    "PLAN-4",
    "PLAN-6",
    "CALL-4",
    share=0.025,
    shrinks=False,
)
def odd(subject: Subject, data: Any, merger: str) -> None:
    for case in every_row(subject, data, merger, "generic"):
        judged(subject, case, exact=False)


@check_each(
    "odd-exact",
    1,
    "The same on inputs whose arithmetic is exact: ties among many tokens, in every sample of a batch, go to the lower "
    "index.",
    "TOME-*",
    "ATS-*",
    "CALL-4",
    mergers=DECIDING,
    share=0.025,
    shrinks=False,
)
def odd_exact(subject: Subject, data: Any, merger: str) -> None:
    for case in every_row(subject, data, merger, "exact"):
        judged(subject, case, exact=True)
