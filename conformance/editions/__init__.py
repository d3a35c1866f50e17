"""Editions of the rules: the law as it stood at a release, so that a score says what it was measured against.

An edition is a file of every rule's sentence, named by year and month. A run with `--rules 2026.12` takes the checks
whose rules stand in that edition as they stand now; those of new or changed rules are left out.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenmerge.conformance.rules import rules
from tokenmerge.files import write_text
from tokenmerge.spec.shared.arguments import check_choice

FOLDER = Path(__file__).parent


@cache
def editions() -> dict[str, dict[str, str]]:
    """Every edition's rules, the oldest edition first.

    >>> "2026.12" in editions()
    True
    """
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def changed(edition: str) -> set[str]:
    """Rules that an edition does not have, or has with another sentence.

    Raises:
        ValueError: there is no such edition.

    >>> changed("2025.01")
    Traceback (most recent call last):
    ...
    ValueError: conformance: `rules` must be one of '2026.12', got '2025.01' (did you mean '2026.12'?)
    """
    check_choice("conformance", "rules", edition, editions())
    old = editions()[edition]
    return {rule for rule, sentence in rules().items() if old.get(rule) != sentence}


def current() -> str:
    """The newest edition, or "after" it where a rule has changed since."""
    newest = max(editions())
    return newest if editions()[newest] == rules() else f"after {newest}"


def write(edition: str) -> Path:
    """Write the rules as they are as an edition."""
    path = FOLDER / f"{edition}.json"
    write_text("editions", "edition", path, json.dumps(rules(), indent=1, ensure_ascii=False) + "\n")
    return path
