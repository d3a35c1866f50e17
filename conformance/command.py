"""`tokenmerge conformance`: the suite on the command line."""

from __future__ import annotations

import json as json_format
from collections.abc import Callable, Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tokenmerge.conformance.checks import CHECKS, Check
from tokenmerge.conformance.checks.check import MERGERS, TIERS
from tokenmerge.conformance.report import html_page, make_report, print_report
from tokenmerge.conformance.report.files import check_writable, write
from tokenmerge.conformance.report.table import rule_list
from tokenmerge.conformance.request import Request, load, request
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.runner import Result, select
from tokenmerge.conformance.skips import read_skips
from tokenmerge.spec.shared.arguments import check_choice

INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended
STATUS = {"green": 0, "suite error": 3}  # any other verdict: 1


def conformance(
    backend: str,
    *,
    device: str | None = None,
    dtypes: tuple[str, ...] = (),
    mergers: tuple[str, ...] = (),
    level: str = "ci",
    seed: int | None = None,
    skips: Path | None = None,
    xfails: Path | None = None,
    law: str | None = None,
    json: Path | None = None,
    html: Path | None = None,
) -> int:
    """Run the suite on a backend and print what it found.

    Ctrl-C ends the run; what was found until then is reported, as partial.

    Args:
        backend, device, dtypes, mergers, level, seed: see `tokenmerge.conformance.request`.
        skips: file of checks to leave out, see `tokenmerge.conformance.skips`.
        xfails: file of checks that are known to fail, of the same form; one that passes is told.
        law: an edition of the rules, see `tokenmerge.conformance.editions`.
        json: file for a report that machines read.
        html: file for a report that is one page.

    Returns:
        0 if every check passed or failed as expected; 1 if one failed, passed against expectation or none ran, or the
        backend has a merger that the suite has no record of; 3 if the suite itself failed; 130 if it was interrupted.

    Raises:
        ValueError: an unknown backend, device, dtype, merger or level; a skip that skips nothing.
        ImportError: the backend does not import.
        OSError: a report cannot be written or the skips cannot be read.
            All of it is found out before any check runs.
    """
    module = load(backend)
    left_out = {} if skips is None else read_skips(skips, CHECKS, module.DTYPES)
    expected = {} if xfails is None else read_skips(xfails, CHECKS, module.DTYPES, "xfails")
    lists: dict[str, Any] = {"skips": left_out, "xfails": expected, "law": law}
    asked = request(backend, device=device, dtypes=dtypes, mergers=mergers, level=level, seed=seed, **lists)
    files = {name: path for name, path in (("json", json), ("html", html)) if path is not None}
    for name, path in files.items():
        check_writable(name, path)
    given = [path.resolve() for path in (*files.values(), skips, xfails) if path is not None]
    if len(set(given)) < len(given):
        names = "`json`, `html`, `skips` and `xfails`"
        raise ValueError(f"conformance: {names} must be different files, got the same one twice")

    report = run(asked)
    print_report(Console(), report)
    print_law_and_stale(Console(), report)
    formats: dict[str, Callable[[], str]] = {"json": lambda: as_json(report), "html": lambda: html_page([report])}
    for name, path in files.items():
        write(path, formats[name]())
    if report["partial"]:
        return INTERRUPTED
    return STATUS.get(report["verdict"], 1) or int(bool(report["stale"]))


def print_law_and_stale(console: Console, report: dict[str, Any]) -> None:
    """Which edition of the rules was measured, and the checks that pass although they are expected to fail."""
    console.print(f"measured against the rules of {report['law']}", highlight=False)
    for sentence in report["stale"]:
        console.print(f"[bold red]{sentence}[/]", highlight=False)


def run(asked: Request) -> dict[str, Any]:
    """Run what is asked for, with a bar on stderr, and return the report; a partial one after Ctrl-C."""
    found: dict[tuple[str, str], Result] = {}
    rounds = list(asked.rounds())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    partial = False
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(asked.backend, total=len(rounds))
        try:
            for (level, dtype, check), after in zip_longest(rounds, rounds[1:]):
                progress.update(task, description=f"{check.id} in {dtype}")
                before = found.get((dtype, check.id))
                # more examples change nothing for a check that has failed or does not run
                if before is None or before.status == "passed":
                    found[dtype, check.id] = asked.run(dtype, check, level)
                progress.advance(task)
                asked.forget(dtype, after and after[1])
        except KeyboardInterrupt:
            partial = True
    return make_report(asked, list(found.values()), partial)


def as_json(report: dict[str, Any]) -> str:
    """A report as JSON, its fields always in the same order."""
    return json_format.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def print_rules(mergers: Iterable[str] = ()) -> int:
    """Print every rule, how it is proven and by which checks, without running any.

    Raises:
        ValueError: an unknown merger.
    """
    for merger in mergers:
        check_choice("conformance", "merger", merger, MERGERS)
    checks = select(tuple(mergers) or MERGERS)
    entries = [(rule, *_proof(rule, checks)) for rule in rules()]
    console = Console()
    console.print(rule_list(entry for entry in entries if entry[3]))
    console.print(f"{sum(bool(entry[3]) for entry in entries)} rules, {len(checks)} checks", highlight=False)
    return 0


def _proof(rule: str, checks: Iterable[Check]) -> tuple[str, str, str]:
    own = [check for check in checks if rule in check.rules]
    tiers = sorted({check.tier for check in own})
    return ", ".join(TIERS[tier] for tier in tiers), rules()[rule], ", ".join(check.id for check in own)
