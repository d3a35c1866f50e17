"""The published scores are those of today's rules and checks, and stale ones are found."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from conformance_cases import ROOT, names_this_machine, reports

from tokenmerge.conformance.report import make_report
from tokenmerge.conformance.request import request
from tokenmerge.conformance.runner import Result

__all__ = ["reports"]


@pytest.fixture(scope="module")
def results() -> Any:
    spec = importlib.util.spec_from_file_location("results", ROOT / "tools" / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_published_scores_are_those_of_the_rules_and_checks_of_today(results: Any) -> None:
    assert results.problems(results.load(), results.PAGE.read_text()) == []


def test_published_scores_are_small_and_name_no_machine(results: Any) -> None:
    for name in results.BACKENDS:
        text = (results.RESULTS / f"{name}.json").read_text()
        assert len(text) < 32_000
        assert not names_this_machine(text)
        assert "seconds" not in text and "when" not in json.loads(text)


@pytest.fixture
def stored(results: Any, reports: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """Scores of three backends, all fresh."""
    asked = request("numpy", dtypes=("float32",))
    own = [Result(c.id, c.tier, c.statement, c.rules, "passed", "float32", examples=1) for c in asked.checks]
    names = results.BACKENDS
    reports_of = {name: make_report(replace(asked, backend=name), own) for name in names}
    return {name: json.loads(results.as_text(results.scores(report))) for name, report in reports_of.items()}


def test_fresh_scores_have_no_problem(results: Any, stored: dict[str, Any]) -> None:
    page = results.put_into("<!-- results --><!-- /results -->", results.table(list(stored.values())))
    assert results.problems(stored, page) == []


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda all: all.pop("torch"), "conformance/results/torch.json is missing"),
        (lambda all: all["jax"]["rules"].pop("LTM-1"), "jax.json is older than the rules: it is without LTM-1; run"),
        (lambda all: all["jax"]["rules"].update({"LTM-99": {}}), "older than the rules: it is with LTM-99; run"),
        (lambda all: all["numpy"]["checks"].pop("ltm-generic"), "older than the checks: it is without ltm-generic"),
        (lambda all: all["numpy"]["checks"].update({"ltm-old": []}), "older than the checks: it is with ltm-old"),
        (lambda all: all["numpy"]["checks"].update({"ltm-generic": []}), "older than the check ltm-generic, which"),
        (lambda all: all["numpy"]["rules"]["LTM-1"].clear(), "has LTM-1 in no dtype, but dtypes"),
        (lambda all: all["numpy"]["rules"]["LTM-1"]["float32"].pop("worst"), "has no verdict on LTM-1 in float32"),
        (lambda all: all["numpy"]["rules"]["LTM-1"]["float32"].update(verdict="ok"), "no verdict on LTM-1 in float32"),
        (lambda all: all["numpy"].update(backend="torch"), "numpy.json holds the scores of 'torch'"),
        (lambda all: all["numpy"].update(version="0"), "docs/conformance.md has another table than"),
    ],
)
def test_stale_scores_are_found(
    spoil: Callable[[dict[str, Any]], Any], sentence: str, results: Any, stored: dict[str, Any]
) -> None:
    page = results.put_into("<!-- results --><!-- /results -->", results.table(list(stored.values())))
    spoil(stored)
    assert any(sentence in found for found in results.problems(stored, page)), results.problems(stored, page)


def test_page_without_markers(results: Any) -> None:
    with pytest.raises(ValueError, match=r"results: docs/conformance.md must hold <!-- results --> and .* once"):
        results.put_into("no markers", "table")
