"""From the results of checks to verdicts on rules."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from tokenmerge.conformance.runner import Result

# In the order in which they are counted. A rule is unproven if no check of it passed, and none that failed blames it:
# the run was stopped early, a quick look took it in another dtype, or the one check of it fails over something else.
VERDICTS = ("green", "red", "unproven", "skipped", "n/a")


def verdict(rule: str, results: Iterable[Result]) -> dict[str, Any]:
    """What some results say about a rule.

    Args:
        rule: its id.
        results: of any checks, in one dtype or in several.

    Returns:
        `verdict`, one of `VERDICTS`; `worst` and `median` share of the rounding budget, None where nothing was rounded
        or the difference has no bound; `examples` that were tried; `skipped`, how many of its checks were left out.

    >>> verdict("TOME-1", [])["verdict"]
    'unproven'
    """
    results = list(results)
    own = [result for result in results if rule in result.rules]
    used = [result.budgets[rule] for result in results if rule in result.budgets]
    worst = max((worst for worst, _ in used), default=None)
    return {
        "verdict": _word(rule, results, own),
        "worst": finite(worst),
        "median": finite(statistics.median(median for _, median in used) if used else None),
        "examples": sum(result.examples for result in own),
        "skipped": sum(result.status == "skipped" for result in own),
    }


def _word(rule: str, results: Sequence[Result], own: Sequence[Result]) -> str:
    found = {result.status for result in own}
    if any(rule in result.broken for result in results):
        return "red"
    if "passed" in found:
        return "green"
    if found <= {"skipped", "not applicable"} and found:
        return "skipped" if "skipped" in found else "n/a"
    return "unproven"


def finite(value: float | None) -> float | None:
    """A number that JSON can hold, rounded to what anybody reads; None for no number and for infinity."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.4g}")
