"""Other projects and the rules: the published answers are those that the adapters give, and adapters are fair."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmerge.conformance.others.__main__ import INDEX, RESULTS, main
from tokenmerge.conformance.others.adapter import Adapter, MissingError
from tokenmerge.conformance.others.page import page
from tokenmerge.conformance.others.verdicts import AGREES, DIFFERS, NOTHING, answers
from tokenmerge.conformance.rules import rules

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS / f"{name}.md" for name in ("conformance-others", "differences", "tome", "ats", "patch_merger")]
PUBLISHED: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))

LIKE_TOME = """
import torch
from tokenmerge.backends.torch import tome


def bipartite_soft_matching(metric, r, class_token=False, distill_token=False):
    plan = tome.plan(metric, r=r, protected=class_token + distill_token, order="score")

    def merge(x, mode="mean"):
        assert mode == "sum"
        return plan.share().transpose(1, 2).to(x.dtype) @ x

    return merge, plan.unmerge
"""


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_page_has_the_published_answers(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert page(text, PUBLISHED) == text


def test_page_says_what_differs_in_a_merger_and_nothing_else() -> None:
    made = page("<!-- differs: ats -->\n<!-- /differs -->", PUBLISHED)
    (ats,) = [project for project in PUBLISHED if project["merger"] == "ats"]
    differing = [answer["rule"] for answer in ats["answers"] if answer["verdict"] == DIFFERS]
    rows = [line for line in made.splitlines() if line.startswith("| ATS-") or line.startswith("| CALL-")]
    assert [row.removeprefix("| ").partition(":")[0] for row in rows] == differing != []
    assert f"**{ats['name']} {ats['version']}** agrees in " in made and f"It differs in {len(differing)}, " in made
    assert not any(project["name"] in made for project in PUBLISHED if project is not ats)


def test_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="others: `page` must hold"):
        page("# Nothing", PUBLISHED)


def test_published_answers_are_about_every_rule_of_three_projects_at_least() -> None:
    assert len(PUBLISHED) >= 3
    for project in PUBLISHED:
        assert {answer["verdict"] for answer in project["answers"]} <= {AGREES, DIFFERS, NOTHING}
        assert {answer["rule"] for answer in project["answers"]} <= set(rules())
        assert all(answer["note"] for answer in project["answers"])


@pytest.mark.parametrize("package", INDEX)
def test_published_answers_are_what_the_package_gives(package: str) -> None:
    try:
        found = list(INDEX[package]())
    except ImportError:
        pytest.skip(f"needs {package}")
    for adapter in found:
        project = next(each for each in PUBLISHED if each["name"] == adapter.name)
        if project["version"] != version(package):
            pytest.skip(f"published of {package} {project['version']}")
        # notes tell what a sort or a generator does, which is not the same on every machine
        got = {answer.rule: answer.verdict for answer in answers(adapter)}
        assert got == {answer["rule"]: answer["verdict"] for answer in project["answers"]}


def asked(run: Any, merger: str = "tome") -> dict[str, str]:
    adapter = Adapter("mine", "no-such-package", merger, run)
    assert adapter.version == "from a path"
    return {answer.rule: f"{answer.verdict}: {answer.note}" for answer in answers(adapter)}


def test_what_is_missing_is_no_fault() -> None:
    def run(case: Any, inputs: Any, params: Any) -> Any:
        raise MissingError("it only paints")

    assert asked(run)["TOME-1"] == f"{NOTHING}: it only paints"
    assert not [answer for answer in asked(run).values() if answer.startswith(DIFFERS)]


def test_result_that_is_not_given_is_no_fault() -> None:
    found = asked(lambda case, inputs, params: {"something": np.zeros(1)})
    assert found["TOME-1"] == f"{NOTHING}: it does not give this result"


def test_wrong_result_differs_and_shows_the_example() -> None:
    found = asked(lambda case, inputs, params: {"assignment": np.zeros(inputs["x"].shape[:2], int)})
    assert found["TOME-6"].startswith(f"{DIFFERS}: ") and "`assignment` must be" in found["TOME-6"]


def test_crash_differs() -> None:
    def run(case: Any, inputs: Any, params: Any) -> Any:
        raise IndexError("no tokens\nat all")

    assert asked(run)["TOME-1"].startswith(f"{DIFFERS}: IndexError where") and "(no tokens)" in asked(run)["TOME-1"]


def test_changed_inputs_differ() -> None:
    def run(case: Any, inputs: Any, params: Any) -> Any:
        inputs["x"] += 1
        return {}

    assert asked(run)["CALL-2"] == f"{DIFFERS}: `x` is not what it was before the call"


def test_other_results_in_a_second_call_differ() -> None:
    rng = np.random.default_rng(0)
    found = asked(lambda case, inputs, params: {"indices": rng.random(3)}, "ats")
    assert found["CALL-3"].startswith(f"{DIFFERS}: `indices` of ")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    (tmp_path / "like_tome.py").write_text(LIKE_TOME)
    return tmp_path


def test_module_from_a_path_is_asked(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, written = checkout / "out.json", checkout / "page.md"
    written.write_text(page("<!-- others -->\n<!-- /others -->", []))
    assert main(["--tome", str(checkout), "like_tome", "--json", str(out), "--page", str(written)]) == 0
    assert "### like_tome: bipartite_soft_matching from a path" in written.read_text()
    mine = json.loads(out.read_text())[-1]
    verdicts = {answer["rule"]: answer["verdict"] for answer in mine["answers"]}
    assert mine["name"] == "like_tome: bipartite_soft_matching" and mine["version"] == "from a path"
    assert {verdicts[f"TOME-{i}"] for i in (1, 2, 3, 4, 5, 6)} == {AGREES}
    assert verdicts["TOME-10"] == NOTHING
    assert "like_tome" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "sentence"),
    [("no_such_module", "No module named"), ("empty_module", "others: `module` must have bipartite_soft_matching")],
)
def test_module_that_is_not_there_is_refused(
    module: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty_module.py").write_text("")
    assert main(["--tome", str(tmp_path), module]) == 2
    assert sentence in capsys.readouterr().err


def test_package_that_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> Any:
        raise ImportError("no such package")
        yield

    monkeypatch.setitem(INDEX, "tomesd", absent)
    monkeypatch.delitem(INDEX, "vit-pytorch")
    assert main([]) == 0
    assert "others: tomesd is left out: no such package" in capsys.readouterr().err
