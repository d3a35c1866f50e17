"""The failures on the page: which rule, what differs, the shrunk input, and the program that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from tokenmerge.conformance.checks import check
from tokenmerge.conformance.report.prose import prose

Report = dict[str, Any]
TIERS = tuple(check.TIERS.values())


def failures(reports: Sequence[Report]) -> str:
    """Every failure, the exact ones first; those of one check in several dtypes are together. The first is open."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for i, report in enumerate(reports):
        for result in report["results"]:
            if result["status"] == "failed":
                groups.setdefault((i, result["check"]), []).append(result)
    if not groups:
        return ""
    ordered = sorted(groups.items(), key=lambda item: TIERS.index(item[1][0]["tier"]))
    shown = "".join(
        _group(reports[i], results, several=len(reports) > 1, open=place == 0)
        for place, ((i, _), results) in enumerate(ordered)
    )
    count = sum(len(results) for results in groups.values())
    return (
        f'<section id="failures"><h2>{count} failure{"" if count == 1 else "s"}</h2>'
        "<p class=hint>The exact ones come first: they explain most of the certified ones, and a wrong plan explains "
        f"most wrong values.</p>{shown}</section>"
    )


def _group(report: Report, results: list[dict[str, Any]], *, several: bool, open: bool) -> str:
    first, *others = results
    sentences = {rule["id"]: rule["sentence"] for rule in report["rules"]}
    name = f'<span class="of">{escape(report["backend"])}</span> ' if several else ""
    tags = "".join(f"<span class=tier>{escape(tag)}</span>" for tag in (first["tier"], *(r["dtype"] for r in results)))
    broken = list(dict.fromkeys(rule for result in results for rule in result["broken"]))
    ids = " ".join(escape(rule) for rule in broken)
    quotes = "".join(
        f'<p><a class="id" href="#{escape(rule)}">{escape(rule)}</a> {prose(sentences.get(rule, ""))}</p>'
        for rule in broken
    )
    rest = "".join(
        f"<details><summary>The same check in {escape(result['dtype'])}</summary>{_one(result)}</details>"
        for result in others
    )
    return (
        f'<details class="failure"{" open" if open else ""}><summary><h3>{name}{escape(first["check"])}</h3>'
        f'<span class="id">{ids}</span><span class="tiers">{tags}</span>'
        f"</summary><blockquote>{quotes}</blockquote>{_one(first)}{rest}</details>"
    )


def _one(result: dict[str, Any]) -> str:
    parts = [
        f"<h4>What differs in {escape(result['dtype'])}</h4>{_block(result['message'], 'what differs', wrap=True)}"
    ]
    if result["input"]:
        parts.append(
            f"<details><summary>The input, shrunk</summary>{_block(result['input'], 'the shrunk input')}</details>"
        )
    parts.append(f"<h4>Repeat it</h4>{_block(result['snippet'], 'a program that repeats it', copy=True)}")
    if result["repeat"] != result["snippet"]:
        again = _block(result["repeat"], "a program that runs the check again", copy=True)
        parts.append(f"<details><summary>Run the whole check again</summary>{again}</details>")
    return "".join(parts)


def _block(text: str, name: str, *, wrap: bool = False, copy: bool = False) -> str:
    button = '<button type="button" class="copy" hidden>Copy</button>' if copy else ""
    style = ' class="wrap"' if wrap else ""
    # what scrolls must be reachable without a mouse
    return (
        f'<div class="block">{button}<pre tabindex="0" role="region" aria-label="{name}"{style}>'
        f"<code>{escape(text)}</code></pre></div>"
    )
