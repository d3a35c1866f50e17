"""What a comparison found: whether it held, and how much of the rounding budget was used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenmerge.conformance.rounding import Rounded, budget_used

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Args:
        what: what was compared, such as "tokens".
        used: share of the rounding budget that was used; 0 for exact agreement, above 1 for a violation.
        rules: ids of the rules it is about, the likeliest first.
        message: `{what}={got}, but should be {want}`, where it is violated.
    """

    what: str
    used: float
    rules: tuple[str, ...] = ()
    message: str = ""

    @property
    def ok(self) -> bool:
        return not self.message


@dataclass(frozen=True)
class Verdict:
    """All that was found about one outcome.

    Attributes:
        decisions_equal: whether all decisions are those of the spec in float64; None where a plan decides nothing.
        findings: every comparison.
    """

    decisions_equal: bool | None
    findings: tuple[Finding, ...] = field(default=())

    @property
    def certified(self) -> bool:
        """Whether every decision is optimal within its bound and every value within its budget."""
        return all(finding.ok for finding in self.findings)

    @property
    def budget_used(self) -> float:
        """The largest share of a rounding budget that any value or decision used."""
        return max((finding.used for finding in self.findings), default=0.0)

    def __str__(self) -> str:
        wrong = [finding.message for finding in self.findings if not finding.ok]
        if wrong:
            return "\n".join(wrong)
        return f"agrees with the spec; {self.budget_used:.3g} of the rounding budget used"


def within(what: str, got: Array, expected: Rounded, *rules: str) -> Finding:
    """Values against their exact value and bound, elementwise."""
    if np.shape(got) != expected.value.shape:
        return Finding(what, np.inf, rules, f"{what}.shape={np.shape(got)}, but should be {expected.value.shape}")
    if not np.isfinite(expected.error).all():
        raise ArithmeticError(f"no finite bound for {what}: the check would accept anything")
    used = budget_used(got, expected)
    worst = float(used.max(initial=0.0))
    if worst <= 1:
        return Finding(what, worst, rules)
    at = tuple(int(i) for i in np.unravel_index(int(used.argmax()), used.shape))
    want, bound = expected.value[at], np.broadcast_to(expected.error, used.shape)[at]
    return Finding(what, worst, rules, f"{what}{list(at)}={got[at]:.9g}, but should be {want:.9g} within {bound:.3g}")


def exactly(what: str, got: Any, want: Any, *rules: str) -> Finding:
    """Integers, masks, names, or values that must be copied bit by bit."""
    if isinstance(got, np.ndarray) and isinstance(want, np.ndarray):
        if got.shape != want.shape:
            return Finding(what, np.inf, rules, f"{what}.shape={got.shape}, but should be {want.shape}")
        differs = (got != want) & ~((got != got) & (want != want))
        if not differs.any():
            return Finding(what, 0.0, rules)
        at = tuple(int(i) for i in np.argwhere(differs)[0])
        return Finding(what, np.inf, rules, f"{what}{list(at)}={got[at]}, but should be {want[at]}")
    same = type(got) is type(want) and got == want
    message = "" if same else f"{what}={_short(got)}, but should be {_short(want)}"
    return Finding(what, 0.0 if same else np.inf, rules, message)


def _short(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)
