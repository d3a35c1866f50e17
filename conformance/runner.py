"""Runs the checks on a backend and says what each one found."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.errors import DidNotReproduce

from tokenmerge.conformance.case import backend_of
from tokenmerge.conformance.checks import CHECKS, Check
from tokenmerge.conformance.checks.check import MERGERS
from tokenmerge.conformance.failure import own_program, repeat_program, replay_program, shown, told
from tokenmerge.conformance.fault import REPORT, is_suites
from tokenmerge.conformance.subject import Mismatch, Subject

# Examples per check; the checks are the same at every level.
LEVELS = {"quick": 5, "ci": 40, "deep": 4000}
# Where new shapes and options are compiled, which takes a hundred times as long as running them.
COMPILED = {"quick": 1, "ci": 20, "deep": 4000}
MEMORY = "CALL-3"  # the rule that nothing is kept between calls


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        id, tier, statement, rules: of the check.
        broken: the rules that are broken, where it failed.
        status: "passed", "failed", "skipped", "not applicable", or "suite error" where the suite itself failed.
        dtype: of the inputs.
        examples: how many were tried.
        worst, median: share of the rounding budget that the comparisons used; None where nothing was rounded.
        seconds: that it took.
        message: what differs, or why it is skipped or does not apply.
        snippet: a program that shows the failure when pasted.
        repeat: a program that runs the whole check again, where it failed.
        input: the shrunk input, for people, where it was a case.
        budgets: worst and median share of the budget for every rule that a comparison was about.
    """

    id: str
    tier: int
    statement: str
    rules: tuple[str, ...]
    status: str
    dtype: str
    broken: tuple[str, ...] = ()
    examples: int = 0
    worst: float | None = None
    median: float | None = None
    seconds: float = 0.0
    message: str = ""
    snippet: str = ""
    repeat: str = ""
    input: str = ""
    budgets: dict[str, tuple[float, float]] = field(default_factory=dict)


def select(mergers: tuple[str, ...] = MERGERS) -> list[Check]:
    """The checks of some mergers, and those that belong to none."""
    return [check for check in CHECKS.values() if check.room in mergers or check.room not in MERGERS]


def run_check(subject: Subject, check: Check, level: str = "ci", seed: int | None = None) -> Result:
    """Run one check until it fails or the examples of the level are used up."""
    reason = check.applies(subject)
    if reason:
        return not_run(check, subject.dtype, "not applicable", reason)
    tried: list[bool] = []
    first: list[tuple[str, ...]] = []
    subject.level = level
    attempt = _attempt(subject, _listening(check, first), level, seed, tried)
    subject.budgets.clear()
    subject.budgets_of.clear()
    start = time.perf_counter()
    status, message, snippet, shrunk, example = "passed", "", "", "", ""
    broken: tuple[str, ...] = ()
    try:
        (attempt if seed is None else with_seed(seed)(attempt))()
    except Mismatch as error:
        sentences, example = told(error)
        status, snippet, broken = "failed", own_program(error, subject), _remembered(error.rules or check.rules, first)
        message = "\n".join([error.message, *sentences])
        shrunk = "" if error.case is None else shown(error.case, subject.dtype)
    except (Exception, SystemExit) as error:
        ours = is_suites(error, subject.module)
        status, broken = ("suite error", ()) if ours else ("failed", check.rules)
        said = f"{check.id} raised {type(error).__name__}: {error}"
        sentences, example = told(error)
        message = "\n".join([f"{said}; {REPORT}" if ours else said, *sentences])
    budgets = subject.budgets
    again = ""
    if status == "failed":
        again = repeat_program(subject.name, check.id, subject.dtype, subject.device, level, seed)
        if not snippet and example:
            snippet = replay_program(subject.name, check.id, subject.dtype, subject.device, level, example)
    return Result(
        id=check.id,
        tier=check.tier,
        statement=check.statement,
        rules=check.rules,
        status=status,
        dtype=subject.dtype,
        broken=broken,
        examples=len(tried),
        worst=max(budgets) if budgets else None,
        median=statistics.median(budgets) if budgets else None,
        seconds=time.perf_counter() - start,
        message=message,
        snippet=snippet or again,
        repeat=again,
        input=shrunk,
        budgets=budgets_by_rule(check, subject),
    )


def _attempt(subject: Subject, check: Check, level: str, seed: int | None, tried: list[bool]) -> Callable[..., None]:
    """The check as a test of Hypothesis; `tried` grows with every example."""
    most = examples_of(check, level, subject)
    alone = most == 1 and subject.compiles

    @settings(
        max_examples=most,
        database=None,
        deadline=None,
        derandomize=seed is None,
        phases=(Phase.generate, Phase.shrink) if check.shrinks else (Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=True,
    )
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        # Hypothesis begins with the simplest example, which says least when it is the only one
        if alone and data.draw(st.integers(0, 999), label="not the simplest example") == 0:
            reject()
        tried.append(True)
        check.function(subject, data)

    made: Callable[..., None] = attempt
    return made


def _listening(check: Check, first: list[tuple[str, ...]]) -> Check:
    """The check, which also writes down what its first failure broke."""

    def function(subject: Subject, data: st.DataObject) -> None:
        try:
            check.function(subject, data)
        except Mismatch as error:
            if not first:
                first.append(error.rules or check.rules)
            raise

    return replace(check, function=function)


def _remembered(rules: tuple[str, ...], first: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The rules of the last failure; and memory, if the first broke that: what is kept spoils later examples."""
    return (*rules, MEMORY) if first and MEMORY in first[0] and MEMORY not in rules else rules


def examples_of(check: Check, level: str, subject: Subject) -> int:
    """How many examples a check is tried on."""
    levels = COMPILED if subject.compiles else LEVELS
    most = levels[level] / 2 if level == "ci" and subject.brief else levels[level]
    return max(1, round(most * check.share))


def not_run(check: Check, dtype: str, status: str, reason: str) -> Result:
    """The result of a check that is skipped or does not apply."""
    return Result(check.id, check.tier, check.statement, check.rules, status, dtype, message=reason)


def budgets_by_rule(check: Check, subject: Subject) -> dict[str, tuple[float, float]]:
    """Worst and median use of the budget per rule: comparisons that name none are about every rule of the check."""
    of = subject.budgets_of or {"": subject.budgets}
    used = {rule: [*of.get(rule, []), *of.get("", [])] for rule in check.rules}
    used |= {rule: values for rule, values in of.items() if rule and rule not in used}
    return {rule: (max(values), statistics.median(values)) for rule, values in sorted(used.items()) if values}


def repeat(
    backend: str, check: str, dtype: str, device: str | None = None, level: str = "ci", seed: int | None = None
) -> Result:
    """Run one check on a backend again; see `run_check`.

    >>> repeat("numpy", "tome-exact", "float32", level="quick").status
    'passed'
    """
    return run_check(Subject(backend, backend_of(backend), dtype, device), CHECKS[check], level, seed)


def replay(
    backend: str | Any, check: str, dtype: str, example: bytes, device: str | None = None, level: str = "ci"
) -> str:
    """Run one check on one example that a failure printed, and say what differs.

    It is the choices that were drawn and not the numbers that were made of them, so it is short; another version of
    Hypothesis may not read it.

    >>> replay("numpy", "tome-exact", "float32", b"AAE=")
    'the check passes on this example, or the example is of another version of the suite or of Hypothesis'
    """
    subject, found = Subject(str(backend), backend_of(backend), dtype, device), CHECKS[check]
    subject.level = level
    attempt = _attempt(subject, found, level, None, [])
    try:
        hypothesis.reproduce_failure(hypothesis.__version__, example)(attempt)()
    except DidNotReproduce:
        return "the check passes on this example, or the example is of another version of the suite or of Hypothesis"
    except Exception as error:
        return error.message if isinstance(error, Mismatch) else f"{check} raised {type(error).__name__}: {error}"
    return "the check passes on this example"
