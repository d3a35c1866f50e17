"""The page of rules, made from the suite: each with its sentence, its checks, its mutants and its golden vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from sources import DOCS, ROOT

from tokenmerge.conformance.checks import CHECKS
from tokenmerge.conformance.checks.check import TIERS
from tokenmerge.conformance.mutants import MUTANTS
from tokenmerge.conformance.rules import rules

TITLES = {
    "PLAN": ("The plan", "plan.md"),
    "TOME": ("ToMe", "tome.md"),
    "ATS": ("ATS", "ats.md"),
    "PM": ("PatchMerger", "patch_merger.md"),
    "LTM": ("LTM", "ltm.md"),
    "IB": ("The information bottleneck", "ltm.md"),
    "ATT": ("Attention with sizes", "vit.md"),
    "POOL": ("Pooling", "vit.md"),
    "CALL": ("Calls", "backends.md"),
}
INTRO = """# Rules

Every sentence of the spec that a backend must obey has a number. Here each stands with what proves it: the **checks**
that try to refute it (in which tier: [exact, certified or rounding](conformance.md#three-tiers)), the **mutants**,
which are backends broken on purpose in that place and which the suite must catch, and the **golden vectors** that hold
its result as a file. This page is made from the suite when the site is built.

Wherever a number such as TOME-5 stands on this site, it is a link to here.
"""


def rules_page() -> str:
    """The page, in Markdown."""
    known, lines, prefix = rules(), [INTRO], ""
    vectors = json.loads((ROOT / "conformance" / "vectors" / "data" / "index.json").read_text())
    for number, sentence in known.items():
        if number.partition("-")[0] != prefix:
            prefix = number.partition("-")[0]
            title, page = TITLES.get(prefix, (prefix, "plan.md"))
            lines.append(
                f"## {title}\n\nExplained on [{(DOCS / page).read_text().partition(chr(10))[0][2:]}]({page}).\n"
            )
        lines += [f"### {number}\n", f"**{_escaped(sentence)}**\n", *_proof(number, vectors), ""]
    return "\n".join(lines)


def _proof(rule: str, vectors: dict[str, object]) -> Iterator[str]:
    yield "| | |\n|---|---|"
    for tier, name in TIERS.items():
        found: dict[str, list[str]] = {}  # the checks of four mergers often say the same
        for check in CHECKS.values():
            if rule in check.rules and check.tier == tier:
                found.setdefault(check.statement, []).append(f"`{check.id}`")
        if found:
            shown = "<br>".join(f"{', '.join(ids)}: {_escaped(statement)}" for statement, ids in found.items())
            yield f"| checks, {name} | {shown} |"
    mutants = [mutant for mutant in MUTANTS.values() if mutant.rule == rule]
    yield f"| mutants | {'<br>'.join(f'`{each.name}`: {_escaped(each.what)}' for each in mutants)} |"
    cases = [case for case in vectors["cases"] if rule in case["rules"]]  # type: ignore[attr-defined]
    without = vectors["rules_without_cases"].get(rule, "none")  # type: ignore[attr-defined]
    files = "<br>".join(f"`{case['id']}` in `{case['file']}`: {_escaped(case['about'])}" for case in cases)
    yield f"| [golden vectors](vectors.md) | {files or 'none: ' + _escaped(without)} |"


def _escaped(text: str) -> str:
    return re.sub(r"([*|_\\<>])", r"\\\1", " ".join(text.split()))
