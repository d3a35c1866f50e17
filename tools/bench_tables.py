"""Tables of the docs that a command measured: `python tools/bench_tables.py` writes them (`--check` only compares).

`tokenmerge bench ... --json docs/data/NAME.json` keeps what was measured; a page shows it between the lines
`<!-- bench: NAME -->` and `<!-- /bench -->`. A file that was copied from a table of an older page says so under `note`,
which stands below its table; a row of it may lack what the table did not have.
"""

from __future__ import annotations

import json
import re
import sys
from os.path import relpath
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from tokenmerge.bench.machine import sentences

DOCS = Path(__file__).parents[1] / "docs"
Row = dict[str, Any]
_HEADS = {"its merging alone": "merging alone, as a share"}
_QUARTILES = " (quartiles)"
_BLOCK = re.compile(r"(<!-- bench: (\S+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def filled(page: Path, data: Path) -> str:
    """The text of a page with its tables as the files have them.

    Raises:
        FileNotFoundError: a table without its file.
    """

    def block(found: re.Match[str]) -> str:
        file = data / f"{found[2]}.json"
        made = json.loads(file.read_text(encoding="utf-8"))
        link = relpath(file, page.parent).replace("\\", "/")
        return f"{found[1]}\n{table(made['rows'])}\n{source(made, link)}\n\n{found[3]}"

    return _BLOCK.sub(block, page.read_text(encoding="utf-8"))


def table(rows: list[Row]) -> str:
    """Rows as `tokenmerge bench --json` writes them, in Markdown: a line for every call.

    What the call is held against is a column each. A column that would be empty, or the same everywhere, is left out.
    """
    calls: dict[str, list[Row]] = {}
    for row in rows:
        calls.setdefault(repr([row.get(name) for name in ("operation", "backend", "dtype", "shape")]), []).append(row)
    lines, others = list(calls.values()), list(dict.fromkeys(row["against"] for row in rows))
    columns = {name: [str(line[0].get(name, "")) for line in lines] for name in ("operation", "backend", "dtype")}
    columns = {name: cells for name, cells in columns.items() if len(set(cells)) > 1}
    columns |= _shapes([line[0]["shape"] for line in lines])
    columns["ours, ms"] = [_milliseconds(line[0], "ours") for line in lines]
    if max(map(len, lines)) == 1:
        columns["against"] = [line[0]["against"] for line in lines]
        columns["its, ms"] = [_milliseconds(line[0], "other") for line in lines]
        columns[f"ratio{_QUARTILES}"] = [_ratio(line[0]) for line in lines]
    else:
        for name in others:
            found = [next((row for row in line if row["against"] == name), {}) for line in lines]
            columns[f"{name}, ms"] = [_milliseconds(row, "other") for row in found]
            columns[_HEADS.get(name, f"ratio to {name}") + _QUARTILES] = [_ratio(row) for row in found]
    columns["predicted"] = [_number(line[0], "predicted", ".2f") for line in lines]
    columns["× floor"] = [_number(line[0], "of_floor", ".1f") for line in lines]
    columns[f"peak MB, ours / {others[0] if len(others) > 1 and max(map(len, lines)) > 1 else 'its'}"] = [
        _peaks(line[0]) for line in lines
    ]
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    heads = [name if any("(" in cell for cell in shown[name]) else name.removesuffix(_QUARTILES) for name in shown]
    body = [heads, *map(list, zip(*shown.values(), strict=True))]
    written = [f"| {' | '.join(cells)} |\n" for cells in body]
    return "".join([written[0], "|---" * len(shown), "|\n", *written[1:]])


def source(found: dict[str, Any], link: str) -> str:
    """What stands below a table: means over shapes, the file, and where its numbers are from."""
    rows = found["rows"]
    names = [name for name in ("operation", "backend", "dtype") if len({row.get(name) for row in rows}) > 1]
    groups: dict[str, list[float]] = {}
    for row in rows:
        words = [row[name] for name in names]
        groups.setdefault(" ".join([*words, "against", row["against"]]), []).append(row["ratio"])
    means = [f"{name} {geometric_mean(ratios):.2f}" for name, ratios in groups.items() if len(ratios) > 2]
    said = f"Geometric means: {', '.join(means)}. " if means else ""
    return (
        f"{said}[`{link.rpartition('/')[2]}`]({link}): {found.get('note') or '; '.join(sentences(found['machine']))}."
    )


def stale(docs: Path = DOCS) -> list[str]:
    """Pages whose tables are not what the files say, and files that no page shows."""
    pages = sorted(docs.rglob("*.md"))
    found = [page.name for page in pages if filled(page, docs / "data") != page.read_text(encoding="utf-8")]
    shown = {name for page in pages for _, name, _ in _BLOCK.findall(page.read_text(encoding="utf-8"))}
    return found + [path.name for path in sorted((docs / "data").glob("*.json")) if path.stem not in shown]


def _shapes(shapes: list[dict[str, Any]]) -> dict[str, list[str]]:
    """A column for them; their names stand in its head if they are the same."""
    if len({tuple(shape) for shape in shapes}) == 1:
        return {f"shape ({', '.join(shapes[0])})": [", ".join(map(str, shape.values())) for shape in shapes]}
    return {"shape": [" ".join(f"{name}={value}" for name, value in shape.items()) for shape in shapes]}


def _number(row: Row, name: str, form: str) -> str:
    return "" if row.get(name) is None else format(row[name], form)


def _milliseconds(row: Row, name: str) -> str:
    return "" if row.get(name) is None else f"{1000 * row[name]:.3g}"


def _ratio(row: Row) -> str:
    """A share that is far below one wants its digits."""
    if not row:
        return ""
    ratio = f"{row['ratio']:.2f}" if row["ratio"] >= 0.1 else f"{row['ratio']:.3f}"
    return ratio if row.get("low") is None else f"{ratio} ({row['low']:.2f} to {row['high']:.2f})"


def _peaks(row: Row) -> str:
    peaks = [row.get("our_peak"), row.get("other_peak")]
    return "" if None in peaks else " / ".join(f"{peak / 1e6:.3g}" for peak in peaks)


def main() -> int:
    if "--check" in sys.argv:
        found = stale()
        print(*(f"docs: {name} and its table differ: python tools/bench_tables.py" for name in found), sep="\n")
        return int(bool(found))
    for page in sorted(DOCS.rglob("*.md")):
        page.write_text(filled(page, DOCS / "data"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
