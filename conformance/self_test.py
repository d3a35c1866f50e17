"""The proof of the proof: the suite has to turn red on every mutant, and to name the rule that is broken."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tokenmerge.backends import available_backends
from tokenmerge.conformance.checks import Check
from tokenmerge.conformance.checks.check import MERGERS
from tokenmerge.conformance.mutants import MUTANTS, Mutant
from tokenmerge.conformance.runner import LEVELS, run_check, select
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.spec.shared.arguments import check_choice


@dataclass(frozen=True)
class Kill:
    """What the suite made of a mutant.

    Attributes:
        mutant: the broken backend.
        killed: whether a check failed.
        named: whether a check that failed names the rule that is broken.
        checks: ids of those that failed; the last one is the one that names it.
        rules: rules that it said are broken, the likeliest first.
        seconds: that it took.
    """

    mutant: Mutant
    killed: bool
    named: bool
    checks: tuple[str, ...]
    rules: tuple[str, ...]
    seconds: float


def kill(mutant: Mutant, level: str = "ci", seed: int | None = None) -> Kill:
    """Run the suite on a mutant until a check names the broken rule.

    Args:
        mutant: which one.
        level: how many examples, "quick", "ci" or "deep".
        seed: of the examples; None for the same ones in every run.

    >>> kill(MUTANTS["ats-class-token-last"]).rules
    ('ATS-8',)
    """
    start = time.perf_counter()
    failed: list[str] = []
    rules: tuple[str, ...] = ()
    with mutant.built() as module, np.errstate(all="ignore"):
        subject = Subject(mutant.name, module, mutant.dtype)
        for check in _checks(mutant):
            result = run_check(subject, check, level, seed)
            if result.status == "failed":
                failed.append(check.id)
                rules = result.broken
                if mutant.rule in rules:
                    break
    named = mutant.rule in rules
    return Kill(mutant, bool(failed), named, tuple(failed), rules, time.perf_counter() - start)


def self_test(level: str = "ci", seed: int | None = None) -> Iterator[Kill]:
    """Every mutant whose framework is installed, one after the other."""
    for mutant in _installed():
        yield kill(mutant, level, seed)


def print_kill_table(console: Console, kills: list[Kill]) -> None:
    """One row per mutant, then how many were killed and which were not, or without naming the rule."""
    rows = Table(title="Mutants", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for heading in ("mutant", "rule", "named"):
        rows.add_column(heading, no_wrap=True)
    rows.add_column("seconds", justify="right")
    rows.add_column("killed by", overflow="fold")
    for each in kills:
        killed = each.checks[-1] if each.killed else "[bold red]survived[/]"
        rows.add_row(each.mutant.name, each.mutant.rule, _named(each), f"{each.seconds:.1f}", killed)
    console.print(rows)
    for each in kills:
        if not each.named:
            console.print(f"[bold]{each.mutant.name}[/]  {each.mutant.what}", highlight=False)
    good = sum(each.named for each in kills)
    colour = "green" if good == len(kills) else "bold red"
    console.print(f"[{colour}]{good} of {len(kills)} mutants killed, and the broken rule named[/]", highlight=False)


def _named(found: Kill) -> str:
    """The rules that were named, the likeliest first, at most three of them."""
    more = f" +{len(found.rules) - 3}" if len(found.rules) > 3 else ""
    style = {True: "green", False: "dim"}
    names = " ".join(f"[{style[rule == found.mutant.rule]}]{rule}[/]" for rule in found.rules[:3])
    wrong = "[bold red]not[/] " if found.killed and not found.named else ""
    return f"{wrong}{names}{more}"


def run_self_test(level: str = "ci", seed: int | None = None, mergers: tuple[str, ...] = ()) -> int:
    """Run the self-test and print its table.

    Args:
        level: how many examples, "quick", "ci" or "deep"; the demand is for "ci" and above.
        seed: of the examples; None for the same ones in every run.
        mergers: only the mutants that show in one of these; none for all mutants.

    Returns:
        0 if every mutant was killed and its rule named, 1 otherwise.

    Raises:
        ValueError: an unknown level or merger.
    """
    check_choice("conformance", "level", level, LEVELS)
    for merger in mergers:
        check_choice("conformance", "merger", merger, MERGERS)
    console = Console()
    mutants = [mutant for mutant in _installed() if not mergers or set(mergers) & set(mutant.mergers)]
    status = kill_all(console, mutants, level, seed)
    available = {mutant.backend for mutant in _installed()}
    missing = sorted({mutant.backend for mutant in MUTANTS.values()} - available)
    for backend in missing:
        left_out = sum(mutant.backend == backend for mutant in MUTANTS.values())
        console.print(f"{left_out} mutants of {backend} left out: it is not installed", highlight=False)
    return status


def kill_all(console: Console, mutants: Sequence[Mutant], level: str = "ci", seed: int | None = None) -> int:
    """Run the suite on mutants, with a bar on stderr, and print the table; 0 if all were killed and named, or 1."""
    kills: list[Kill] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("mutants", total=len(mutants))
        for mutant in mutants:
            progress.update(task, description=mutant.name)
            kills.append(kill(mutant, level, seed))
            progress.advance(task)
    print_kill_table(console, kills)
    return int(not all(each.named for each in kills))


def _installed() -> list[Mutant]:
    backends = available_backends()
    return [mutant for mutant in MUTANTS.values() if backends[mutant.backend].available]


def _checks(mutant: Mutant) -> list[Check]:
    """Those that may notice: first those of the broken rule, of them the cheap ones, of them those about few rules."""

    def order(check: Check) -> tuple[bool, bool, int]:
        return mutant.rule not in check.rules, check.share <= 0.1, len(check.rules)

    checks = sorted(select(mutant.mergers), key=order)
    return checks if mutant.backend == "numpy" else [_first_failure(check) for check in checks]


def _first_failure(check: Check) -> Check:
    """The check without the search for a smaller failure, which would compile again and again."""
    first: list[Mismatch] = []

    def function(subject: Subject, data: Any) -> None:
        if first:
            raise first[0]
        try:
            check.function(subject, data)
        except Mismatch as error:
            first.append(error)
            raise

    return replace(check, function=function)
