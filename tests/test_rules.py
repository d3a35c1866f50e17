"""Every rule of the spec has a check, every check a rule, and the docs say what the docstrings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tokenmerge.conformance.checks import CHECKS
from tokenmerge.conformance.checks.check import check
from tokenmerge.conformance.rules import rules

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("rule", rules())
def test_rule_has_a_check(rule: str) -> None:
    assert any(rule in each.rules for each in CHECKS.values())


@pytest.mark.parametrize("name", CHECKS)
def test_check_has_rules(name: str) -> None:
    assert CHECKS[name].rules
    assert set(CHECKS[name].rules) <= set(rules())


def test_a_check_of_no_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="`rules` must be numbers of rules of the spec, got"):
        check("some-check", 1, "Nothing.")(lambda subject, data: None)
    with pytest.raises(ValueError, match=r"got \['TOME-99'\]"):
        check("some-check", 1, "Nothing.", "TOME-1", "TOME-99")(lambda subject, data: None)
    assert "some-check" not in CHECKS


def test_docs_hold_every_rule() -> None:
    text = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert [rule for rule in rules() if f"| {rule} |" not in text] == []


def test_docs_say_what_the_docstrings_say() -> None:
    run = subprocess.run([sys.executable, ROOT / "tools" / "rules.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
