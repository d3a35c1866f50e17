"""The published scores: what the suite says of our own backends, as small files and as a table in the docs.

Usage:
    python tools/results.py [--level LEVEL] [BACKEND...]  runs the suite, writes conformance/results/ and the table
    python tools/results.py --check                       says whether they are those of the rules and checks of today
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenmerge.conformance.checks import CHECKS
from tokenmerge.conformance.command import run
from tokenmerge.conformance.report.verdicts import VERDICTS
from tokenmerge.conformance.report.words import share
from tokenmerge.conformance.request import request
from tokenmerge.conformance.rules import rules
from tokenmerge.spec.shared.arguments import FLOATING

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "conformance" / "results"
PAGE = ROOT / "docs" / "conformance.md"
BACKENDS = ("numpy", "torch", "jax")
MARKERS = ("<!-- results -->", "<!-- /results -->")
MARKS = {"green": "✓", "red": "✗ broken", "skipped": "skipped", "unproven": "?", "n/a": "–"}
Scores = dict[str, Any]


def scores(report: dict[str, Any]) -> Scores:
    """What is kept of a report: verdicts and the worst use of the budget, no times and no machine."""
    return {
        "schema": 1,
        "backend": report["backend"],
        "version": report["backend_version"],
        "numpy": report["versions"]["numpy"],
        "device": report["device"],
        "level": report["level"],
        "dtypes": report["dtypes"],
        "checks": {check.id: list(check.rules) for check in CHECKS.values()},
        "rules": {
            rule["id"]: {
                dtype: {"verdict": found["verdict"], "worst": _rounded(found["worst"])}
                for dtype, found in rule["dtypes"].items()
            }
            for rule in report["rules"]
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2) or (0.01 if value else 0.0)


def as_text(found: Scores) -> str:
    """Scores as JSON with a line per rule, so that a change of one is a change of one line.

    >>> print(as_text({"schema": 1, "rules": {"A-1": {"float32": {"verdict": "n/a"}}}}), end="")
    {
     "schema": 1,
     "rules": {
      "A-1": {"float32": {"verdict": "n/a"}}
     }
    }
    """
    lines = []
    for name, value in found.items():
        text = json.dumps(value)
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(key)}: {json.dumps(each)}" for key, each in value.items())
            text = f"{{\n{inner}\n }}"
        lines.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def stale(found: Scores, name: str) -> Iterator[str]:
    """What is wrong with scores that are stored, one sentence each."""
    file = f"conformance/results/{name}.json"
    again = f"run `python tools/results.py {name}`"
    if found.get("backend") != name:
        yield f"{file} holds the scores of {found.get('backend')!r}"
    for what, stored, today in (
        ("rules", list(found.get("rules", {})), list(rules())),
        ("checks", list(found.get("checks", {})), list(CHECKS)),
    ):
        new = [each for each in today if each not in stored]
        gone = [each for each in stored if each not in today]
        if new or gone:
            changes = [f"{sign} {', '.join(each)}" for sign, each in (("without", new), ("with", gone)) if each]
            yield f"{file} is older than the {what}: it is {' and '.join(changes)}; {again}"
    for check, of in found.get("checks", {}).items():
        if check in CHECKS and list(CHECKS[check].rules) != of:
            yield f"{file} is older than the check {check}, which tests other rules now; {again}"
    for rule, by_dtype in found.get("rules", {}).items():
        if list(by_dtype) != found.get("dtypes"):
            yield f"{file} has {rule} in {', '.join(by_dtype) or 'no dtype'}, but dtypes {found.get('dtypes')}"
        for dtype, cell in by_dtype.items():
            if set(cell) != {"verdict", "worst"} or cell["verdict"] not in VERDICTS:
                yield f"{file} has no verdict on {rule} in {dtype}, but {cell}"


def table(stored: Sequence[Scores]) -> str:
    """The scores in Markdown: how many rules hold in each backend, then every rule."""
    dtypes = [dtype for dtype in FLOATING if any(dtype in found["dtypes"] for found in stored)]
    lines = [
        "Rules that hold, of those that apply, and the largest share of the rounding budget that any comparison used.",
        "",
        f"| backend | level | rules | {' | '.join(dtypes)} |",
        f"|---|---|---|{'---|' * len(dtypes)}",
    ]
    for found in stored:
        words = [_worst_word(by_dtype) for by_dtype in found["rules"].values()]
        applicable = len(words) - words.count("n/a")
        rest = f", {words.count('n/a')} not applicable" if "n/a" in words else ""
        cells = " | ".join(_dtype_cell(found, dtype) for dtype in dtypes)
        name = f"{found['backend']} {found['version']} ({found['device']})"
        lines.append(f"| {name} | {found['level']} | {words.count('green')} of {applicable}{rest} | {cells} |")
    names = [found["backend"] for found in stored]
    lines += [
        "",
        "<details>",
        "<summary>Rule by rule</summary>",
        "",
        "The worst dtype counts; – means that it does not apply, exact that every comparison agreed to the last bit.",
        "",
        f"| rule | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
        *(f"| {rule} | {' | '.join(_rule_cell(found, rule) for found in stored)} |" for rule in stored[0]["rules"]),
        "",
        "</details>",
    ]
    return "\n".join(lines)


def _worst_word(by_dtype: dict[str, Any]) -> str:
    words = {cell["verdict"] for cell in by_dtype.values()}
    return next((word for word in ("red", "unproven", "skipped", "green") if word in words), "n/a")


def _dtype_cell(found: Scores, dtype: str) -> str:
    if dtype not in found["dtypes"]:
        return "–"
    cells = [by_dtype[dtype] for by_dtype in found["rules"].values()]
    red = sum(cell["verdict"] == "red" for cell in cells)
    worst = max((cell["worst"] or 0.0 for cell in cells if cell["verdict"] == "green"), default=0.0)
    return f"✗ {red} broken" if red else f"✓ {share(worst)}"


def _rule_cell(found: Scores, rule: str) -> str:
    by_dtype = found["rules"].get(rule, {})
    word = _worst_word(by_dtype)
    numbers = [cell["worst"] for cell in by_dtype.values() if cell["worst"] is not None]
    number = share(max(numbers)) if word == "green" and numbers else ""
    return f"{MARKS[word]} {number}".strip()


def put_into(page: str, made: str) -> str:
    """The page with the table between the markers.

    >>> put_into("a\\n<!-- results -->\\nold\\n<!-- /results -->\\nb", "new")
    'a\\n<!-- results -->\\n\\nnew\\n\\n<!-- /results -->\\nb'
    """
    start, end = MARKERS
    found = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if len(found.findall(page)) != 1:
        raise ValueError(f"results: docs/conformance.md must hold {start} and {end} once")
    return found.sub(lambda _: f"{start}\n\n{made}\n\n{end}", page)


def load(folder: Path = RESULTS) -> dict[str, Scores]:
    """The scores that are stored, by backend."""
    return {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in BACKENDS
        if (folder / f"{name}.json").exists()
    }


def problems(stored: dict[str, Scores], page: str) -> list[str]:
    """What is stale, one sentence each."""
    found = [f"conformance/results/{name}.json is missing" for name in BACKENDS if name not in stored]
    found += [sentence for name, each in stored.items() for sentence in stale(each, name)]
    if not found and put_into(page, table(list(stored.values()))) != page:
        found.append("docs/conformance.md has another table than conformance/results/: run `python tools/results.py`")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if something is stale")
    parser.add_argument("--level", default="ci", help="how many examples (default: ci)")
    parser.add_argument("backend", nargs="*", help=f"default: {', '.join(BACKENDS)}")
    given = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    if given.check:
        found = problems(load(), page)
        print(*found, sep="\n", file=sys.stderr)
        return int(bool(found))
    for name in given.backend or BACKENDS:
        if name not in BACKENDS:
            parser.error(f"`backend` must be one of {', '.join(BACKENDS)}, got {name!r}")
    for name in given.backend or BACKENDS:
        report = run(request(name, level=given.level))
        if report["partial"]:
            print(f"results: stopped in the middle of {name}, whose scores stay as they were", file=sys.stderr)
            return 130
        (RESULTS / f"{name}.json").write_text(as_text(scores(report)), encoding="utf-8")
        print(f"{name}: {report['verdict']}")
    PAGE.write_text(put_into(page, table(list(load().values()))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
