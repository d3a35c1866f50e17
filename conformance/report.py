"""What the runner found, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokenmerge.conformance.checks.check import TIERS
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.runner import Result

_MARK = {"passed": "[green]passed[/]", "failed": "[bold red]failed[/]", "not applicable": "[dim]n/a[/]"}


def table(name: str, results: Iterable[Result]) -> Table:
    """One row per check and dtype."""
    rows = Table(title=f"Conformance of {name}", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for heading, style in (("check", ""), ("proof", ""), ("dtype", ""), ("verdict", "")):
        rows.add_column(heading, style=style, no_wrap=True)
    for heading in ("examples", "budget used: worst", "median", "seconds"):
        rows.add_column(heading, justify="right")
    for result in results:
        rows.add_row(
            result.id,
            TIERS[result.tier],
            result.dtype,
            _MARK[result.status],
            str(result.examples or ""),
            _share(result.worst),
            _share(result.median),
            f"{result.seconds:.1f}" if result.examples else "",
        )
    return rows


def print_report(console: Console, name: str, results: list[Result]) -> None:
    """The table, then every failure with its sentence, what differs, and the program that shows it."""
    console.print(table(name, results))
    failures = [result for result in results if result.status == "failed"]
    for result in failures:
        console.rule(f"[bold red]{result.id}[/] in {result.dtype}", align="left")
        for rule in result.broken:
            console.print(f"[bold]{rule}[/]  {escape(rules()[rule])}", highlight=False)
        console.print()
        console.print(result.message, markup=False, highlight=False, soft_wrap=True)
        if result.snippet:
            console.print("\nRepeat it with:\n", highlight=False)
            console.print(result.snippet, markup=False, highlight=False, soft_wrap=True)
    ran = [result for result in results if result.status != "not applicable"]
    verdict = f"[bold red]{len(failures)} of {len(ran)} checks failed[/]" if failures else "[green]all checks passed[/]"
    console.print(f"\n{name}: {verdict} ({len(ran)} checks, {sum(r.examples for r in ran)} examples)", highlight=False)


def write_json(path: Path, name: str, module: ModuleType, level: str, seed: int | None, results: list[Result]) -> None:
    """Everything that the table says and more, for machines."""
    report: dict[str, Any] = {
        "backend": name,
        "version": module.VERSION,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "level": level,
        "seed": seed,
        "passed": all(result.status != "failed" for result in results),
        "results": [asdict(result) for result in results],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
