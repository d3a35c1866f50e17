"""One check: a sentence of the spec, and a function that tries to refute it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from tokenmerge.conformance.mergers import MERGERS as PROOFS
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.subject import Mismatch, Subject

TIERS = {1: "exact", 2: "certified", 3: "rounding"}
Function = Callable[[Subject, Any], None]
PerMerger = Callable[[Subject, Any, str], None]


@dataclass(frozen=True)
class Check:
    """A check.

    Args:
        id: `room-name`, unique.
        tier: 1 exact equality, 2 decisions certified within a bound, 3 values within a bound.
        statement: what it shows, in one sentence.
        rules: ids of the rules of the spec that it tests.
        function: takes the subject and Hypothesis data; raises `Mismatch`.
        share: of the examples of a level, for checks that are slow.
        needs: what the backend must have for the check to apply: attributes with spaces between, such as
            "gradient ltm.plan"; None for nothing.
        dtype: the only dtype in which it applies, or None for all.
        everywhere: whether a quick look takes it in every dtype, too, where others run in one (see `Request`).
        devices: how many the backend must have for the check to apply.
        shrinks: whether a smaller failure is searched for.
    """

    id: str
    tier: int
    statement: str
    rules: tuple[str, ...]
    function: Function
    share: float = 1.0
    needs: str | None = None
    dtype: str | None = None
    everywhere: bool = False
    devices: int = 1
    shrinks: bool = True

    @property
    def room(self) -> str:
        return self.id.partition("-")[0]

    def applies(self, subject: Subject) -> str | None:
        """None if it applies, or why it does not."""
        if self.dtype not in (None, subject.dtype):
            return f"only in {self.dtype}"
        if self.room in MERGERS and self.room not in subject.module.MERGERS:
            return f"the backend has no {self.room}"
        for name in (self.needs or "").split():
            try:
                attrgetter(name)(subject.module)
            except AttributeError:
                return f"the backend has no {name}"
        if self.devices > 1 and len(subject.module.devices()) < self.devices:
            return f"the backend has no {self.devices} devices here"
        return None


PREFIXES = {name: proof.description.rules for name, proof in PROOFS.items()}
MERGERS = tuple(PROOFS)
DECIDING = tuple(name for name, proof in PROOFS.items() if proof.description.decides)
SOFT = tuple(name for name in MERGERS if name not in DECIDING)
LEARNED = tuple(name for name, proof in PROOFS.items() if proof.description.parameters)
CHECKS: dict[str, Check] = {}


def check(id: str, tier: int, statement: str, *rules: str, **options: Any) -> Callable[[Function], Function]:
    """Register a function as a check of some rules; a rule that ends in "*" stands for all that begin so."""

    def register(function: Function) -> Function:
        if id in CHECKS:
            raise ValueError(f"check: `id` must be a new one, got {id!r}")
        try:
            CHECKS[id] = Check(id, tier, statement, _expand(rules), function, **options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"check {id!r}: {error}") from error
        return function

    return register


def check_each(
    id: str, tier: int, statement: str, *rules: str, mergers: tuple[str, ...] = MERGERS, **options: Any
) -> Callable[[PerMerger], PerMerger]:
    """Register one function as a check of every merger: it takes the subject, the data and the merger's name.

    A rule that belongs to another merger is left out, and "{merger}" in `needs` is its name. What is said of no merger
    in particular holds for a new one, too.
    """
    needs = options.pop("needs", None) or ""

    def register(function: PerMerger) -> PerMerger:
        for merger in mergers:
            others = set(PREFIXES.values()) - {PREFIXES[merger]}
            # where all the rules are other mergers', it is about all of this one's
            own = [rule for rule in rules if rule.partition("-")[0] not in others] or [f"{PREFIXES[merger]}-*"]
            needed = needs.format(merger=merger) or None
            check(f"{merger}-{id}", tier, statement, *own, needs=needed, **options)(_for_merger(function, merger))
        return function

    return register


@contextmanager
def blame(*rules: str) -> Iterator[None]:
    """What goes wrong inside is first of all about these rules."""
    try:
        yield
    except Mismatch as error:
        named = tuple(dict.fromkeys((*rules, *error.rules)))
        raise Mismatch(error.message, error.snippet, named, error.case) from None


def _expand(given: tuple[str, ...]) -> tuple[str, ...]:
    known = rules()
    found = [rule for each in given for rule in known if rule == each or each == rule.partition("-")[0] + "-*"]
    unknown = [each for each in given if not each.endswith("*") and each not in known]
    if unknown or not found:
        raise ValueError(f"check: `rules` must be numbers of rules of the spec, got {unknown or given}")
    return tuple(found)


def _for_merger(function: PerMerger, merger: str) -> Function:
    def run(subject: Subject, data: Any) -> None:
        function(subject, data, merger)

    return run
