"""The report as one page that needs nothing else: no network, no fonts, no files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from tokenmerge.conformance.checks.check import MERGERS
from tokenmerge.conformance.report.failures import failures
from tokenmerge.conformance.report.matrix import families, family_name, matrix, verdict_in
from tokenmerge.conformance.report.prose import prose
from tokenmerge.conformance.report.verdicts import VERDICTS
from tokenmerge.conformance.report.words import not_checked

Report = dict[str, Any]
HERE = Path(__file__).parent
LEGEND = (
    ("green", "a check of it passed, and none found it broken"),
    ("red", "an example breaks it"),
    ("skipped", "left out on purpose, with a reason"),
    ("unproven", "not looked at, or not in this dtype, or its only check failed over another rule"),
    ("n/a", "the backend or the dtype does not have what it is about"),
)


def html_page(reports: Sequence[Report]) -> str:
    """One page of one report, or of several beside each other.

    Args:
        reports: what `make_report` returned, or the JSON of it.

    Raises:
        ValueError: no report, or one that this version does not read.
    """
    if not reports:
        raise ValueError("html_page: `reports` must hold at least one report, got none")
    for report in reports:
        if report.get("schema") != 1:
            raise ValueError(f"html_page: `reports` must be of schema 1, got {report.get('schema')!r}")
    title = escape(_title(reports))
    parts = [_header(reports), _tiles(reports), failures(reports), matrix(reports), _left_out(reports), _legend()]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title} · tokenmerge conformance</title>\n"
        f"<style>\n{(HERE / 'page.css').read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main>\n<script>\n{(HERE / 'page.js').read_text(encoding='utf-8')}</script>\n</body>\n</html>\n"
    )


def _title(reports: Sequence[Report]) -> str:
    """What was found, and no more than that."""
    red = [report for report in reports if report["verdict"] == "red"]
    names = list(dict.fromkeys(report["backend"] for report in red or reports))
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    s = "s" if len(names) == 1 else ""
    if red:
        rules = {rule["id"] for report in red for rule in report["rules"] if rule["verdict"] == "red"}
        return f"{listed} break{s} {len(rules)} rule{'' if len(rules) == 1 else 's'} of the spec"
    if any(report["verdict"] == "suite error" for report in reports):
        return f"{listed}: the suite itself failed"
    unknown = list(dict.fromkeys(name for report in reports for name in report["not_looked_at"]))
    if unknown:
        return f"{listed}: not looked at: {', '.join(unknown)}"
    if any(report["verdict"] == "nothing checked" for report in reports):
        return f"{listed}: nothing was checked"
    if any(report["partial"] for report in reports):
        return f"{listed}: no rule broken so far"
    mergers = list(dict.fromkeys(name for report in reports for name in report["mergers"]))
    only = "" if len(mergers) == len(MERGERS) else f" on {', '.join(mergers)}"
    skipped = sum(report["checks"]["skipped"] for report in reports)
    but = f", {skipped} check{'' if skipped == 1 else 's'} skipped" if skipped else ""
    return f"{listed} agree{s} with the spec{only}{but}"


def _header(reports: Sequence[Report]) -> str:
    words = {report["verdict"] for report in reports}
    state = "red" if "red" in words else "green" if words <= {"green"} else "open"
    state = "open" if state == "green" and any(report["partial"] for report in reports) else state
    rules = len({rule["id"] for report in reports for rule in report["rules"]})
    examples = sum(report["examples"] for report in reports)
    lede = (
        f"{rules} rules, each a sentence of the spec, tried with {examples:,} generated inputs. Decisions must be the "
        "spec’s, or as good as its within proven rounding bounds; values must lie within their bounds."
    )
    return (
        f'<header class="hero {state}">\n<p class="eyebrow">tokenmerge · conformance</p>\n'
        f"<h1>{escape(_title(reports))}</h1>\n<p class=lede>{lede}</p>\n"
        f'<div class="cards">{"".join(_card(report) for report in reports)}</div>\n</header>'
    )


def _card(report: Report) -> str:
    counts, checks = report["verdicts"], report["checks"]
    when = datetime.fromisoformat(report["when"])
    seed = "the same every time" if report["seed"] is None else f"seed {report['seed']}"
    done = sum(checks[status] for status in ("passed", "failed", "skipped", "not applicable", "suite error"))
    facts = {
        "Device": report["device"],
        "Dtypes": ", ".join(report["dtypes"]),
        "Level": f"{report['level']}, {report['examples']:,} examples, {seed}",
        "Run with": ", ".join(
            [f"Python {report['python']}", *(f"{name} {v}" for name, v in report["versions"].items() if v)]
        ),
        "Platform": report["platform"],
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items())
    clock = f'<time datetime="{escape(report["when"])}">{when.day} {when:%B %Y, %H:%M} UTC</time>'
    rows += f"<div><dt>When</dt><dd>{clock}</dd></div>"
    partial = ""
    if report["partial"]:
        partial = (
            f'<p class="partial"><strong>Partial.</strong> Stopped after {done} of {checks["planned"]} checks.</p>'
        )
    chips = "".join(
        f'<li class="chip {_css(word)}"><b>{counts[word]}</b> {word}</li>' for word in VERDICTS if counts[word]
    )
    return (
        f'<section class="card"><h2>{escape(report["backend"])} <small>{escape(report["backend_version"])}</small></h2>'
        f'{partial}<ul class="chips" aria-label="rules by verdict">{chips}</ul><dl>{rows}</dl></section>'
    )


def _tiles(reports: Sequence[Report]) -> str:
    """A tile per family of rules, with how many of them are proven in every column."""
    tiles = []
    for family, rules in families(reports).items():
        words = [verdict_in(reports, rule) for rule in rules]
        applicable = [word for word in words if word != "n/a"]
        green = applicable.count("green")
        state = "red" if "red" in words else "green" if applicable and green == len(applicable) else "open"
        said = f"{green} of {len(applicable)}" if applicable else "n/a"
        bar = "".join(f'<i class="{_css(word)}"></i>' for word in words)
        tiles.append(
            f'<li><a class="tile {state}" href="#{escape(family)}"><span>{escape(family_name(family))}</span>'
            f'<b>{said}</b><span class="segments" aria-hidden="true">{bar}</span></a></li>'
        )
    return f'<nav aria-label="rules by subject"><ul class="tiles">{"".join(tiles)}</ul></nav>'


def _left_out(reports: Sequence[Report]) -> str:
    found = []
    for report in reports:
        for title, lines in not_checked(report):
            name = f" · {report['backend']}" if len(reports) > 1 else ""
            items = "".join(
                f"<li>{prose(reason)}: <span class=ids>{escape(checks)}</span></li>"
                for reason, _, checks in (line.rpartition(": ") for line in lines)
            )
            found.append(f"<h3>{title}{escape(name)}</h3><ul>{items}</ul>")
    return f'<section id="left-out"><h2>What was not checked</h2>{"".join(found)}</section>' if found else ""


def _legend() -> str:
    words = "".join(f'<div><dt class="chip {_css(word)}">{word}</dt><dd>{said}.</dd></div>' for word, said in LEGEND)
    return (
        f'<section id="reading"><h2>How to read this</h2><dl class="legend">{words}</dl>'
        "<p>The number in a cell is the largest share of the rounding budget that any comparison about the rule used: "
        "<b>exact</b> is equality to the last bit, 1.00 is the most that rounding in the working precision explains, "
        "and more than that is a mistake. The bounds are computed from the formulas, operation by operation; none of "
        "them was chosen. In half precision a number close to 1 is normal: the last rounding of a result may use it "
        "all.</p></section>"
    )


def _css(word: str) -> str:
    return word.replace("/", "")
