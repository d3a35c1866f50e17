"""Verdicts on rules, and the reports of them: JSON, the terminal and a page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("hypothesis")

from conformance_cases import names_this_machine, reports, result

from tokenmerge.conformance import command
from tokenmerge.conformance.report import html_page, make_report, print_report
from tokenmerge.conformance.report.verdicts import verdict
from tokenmerge.conformance.report.words import headline, not_checked
from tokenmerge.conformance.request import request
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.runner import Result

__all__ = ["reports"]

# Verdicts


@pytest.mark.parametrize(
    ("results", "word"),
    [
        ([result("passed")], "green"),
        ([result("passed"), result("failed", broken=("LTM-1",))], "red"),
        ([result("failed", broken=("LTM-1",), rules=("PLAN-1",))], "red"),  # found by a check of something else
        ([result("failed", broken=("LTM-2",))], "unproven"),
        ([result("passed"), result("failed", broken=("LTM-2",))], "green"),
        ([result("passed"), result("skipped")], "green"),
        ([result("skipped"), result("not applicable")], "skipped"),
        ([result("not applicable")], "n/a"),
        ([result("passed", rules=("LTM-2",))], "unproven"),
        ([], "unproven"),
    ],
)
def test_verdict_on_a_rule(results: list[Result], word: str) -> None:
    assert verdict("LTM-1", results)["verdict"] == word


def test_budget_of_a_rule_is_that_of_its_own_comparisons() -> None:
    found = verdict(
        "LTM-1",
        [
            result("passed", budgets={"LTM-1": (0.5, 0.1), "PLAN-1": (0.9, 0.8)}),
            result("passed", dtype="float64", budgets={"LTM-1": (0.25, 0.2)}),
            result("passed", rules=("PLAN-1",), budgets={"LTM-1": (0.75, 0.3)}),
        ],
    )
    assert (found["worst"], found["median"], found["examples"]) == (0.75, 0.2, 6)


def test_what_has_no_bound_is_no_number() -> None:
    assert verdict("LTM-1", [result("failed", broken=("LTM-1",), budgets={"LTM-1": (float("inf"), 0.0)})]) == {
        "verdict": "red",
        "worst": None,
        "median": 0.0,
        "examples": 3,
        "skipped": 0,
    }


# The reports


def test_json_is_for_machines(reports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for report in reports:
        text = command.as_json(report)
        assert json.loads(text) == report
        assert list(report) == list(reports[0])
        assert not names_this_machine(text)
        assert [rule["id"] for rule in report["rules"]] == [each for each in rules() if each in text]
        for rule in report["rules"]:
            assert list(rule["dtypes"]) == report["dtypes"]
    green, mixed = reports
    assert green["verdict"] == "green" and mixed["verdict"] == "red"
    assert sum(mixed["verdicts"].values()) == len(mixed["rules"])
    assert "broken" in next(each for each in mixed["results"] if each["status"] == "failed")


def test_json_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        command.as_json({"worst": float("inf")})


@pytest.mark.parametrize("width", [80, 160])
def test_terminal_report_fits(width: int, reports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for report in reports:
        console = Console(width=width, record=True, file=StringIO(), color_system=None)
        print_report(console, report)
        text = console.export_text()
        rows = text.partition("\nltm-")[0].partition("\nSkipped")[0]
        assert "…" not in text
        assert "LTM-1 " in rows and max(map(len, rows.splitlines())) <= width
        for rule in report["rules"]:
            assert re.search(rf"^  {rule['id']} ", text, re.MULTILINE), rule["id"]
        sentence = "The weight is learned and starts at zero"
        assert (sentence in rows) == (width == 160)
    assert "print('<&>')" in text and "because <so>: " in text
    assert re.search(r"^ +in float32\b", text, re.MULTILINE)  # below "red"


def test_brackets_of_a_sentence_are_no_markup(reports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    console = Console(width=160, record=True, file=StringIO(), color_system=None)
    print_report(console, reports[0])
    assert "U[n,p] = W[p,n] / sum_p' W[p',n]" in console.export_text()


def test_headline_of_a_partial_report(reports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    asked = request("numpy", dtypes=("float32", "float64"), mergers=("ltm",))
    report = make_report(asked, [result("passed", check="ltm-generic")], partial=True)
    assert re.search(r"PARTIAL, stopped early after 1 of \d+ checks: no rule broken so far, 1 green", headline(report))
    assert not_checked(report) == []


class Page(HTMLParser):
    """Collects what a page asks for, and complains about tags that do not match."""

    VOID = ("meta", "br", "wbr", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_self_contained_and_well_formed(reports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for given in ([reports[0]], [reports[1]], list(reports)):
        text = html_page(given)
        page = Page(text)
        for tag, attributes in page.tags:
            assert tag not in ("link", "img", "iframe", "object")
            assert "src" not in attributes
            assert (attributes.get("href") or "#").startswith("#")
        assert "://" not in text and "@import" not in text and "url(" not in text
        ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
        assert len(ids) == len(set(ids))
        targets = {attributes["href"] for _, attributes in page.tags if attributes.get("href")}
        assert {str(target).removeprefix("#") for target in targets} <= set(ids)
        assert {rule["id"] for report in given for rule in report["rules"]} <= set(ids)
        columns = sum(len(report["dtypes"]) for report in given)
        cells = sum(tag == "td" for tag, _ in page.tags)
        assert cells == columns * len(given[0]["rules"])


def test_page_says_everything_without_colour(reports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    page = Page(html_page([reports[1]]))
    for word in ("✓ passed", "✗ broken", "⤼ skipped", "– n/a", "tokens=<i>1</i>, but should be 2", "print('<&>')"):
        assert word in page.text, word
    assert "my.<b> breaks" in page.text and "because <so>" in page.text


def test_title_blames_only_who_is_to_blame(reports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    count = reports[1]["verdicts"]["red"]
    assert f"<h1>my.&lt;b&gt; breaks {count} rules of the spec</h1>" in html_page(list(reports))
    other = reports[0] | {"backend": "other"}
    assert "<h1>numpy and other agree with the spec on ltm</h1>" in html_page([reports[0], other])


def test_page_of_several_reports(reports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    other = request("numpy", dtypes=("float16",), mergers=("tome",))
    report = make_report(other, [result("passed", check="tome-exact", rules=("TOME-1",), dtype="float16")])
    text = html_page([reports[0], report])
    assert "not asked for" in text  # a rule that one of them does not have
    assert text.count('scope="colgroup"') == 2
    assert text.index('id="TOME-1"') > text.index('id="LTM-1"')


def test_page_of_nothing_or_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="html_page: `reports` must hold at least one report, got none"):
        html_page([])
    with pytest.raises(ValueError, match="html_page: `reports` must be of schema 1, got 99"):
        html_page([{"schema": 99}])
    (tmp_path / "a.json").write_text("[1]")
    for arguments, sentence in (
        ([], "report: needs the paths of JSON reports, got none"),
        ([tmp_path / "a.json"], f"report: {str(tmp_path / 'a.json')!r} must be what `tokenmerge conformance --json` "),
    ):
        module = [sys.executable, "-m", "tokenmerge.conformance.report"]
        run = subprocess.run([*module, *arguments], capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.startswith(sentence) and run.stderr.count("\n") == 1
