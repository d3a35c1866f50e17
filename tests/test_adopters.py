"""What people need who run the suite in their own CI: expected failures, and rules of an edition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tokenmerge.cli import app
from tokenmerge.conformance import editions
from tokenmerge.conformance.editions import changed, current
from tokenmerge.conformance.editions.__main__ import main
from tokenmerge.conformance.mutants import MUTANTS
from tokenmerge.conformance.request import request
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.skips import parse_skips

FAST = ("--backend", "numpy", "--merger", "patch_merger", "--dtype", "float32", "--level", "quick")


def invoke(*arguments: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["conformance", *map(str, arguments)])


def test_expected_failure_is_no_failure_and_is_told() -> None:
    asked = request("numpy", xfails={("ats-degenerate", None): "class token last"}, level="quick")
    check = next(check for check in asked.checks if check.id == "ats-degenerate")
    with MUTANTS["ats-class-token-last"].built() as module:
        broken = request("numpy", xfails=asked.xfails, level="quick")
        object.__setattr__(broken, "module", module)
        found = broken.run("float32", check)
    assert (found.status, found.message) == ("skipped", "fails, as expected: class token last")
    assert asked.stale([found]) == []


def test_expected_failure_that_passes_is_stale(tmp_path: Path) -> None:
    (tmp_path / "known.xfails").write_text("patch_merger-generic: it was wrong once\n")
    found = invoke(*FAST, "--xfails", tmp_path / "known.xfails", "--json", tmp_path / "report.json")
    assert found.exit_code == 1
    sentence = "patch_merger-generic in float32 passes, and is expected to fail: it was wrong once"
    assert sentence in found.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["stale"] == [sentence] and report["verdict"] == "green"


def test_without_expectations_nothing_is_stale(tmp_path: Path) -> None:
    found = invoke(*FAST, "--json", tmp_path / "report.json")
    assert found.exit_code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["stale"] == [] and report["law"] == current()
    assert f"measured against the rules of {current()}" in found.output


def test_check_is_skipped_or_expected(tmp_path: Path) -> None:
    for name in ("skips", "xfails"):
        (tmp_path / name).write_text("patch_merger-generic: both\n")
    found = invoke(*FAST, "--xfails", tmp_path / "xfails", "--skips", tmp_path / "skips")
    assert found.exit_code == 2 and "`xfails` must name checks that are not skipped" in found.output


def test_sentence_about_a_line_has_the_verb_of_the_file() -> None:
    with pytest.raises(ValueError, match=r"must expect something new, got 'ltm-exact', which line 1 expects"):
        parse_skips("ltm-exact: a\nltm-exact: b", "my.xfails", ["ltm-exact"], ["float32"], "expect")


def test_xfails_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    found = invoke(*FAST, "--xfails", tmp_path / "nowhere")
    assert found.exit_code == 2 and "`xfails` must be a file that can be read" in found.output


# Editions


def test_edition_of_now_has_changed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editions, "editions", lambda: {"2026.12": dict(rules()), "2026.11": {}})
    assert changed("2026.12") == set() and current() == "2026.12"
    assert changed("2026.11") == set(rules())


def test_changed_rule_is_after_the_edition_and_its_checks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    old = dict(rules()) | {"PM-2": "Another sentence."}
    monkeypatch.setattr(editions, "editions", lambda: {"2026.12": old})
    assert changed("2026.12") == {"PM-2"} and current() == "after 2026.12"
    left = {check.id for check in request("numpy", law="2026.12").checks}
    everything = {check.id for check in request("numpy").checks}
    assert everything - left and all(check.startswith("patch_merger") for check in everything - left)
    assert not [check for check in request("numpy", law="2026.12").checks if "PM-2" in check.rules]


def test_edition_that_is_not_there_is_refused() -> None:
    found = invoke(*FAST, "--rules", "1999.01")
    assert found.exit_code == 2 and "conformance: `rules` must be one of '2026.12'" in found.output


def test_edition_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editions, "FOLDER", tmp_path)
    assert main(["2027.03"]) == 0
    assert json.loads((tmp_path / "2027.03.json").read_text()) == rules()


def test_every_edition_is_of_rules() -> None:
    for name, sentences in editions.editions().items():
        assert sentences and all(isinstance(sentence, str) for sentence in sentences.values()), name
