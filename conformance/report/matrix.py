"""The matrix of the page: a row per rule, a column per dtype of every backend."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from tokenmerge.conformance.report.prose import prose
from tokenmerge.conformance.report.words import share

Report = dict[str, Any]
FAMILIES = {
    "PLAN": "Plans",
    "TOME": "ToMe",
    "ATS": "ATS",
    "PM": "PatchMerger",
    "LTM": "LTM",
    "IB": "Information bottleneck",
    "ATT": "Attention",
    "POOL": "Pooling",
    "CALL": "Every call",
}
MANY = 12  # columns, after which the table scrolls sideways
MARKS = {"green": "✓", "red": "✗", "skipped": "⤼", "unproven": "?", "n/a": "–"}
WORDS = {"green": "passed", "red": "broken", "skipped": "skipped", "unproven": "unproven", "n/a": "not applicable"}


def families(reports: Sequence[Report]) -> dict[str, list[str]]:
    """The rules of all reports by what they are about, in the order of the spec."""
    found: dict[str, list[str]] = {}
    for report in reports:
        for rule in report["rules"]:
            own = found.setdefault(rule["id"].partition("-")[0], [])
            if rule["id"] not in own:
                own.append(rule["id"])
    return found


def family_name(family: str) -> str:
    """What a family of rules is called."""
    return FAMILIES.get(family, family)


def verdict_in(reports: Sequence[Report], rule: str) -> str:
    """The verdict on a rule over several reports: the worst one, where one that does not apply says nothing."""
    words = {each["verdict"] for report in reports for each in report["rules"] if each["id"] == rule}
    return next((word for word in ("red", "unproven", "skipped", "green") if word in words), "n/a")


def matrix(reports: Sequence[Report]) -> str:
    """The table. The roles are what its elements mean anyway; laid out as blocks, on a phone, they would lose it."""
    columns = [(report, dtype) for report in reports for dtype in report["dtypes"]]
    found = {id(report): {rule["id"]: rule for rule in report["rules"]} for report in reports}
    several = len(reports) > 1
    body = []
    for family, rules in families(reports).items():
        body.append(
            f'<tbody role="rowgroup"><tr class="family" role="row"><th id="{escape(family)}" '
            f'colspan="{len(columns) + 1}" '
            f'scope="rowgroup" role="columnheader">{escape(family_name(family))}</th></tr>'
        )
        for rule in rules:
            any_of = next(found[id(report)][rule] for report in reports if rule in found[id(report)])
            cells = "".join(_cell(found[id(report)].get(rule), report, dtype, several) for report, dtype in columns)
            body.append(f'<tr id="{escape(rule)}" role="row">{_rule(any_of)}{cells}</tr>')
        body.append("</tbody>")
    kind = ("several" if several else "one") + (" many" if len(columns) > MANY else "")
    return (
        '<section id="rules"><h2>Rule by rule</h2>'
        f'<div class="scroll"><table role="table" class="{kind}">'
        f'<caption class="hidden">Every rule of the spec and what was found in each dtype</caption>'
        f'<thead role="rowgroup">{_head(reports)}</thead>{"".join(body)}</table></div></section>'
    )


def _head(reports: Sequence[Report]) -> str:
    dtypes = "".join(
        f'<th scope="col" role="columnheader"{" class=first" if i == 0 and len(reports) > 1 else ""}>'
        f"{escape(dtype)}</th>"
        for report in reports
        for i, dtype in enumerate(_short(each) if len(reports) > 1 else each for each in report["dtypes"])
    )
    if len(reports) == 1:
        return f'<tr role="row"><th scope="col" role="columnheader">Rule</th>{dtypes}</tr>'
    groups = "".join(
        f'<th scope="colgroup" role="columnheader" class="first" colspan="{len(report["dtypes"])}">'
        f"{escape(report['backend'])} <small>{escape(str(report['device']))}</small></th>"
        for report in reports
    )
    return (
        f'<tr role="row"><th scope="col" role="columnheader" rowspan="2">Rule</th>{groups}</tr>'
        f'<tr role="row">{dtypes}</tr>'
    )


def _rule(rule: dict[str, Any]) -> str:
    tiers = "".join(f"<span class=tier>{escape(tier)}</span>" for tier in rule["tiers"])
    checks = escape(", ".join(rule["checks"]))
    return (
        f'<th scope="row" role="rowheader" class="rule" title="{checks}">'
        f'<span class="id">{escape(rule["id"])}</span>{tiers}'
        f'<span class="sentence">{prose(rule["sentence"])}</span></th>'
    )


def _cell(rule: dict[str, Any] | None, report: Report, dtype: str, several: bool) -> str:
    label = f"{report['backend']} {_short(dtype)}" if several else dtype
    # on a phone the name of a module is broken where it has joints
    broken = escape(label).replace("_", "_<wbr>").replace(".", ".<wbr>")
    head = f'<span class="label" aria-hidden="true">{broken}</span>'
    first = " first" if several and dtype == report["dtypes"][0] else ""
    if rule is None:
        return f'<td role="cell" class="absent{first}">{head}<span class="hidden">not asked for</span></td>'
    found = rule["dtypes"][dtype]
    word, worst = found["verdict"], found["worst"]
    number = share(worst)
    shown = {"green": number or "passed", "red": "broken"}.get(word, word)
    spoken = WORDS[word] + (f", {number} of the rounding budget used" if number and word in ("green", "red") else "")
    spoken += f", {found['examples']} examples" if found["examples"] else ""
    bar = ""
    if word == "green" and worst:
        bar = f'<span class="bar" aria-hidden="true"><i style="width:{min(100, max(3, 100 * worst)):.0f}%"></i></span>'
    more = f'<span class="note">{found["skipped"]} skipped</span>' if found["skipped"] and word != "skipped" else ""
    return (
        f'<td role="cell" class="{word.replace("/", "")}{first}" title="{escape(spoken)}">'
        f'{head}<span aria-hidden="true"><b>{MARKS[word]}</b> {shown}</span>'
        f'<span class="hidden">{escape(spoken)}</span>{bar}{more}</td>'
    )


def _short(dtype: str) -> str:
    """A dtype in a narrow column.

    >>> _short("bfloat16"), _short("float32")
    ('bf16', 'f32')
    """
    return dtype.replace("bfloat", "bf").replace("float", "f")
