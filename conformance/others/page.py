"""The tables on docs/conformance-others.md: made of the results, between two marks."""

from __future__ import annotations

import re
from typing import Any

from tokenmerge.conformance.others.verdicts import NOTHING

BEGIN, END = "<!-- others -->\n", "<!-- /others -->"


def page(text: str, made: list[dict[str, Any]]) -> str:
    """The page with the tables as the results are.

    >>> page("a <!-- others -->\\nold<!-- /others --> b", [])
    'a <!-- others -->\\n<!-- /others --> b'
    """
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return before + BEGIN + "".join(map(_project, made)) + END + after


def _project(project: dict[str, Any]) -> str:
    answers = project["answers"]
    rows = [f"| {a['rule']} | {a['verdict']} | {_cell(a['note'])} |\n" for a in answers if a["verdict"] != NOTHING]
    reasons: dict[str, list[str]] = {}
    for answer in answers:
        if answer["verdict"] == NOTHING:
            reasons.setdefault(answer["note"], []).append(answer["rule"])
    nothing = "".join(f"| {', '.join(rules)} | {NOTHING} | {_cell(note)} |\n" for note, rules in reasons.items())
    head = f"### {project['name']} {project['version']}\n\n| rule | answer | note |\n|---|---|---|\n"
    return f"{head}{''.join(rows)}{nothing}\n"


def _cell(text: str) -> str:
    """Markdown would take stars, bars and underscores for something else."""
    return re.sub(r"([*|_\\<>])", r"\\\1", text)
