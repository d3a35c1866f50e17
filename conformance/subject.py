"""What is being checked: a backend in one dtype on one device. A check that fails raises `Mismatch`."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from hypothesis.strategies import SearchStrategy

from tokenmerge.conformance.case import Case, Outcome, run_case
from tokenmerge.conformance.judge import judge
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.strategies import cases
from tokenmerge.conformance.verdict import Finding, Verdict


class Mismatch(AssertionError):
    """A backend disagrees with the spec.

    Args:
        message: what differs, one line each: `{what}={got}, but should be {want}`.
        snippet: a program that shows it when pasted.
        rules: ids of the rules that are broken; empty for those of the check.
        case: what was run, where it was a case.
    """

    def __init__(self, message: str, snippet: str = "", rules: tuple[str, ...] = (), case: Case | None = None) -> None:
        super().__init__(f"{message}\n\nRepeat it with:\n\n{snippet}" if snippet else message)
        self.message, self.snippet, self.rules, self.case = message, snippet, rules, case


def mostly(module: ModuleType) -> str | None:
    """The dtype of most checks, where everything is compiled anew in each; None where nothing is compiled."""
    if not getattr(module, "COMPILES", False):
        return None
    return "float32" if "float32" in module.DTYPES else next(iter(module.DTYPES), None)


@dataclass
class Subject:
    """A backend in one dtype, and what its checks have measured.

    Args:
        name: as it was asked for; printed, and used in snippets.
        module: the backend.
        dtype: one of its `DTYPES`.
        device: one of its `devices()`, or None for its default.
        level: how thorough; the runner sets it.
        budgets: share of the rounding budget that each comparison used, in order; the runner empties it.
        budgets_of: the same per rule, the worst of each call of `demand`; "" for comparisons that name no rule.
    """

    name: str
    module: ModuleType
    dtype: str
    device: str | None = None
    level: str = "ci"
    budgets: list[float] = field(default_factory=list)
    budgets_of: dict[str, list[float]] = field(default_factory=dict)

    def cases(
        self, merger: str, kind: str, padded: bool | None = None, fixed: dict[str, Any] | None = None
    ) -> SearchStrategy[Case]:
        """Cases for this backend: of few shapes and options where each of them is compiled anew."""
        return cases(merger, kind, padded, fixed=fixed, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """How `cases` chooses shapes and options. Where they are very few, every dtype begins with another one."""
        if not self.compiles:
            return {"options": "free"}
        if not self.brief:
            return {"options": "pairs"}
        return {"options": "values", "turn": 2 * self.module.DTYPES.index(self.dtype)}

    @property
    def brief(self) -> bool:
        """Whether little is compiled: in a quick look, and at level ci in all dtypes but one, which sees all pairs."""
        beside = self.level == "ci" and self.dtype != mostly(self.module)
        return self.compiles and (self.level == "quick" or beside)

    @property
    def compiles(self) -> bool:
        """Whether the backend compiles once per shape and option, and says so."""
        return bool(getattr(self.module, "COMPILES", False))

    @property
    def slow(self) -> bool:
        """Whether the backend says that an interpreter or a simulator runs it."""
        return bool(getattr(self.module, "SLOW", False))

    def run(self, case: Case) -> Outcome:
        """Run a case; a crash is a mismatch like any other."""
        try:
            return run_case(case, self.module, self.dtype, self.device)
        except (Exception, SystemExit) as error:
            raise Mismatch(
                f"raised {type(error).__name__}: {error}, but should return a result [{case}]",
                self.snippet(case),
                MERGERS[case.merger].about(case),
                case,
            ) from error

    def judge(self, case: Case, exact: bool = False) -> Outcome:
        """Run a case and hold it against the spec."""
        outcome = self.run(case)
        verdict = judge(case, outcome, exact)
        self.budgets.append(verdict.budget_used)
        self.demand(case, *verdict.findings, exact=exact)
        return outcome

    def demand(self, case: Case, *findings: Finding, exact: bool = False) -> None:
        """Raise `Mismatch` unless all findings are good; `exact` is how they were judged."""
        worst: dict[str, float] = {}
        for finding in findings:
            for rule in finding.rules or ("",):
                worst[rule] = max(worst.get(rule, 0.0), finding.used)
        for rule, used in worst.items():
            self.budgets_of.setdefault(rule, []).append(used)
        broken = [finding for finding in findings if not finding.ok]
        if broken:
            rules = tuple(dict.fromkeys(rule for finding in broken for rule in finding.rules))
            raise Mismatch(f"{Verdict(None, findings)} [{case}, {self.dtype}]", self.snippet(case, exact), rules, case)

    def snippet(self, case: Case, exact: bool = False) -> str:
        return case.snippet(self.name, self.dtype, self.device, exact)
