"""The report in the terminal: a row per rule, every failure in full, and what was not checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tokenmerge.conformance.report.words import headline, not_checked, share, subject

STYLES = {"green": "green", "red": "bold red", "skipped": "yellow", "unproven": "yellow", "n/a": "dim"}
ROOM_FOR_SENTENCES = 120  # columns


def print_report(console: Console, report: dict[str, Any]) -> None:
    """Print a report, the verdict last."""
    console.print(rule_table(report, sentences=console.width >= ROOM_FOR_SENTENCES))
    for result in report["results"]:
        if result["status"] == "failed":
            _print_failure(console, report, result)
    for title, lines in not_checked(report):
        console.print(Text(title, style="bold"))
        for line in lines:
            console.print(Text(f"  {line}"), highlight=False)
        console.print()
    console.print(Text(headline(report), style=STYLES.get(report["verdict"], "yellow")), highlight=False)


def rule_table(report: dict[str, Any], sentences: bool = False) -> Table:
    """One row per rule; its sentence too where there is room for it."""
    title = f"Conformance of {subject(report)}, level {report['level']}"
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    made.add_column("rule", no_wrap=True)
    made.add_column("proof", min_width=10)  # of the longest word: what has to wrap does so between words
    made.add_column("verdict", min_width=8)
    made.add_column("budget: worst", justify="right", min_width=7)
    for heading in ("median", "examples"):
        made.add_column(heading, justify="right", no_wrap=True)
    if sentences:
        made.add_column("sentence", style="dim", ratio=1)
    family = None
    for rule in report["rules"]:
        if family not in (None, rule["id"].partition("-")[0]):
            made.add_section()
        family = rule["id"].partition("-")[0]
        cells: list[RenderableType] = [
            rule["id"],
            ", ".join(rule["tiers"]),
            _verdict(rule),
            share(rule["worst"]),
            "" if not rule["worst"] else share(rule["median"]),
            str(rule["examples"] or ""),
        ]
        made.add_row(*cells, *([Text(rule["sentence"])] if sentences else []))
    return made


def _verdict(rule: dict[str, Any]) -> Text:
    """The word, and what it hides: in which dtypes it is red, and that a check of it was skipped."""
    text = Text(rule["verdict"], style=STYLES[rule["verdict"]])
    red = [dtype for dtype, found in rule["dtypes"].items() if found["verdict"] == "red"]
    if red and len(red) < len(rule["dtypes"]):
        text.append(f"\nin {', '.join(red)}")
    if rule["skipped"] and rule["verdict"] != "skipped":
        text.append(f"\n{rule['skipped']} skipped", style="yellow")
    return text


def _print_failure(console: Console, report: dict[str, Any], result: dict[str, Any]) -> None:
    console.rule(Text(f"{result['check']} in {result['dtype']}", style="bold red"), align="left")
    sentences = {rule["id"]: rule["sentence"] for rule in report["rules"]}
    console.print(_grid((rule, sentences.get(rule, "")) for rule in result["broken"]))
    parts = [("", result["message"]), ("The input, shrunk:", result["input"]), ("Repeat it with:", result["snippet"])]
    if result["repeat"] != result["snippet"]:
        parts.append(("Or run the whole check again:", result["repeat"]))
    for title, text in parts:
        if text:
            console.print(Text(f"\n{title}\n" if title else ""))
            # not wrapped by us: it is there to be copied
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print()


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column()
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def rule_list(entries: Iterable[tuple[str, str, str, str]]) -> Table:
    """What `--list` prints: a rule, its proofs, its sentence, and below that the checks that prove it."""
    made = Table("rule", "proof", "sentence, and the checks that prove it", box=box.SIMPLE_HEAD)
    for column in made.columns[:2]:
        column.no_wrap = True
    for rule, tiers, sentence, checks in entries:
        made.add_row(rule, tiers.replace(", ", "\n"), Group(Text(sentence), Text(checks, style="dim"), Text()))
    return made
