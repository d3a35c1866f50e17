"""What the docs show of the answers: all of them between one pair of marks, what differs between others."""

from __future__ import annotations

import re
from typing import Any

from tokenmerge.conformance.others.verdicts import AGREES, DIFFERS, NOTHING
from tokenmerge.conformance.rules import rules

_ALL = re.compile(r"(<!-- others -->\n).*?(<!-- /others -->)", re.DOTALL)
_DIFFERENT = re.compile(r"(<!-- differs: ([\w, ]+) -->\n).*?(<!-- /differs -->)", re.DOTALL)


def page(text: str, made: list[dict[str, Any]]) -> str:
    """The page with its tables as the results are.

    Between `<!-- others -->` and `<!-- /others -->` stand all answers, between `<!-- differs: tome, ats -->` and
    `<!-- /differs -->` what projects with one of these mergers do otherwise.

    Raises:
        ValueError: a page without such marks.

    >>> page("a <!-- others -->\\nold<!-- /others --> b", [])
    'a <!-- others -->\\n<!-- /others --> b'
    """
    if not _ALL.search(text) and not _DIFFERENT.search(text):
        raise ValueError("others: `page` must hold <!-- others --> or <!-- differs: ... -->, got neither")
    text = _ALL.sub(lambda block: block[1] + "".join(map(_project, made)) + block[2], text)
    return _DIFFERENT.sub(lambda block: block[1] + _different(block[2].split(", "), made) + block[3], text)


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


def _different(mergers: list[str], made: list[dict[str, Any]]) -> str:
    """For each project a sentence, and a table of what differs."""
    parts = []
    for project in made:
        if project["merger"] not in mergers:
            continue
        name, found = f"{project['name']} {project['version']}", project["answers"]
        different = [answer for answer in found if answer["verdict"] == DIFFERS]
        same = ", ".join(answer["rule"] for answer in found if answer["verdict"] == AGREES)
        end = f"It differs in {len(different) or 'none'}, and has nothing that the other rules ask about"
        parts.append(f"**{_cell(name)}** agrees in {same or 'none'}. {end}{':' if different else '.'}\n\n")
        if different:
            rows = [f"| {a['rule']}: {_cell(rules()[a['rule']])} | {_cell(a['note'])} |\n" for a in different]
            parts += ["| rule | what it does instead |\n|---|---|\n", *rows, "\n"]
    return "\n" + "".join(parts)


def _cell(text: str) -> str:
    """Markdown would take stars, bars and underscores for something else."""
    return re.sub(r"([*|_\\<>])", r"\\\1", text)
