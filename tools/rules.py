"""Write the rules of the spec's docstrings into the docs: `python tools/rules.py` (`--check` only compares)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tokenmerge.conformance.rules import rules

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"(<!-- rules: ([A-Z ]+) -->\n).*?(<!-- /rules -->)", re.DOTALL)


def filled(text: str) -> str:
    """A page with its tables of rules as they are now."""
    return _BLOCK.sub(lambda block: block[1] + _table(block[2].split()) + block[3], text)


def _table(prefixes: list[str]) -> str:
    rows = [f"| {number} | {_cell(text)} |" for number, text in rules().items() if number.partition("-")[0] in prefixes]
    return "\n".join(["| rule | says |", "|---|---|", *rows, ""])


def _cell(sentence: str) -> str:
    """Markdown would take stars, bars and underscores for something else."""
    return re.sub(r"([*|_\\<>])", r"\\\1", sentence)


def stale() -> list[str]:
    """Pages whose tables are not what the docstrings say."""
    return [
        str(page.relative_to(DOCS))
        for page in sorted(DOCS.rglob("*.md"))
        if filled(page.read_text()) != page.read_text()
    ]


def main() -> int:
    if "--check" in sys.argv:
        print(*(f"docs/{page} is not what the docstrings say: python tools/rules.py" for page in stale()), sep="\n")
        return int(bool(stale()))
    for page in sorted(DOCS.rglob("*.md")):
        page.write_text(filled(page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
