"""How a merger is proved: the record that each `conformance/<name>.py` ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenmerge.conformance.backward import Formula
from tokenmerge.conformance.case import Case, Outcome
from tokenmerge.conformance.verdict import Finding
from tokenmerge.spec.shared.description import Description

Bad = tuple[dict[str, Any], dict[str, Any]]
BadCall = tuple[str, dict[str, Any]]  # a function, and what it is given


def no_differences(case: Case, outcome: Outcome, want: Any) -> tuple[str, ...]:
    """Of a merger that decides nothing."""
    return ()


@dataclass(frozen=True)
class Proof:
    """One merger, as the suite knows it.

    Attributes:
        description: what it is, from the spec.
        certify: findings about an outcome.
        cases: draws a case: `(draw, kind, shape, mask, choice)`, `choice` with an entry of every option of `space`.
        space: what a compiling backend compiles anew for, besides shapes; the first of each is the typical one.
        config: options that any backend takes, for checks that are about something else.
        bad: (options, arguments of a call) that are refused.
        refused: a function of the merger's room that the backend must have, and calls of functions there that are
            refused.
        padding: the rule about padded batches. first: that about first values of parameters.
        largest: options at N = 4096: at least what has to be decided, the mask of a plan not square.
        most_inputs: options with which a call takes most arrays.
        odd: options beyond every small power of two, and the widths of what it reads; odd_exact: where arithmetic has
            to be exact.
        differences: the rules by which two decided plans differ.
        about: the rules that a case is about, whatever the check, where a backend crashes on it; none for the check's.
        class_token: whether the first token must be real.
        differentiable: inputs that get a gradient, whatever is decided.
        formula: tokens and sizes with the decisions held fixed, see `conformance/backward.py`; None where nobody has
            written it, and gradients are compared with differences alone.
    """

    description: Description
    certify: Callable[[Case, Outcome], list[Finding]]
    cases: Callable[..., Case]
    space: Mapping[str, tuple[Any, ...]]
    config: Mapping[str, Any]
    bad: tuple[Bad, ...]
    padding: str
    refused: tuple[str, tuple[BadCall, ...]] = ("", ())
    first: tuple[str, ...] = ()
    largest: Mapping[str, Any] = field(default_factory=dict)
    most_inputs: Mapping[str, Any] = field(default_factory=dict)
    odd: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    odd_exact: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    differences: Callable[[Case, Outcome, Any], tuple[str, ...]] = no_differences
    about: Callable[[Case], tuple[str, ...]] = lambda case: ()
    class_token: bool = False
    differentiable: tuple[str, ...] = ("x",)
    formula: Formula | None = None

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def kind(self) -> str:
        """The kind of cases that shows most: exact decisions, or ordinary values."""
        return "exact" if self.description.decides else "generic"
