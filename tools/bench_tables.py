"""Tables of the docs that a command measured: `python tools/bench_tables.py` writes them (`--check` only compares).

`tokenmerge bench ... --json docs/data/NAME.json` keeps what was measured; a page shows it between the lines
`<!-- bench: NAME -->` and `<!-- /bench -->`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"(<!-- bench: (\S+) -->\n).*?(<!-- /bench -->)", re.DOTALL)
_HEAD = ("operation", "shape", "against", "ours, ms", "its, ms", "ratio (quartiles)", "× floor", "peak MB, ours / its")


def filled(text: str, data: Path) -> str:
    """A page with its tables as the files have them.

    Raises:
        FileNotFoundError: a table without its file.
    """
    return _BLOCK.sub(
        lambda block: block[1] + table(json.loads((data / f"{block[2]}.json").read_text())) + block[3], text
    )


def table(found: dict[str, Any]) -> str:
    """What `tokenmerge bench --json` wrote, as a table in Markdown."""
    lines = [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    for row in found["rows"]:
        shape = " ".join(f"{name}={value}" for name, value in row["shape"].items())
        floor = "" if row.get("of_floor") is None else f"{row['of_floor']:.1f}"
        peaks = [row.get("our_peak"), row.get("other_peak")]
        memory = "" if None in peaks else " / ".join(f"{peak / 1e6:.1f}" for peak in peaks)
        times = f"{1000 * row['ours']:.3g} | {1000 * row['other']:.3g}"
        ratio = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        lines.append(f"| {row['operation']} | {shape} | {row['against']} | {times} | {ratio} | {floor} | {memory} |")
    return "\n".join([*lines, ""])


def stale(docs: Path = DOCS) -> list[str]:
    """Pages whose tables are not what the files say, and files that no page shows."""
    texts = {page: page.read_text() for page in sorted(docs.rglob("*.md"))}
    pages = [page.name for page, text in texts.items() if filled(text, docs / "data") != text]
    shown = {name for text in texts.values() for _, name, _ in _BLOCK.findall(text)}
    return pages + [path.name for path in sorted((docs / "data").glob("*.json")) if path.stem not in shown]


def main() -> int:
    if "--check" in sys.argv:
        found = stale()
        print(*(f"docs: {name} and its table differ: python tools/bench_tables.py" for name in found), sep="\n")
        return int(bool(found))
    for page in sorted(DOCS.rglob("*.md")):
        page.write_text(filled(page.read_text(), DOCS / "data"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
