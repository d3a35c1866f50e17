"""`tokenmerge conformance` and its reports: what is printed and written, how it ends, what it says about mistakes."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("hypothesis")

import tokenmerge
from tokenmerge.cli import app
from tokenmerge.conformance import command
from tokenmerge.conformance.checks import CHECKS
from tokenmerge.conformance.report import html_page, make_report, print_report
from tokenmerge.conformance.report.files import check_writable, write
from tokenmerge.conformance.report.verdicts import verdict
from tokenmerge.conformance.report.words import headline, not_checked
from tokenmerge.conformance.request import Request, request
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.runner import Result
from tokenmerge.conformance.skips import parse_skips, read_skips

ROOT = Path(__file__).parents[1]
FAST = ("--level", "quick", "--merger", "ltm", "--dtype", "float32")

# a copy of the NumPy backend that is wrong in one place
BACKWARDS = """
from tokenmerge.backends.numpy import *
from tokenmerge.backends.numpy import MERGERS as RIGHT, LTM

class Backwards(LTM):
    def __call__(self, x, **arguments):
        merged = super().__call__(x, **arguments)
        return merged._replace(tokens=merged.tokens[:, ::-1])

MERGERS = {"ltm": Backwards}
VERSION = "0.1 <b>"
"""
ODD_DEVICE = """
from tokenmerge.backends.numpy import from_numpy as here
SEEN = []
def devices():
    return ("cpu", "odd")
def from_numpy(array, dtype=None, device=None):
    SEEN.append(device)
    return here(array, dtype, None)
"""
CTRL_C = """
import os, signal
from tokenmerge.backends.numpy import *
from tokenmerge.backends.numpy import LTM

class Stopped(LTM):
    calls = 0
    def __call__(self, x, **arguments):
        Stopped.calls += 1
        if Stopped.calls > 30:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__call__(x, **arguments)

MERGERS = {"ltm": Stopped}
"""


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["conformance", *map(str, arguments)])


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a backend, return its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str) -> str:
        package = f"adopter{abs(hash((tmp_path, source)))}"
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "backend.py").write_text(source)
        return f"{package}.backend"

    return make


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a check ran")

    monkeypatch.setattr(Request, "run", forbidden)


def failing(backend: Callable[[str], str], *extra: str | Path) -> tuple[Any, str]:
    name = backend(BACKWARDS)
    return invoke("--backend", name, *FAST, *extra), name


def names_this_machine(text: str) -> bool:
    names = [name for name in (platform.node(), str(Path.home()), str(ROOT)) if len(name) > 1]
    return any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) for name in names)


def result(status: str, *, check: str = "ltm-exact", rules: tuple[str, ...] = ("LTM-1",), **fields: Any) -> Result:
    return Result(check, 1, "A sentence.", rules, status, **{"dtype": "float32", "examples": 3} | fields)


# How it ends


def test_a_backend_that_agrees(tmp_path: Path) -> None:
    found = invoke("--backend", "numpy", *FAST, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert found.exit_code == 0, found.output
    assert "rules that were checked are green" in found.stdout
    assert sorted(os.listdir(tmp_path)) == ["a.html", "a.json"]  # nothing half-written is left
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "a.html").stat().st_mode
    assert "<h1>numpy agrees with the spec on ltm</h1>" in (tmp_path / "a.html").read_text()


def test_a_failure_is_quoted_in_full(backend: Callable[[str], str]) -> None:
    found, name = failing(backend)
    assert found.exit_code == 1, found.output
    out = " ".join(found.stdout.split())
    assert rules()["PLAN-1"] in out
    assert re.search(r"tokens\[0\]\[.*\]=.*, but should be", out)
    assert "The input, shrunk:" in out and "x (" in out
    assert f"run_case(case, {name!r}, 'float32')" in out


def test_the_programs_of_a_failure_show_it(
    backend: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(backend, "--json", tmp_path / "a.json")
    report = json.loads((tmp_path / "a.json").read_text())
    broken = next(each for each in report["results"] if each["status"] == "failed")
    for program in (broken["snippet"], broken["repeat"]):
        exec(program, {})
        assert broken["message"].splitlines()[0].partition(" [")[0] in capsys.readouterr().out


def test_the_device_is_where_arrays_are_made(backend: Callable[[str], str], tmp_path: Path) -> None:
    name = backend(BACKWARDS + ODD_DEVICE)
    found = invoke("--backend", name, *FAST, "--device", "odd", "--json", tmp_path / "a.json")
    assert found.exit_code == 1, found.output
    assert sys.modules[name].SEEN[0] == "odd"
    report = json.loads((tmp_path / "a.json").read_text())
    broken = next(each for each in report["results"] if each["status"] == "failed")
    assert report["device"] == "odd"
    assert "'float32', 'odd')" in broken["snippet"] and "device='odd'" in broken["repeat"]


def test_a_check_without_a_case_can_be_repeated() -> None:
    class Unlike:
        """Refuses nothing."""

        def __init__(self, **options: Any) -> None: ...

    asked = request("numpy", dtypes=("float32",), level="quick", seed=3)
    module = ModuleType("unlike")
    module.__dict__.update(vars(asked.module) | {"MERGERS": {"ltm": Unlike}})
    found = replace(asked, backend="unlike", module=module).run("float32", CHECKS["ltm-errors"])
    assert found.status == "failed" and not found.input
    assert found.snippet == found.repeat
    assert "repeat('unlike', 'ltm-errors', 'float32', level='quick', seed=3)" in found.repeat


def test_plans_are_moved_where_there_are_two_devices(backend: Callable[[str], str]) -> None:
    alone = request("numpy", dtypes=("float32",), level="quick").run("float32", CHECKS["tome-moved"])
    assert (alone.status, alone.message) == ("not applicable", "the backend has no 2 devices here")
    two = request(backend("from tokenmerge.backends.numpy import *\n" + ODD_DEVICE), level="quick")
    for merger in ("tome", "ats", "patch_merger", "ltm"):
        found = two.run("float32", CHECKS[f"{merger}-moved"])
        assert found.status == "passed", found.message
    assert "odd" in two.module.SEEN


def test_everything_is_given_on_the_device_that_was_asked_for(backend: Callable[[str], str]) -> None:
    vmap = "import numpy as np\ndef vmap(f):\n    return lambda *a: np.stack([f(*one) for one in zip(*a)])\n"
    name = backend("from tokenmerge.backends.numpy import *\n" + ODD_DEVICE + vmap)
    asked = request(name, device="odd", level="quick")
    for check in asked.checks:
        asked.module.SEEN.clear()
        found = asked.run("float32", check)
        assert found.status in ("passed", "not applicable"), found.message
        if not check.id.endswith(("-errors", "-moved")):  # one needs no device, one needs all
            assert set(asked.module.SEEN) <= {"odd"}, check.id


def test_a_check_does_not_apply_without_the_function_that_it_needs() -> None:
    asked = request("numpy", level="quick")
    module = ModuleType("objects_only")
    module.__dict__.update({n: v for n, v in vars(asked.module).items() if n != "ltm"} | {"gradient": None})
    found = replace(asked, module=module).run("float64", CHECKS["ltm-parameter-gradient"])
    assert (found.status, found.message) == ("not applicable", "the backend has no ltm.plan")


def test_a_quick_look_at_a_backend_that_compiles(backend: Callable[[str], str]) -> None:
    name = backend("from tokenmerge.backends.numpy import *\nCOMPILES = True\n")
    asked = {level: request(name, level=level) for level in ("quick", "ci")}
    ran = {check for dtype, check in asked["quick"].pairs() if check.dtype in (None, dtype)}
    assert ran == set(asked["quick"].checks)  # levels differ in examples, not in rules
    assert asked["quick"].dtypes == asked["ci"].dtypes == ("float16", "float32", "float64")
    examples = [each.run("float32", CHECKS["ltm-generic"]).examples for each in asked.values()]
    assert examples == [1, 20]


def test_a_quick_look_compiles_most_checks_in_one_dtype(backend: Callable[[str], str], tmp_path: Path) -> None:
    name = backend("from tokenmerge.backends.numpy import *\nCOMPILES = True\n")
    path = tmp_path / "a.json"
    found = invoke("--backend", name, "--level", "quick", "--merger", "ltm", "--json", path)
    assert found.exit_code == 0, found.output
    report = json.loads(path.read_text())
    ran: dict[str, set[str]] = {dtype: set() for dtype in report["dtypes"]}
    for each in report["results"]:
        if each["status"] == "passed":
            ran[each["dtype"]].add(each["check"])
    assert ran["float16"] == {"ltm-generic"}  # whole calls are looked at in every dtype
    assert "ltm-generic" in ran["float64"] and "ltm-errors" not in ran["float64"]
    assert ran["float32"] >= {"ltm-generic", "ltm-batch", "ltm-errors"}
    assert report["mostly"] == "float32" and report["checks"]["planned"] == len(report["results"])
    rule = next(each for each in report["rules"] if each["id"] == "CALL-4")
    words = {dtype: each["verdict"] for dtype, each in rule["dtypes"].items()}
    assert (rule["verdict"], words) == ("green", {"float16": "unproven", "float32": "green", "float64": "unproven"})
    words = {each["id"]: each["dtypes"]["float16"]["verdict"] for each in report["rules"]}
    assert words["LTM-4"] == "green"
    assert words["PLAN-5"] == "unproven"  # of `generic`, but its one example is no composition
    assert words["CALL-1"] == "n/a" and words["IB-6"] == "unproven"  # no check in float16; one that was left out
    out = " ".join(found.stdout.split())
    assert "only in float32; `--dtype` runs all of them in others, too: float16, float64" in out
    assert "the backend has no 2 devices here: ltm-moved" in out  # said of checks that were asked for in one dtype


def test_a_dtype_that_is_asked_for_is_looked_at_in_full(backend: Callable[[str], str]) -> None:
    name = backend("from tokenmerge.backends.numpy import *\nCOMPILES = True\n")
    asked = request(name, level="quick", dtypes=("float16",))
    assert asked.dtypes == ("float16",)
    assert [each for _, each in asked.pairs()] == list(asked.checks)


def test_a_quick_look_without_float32_takes_the_first_dtype(backend: Callable[[str], str]) -> None:
    name = backend("from tokenmerge.backends.numpy import *\nCOMPILES = True\nDTYPES = ('float16', 'float64')\n")
    asked = request(name, level="quick")
    assert [dtype for dtype, check in asked.pairs() if check.id == "ltm-batch"] == ["float16"]


def test_ctrl_c_reports_what_was_found(backend: Callable[[str], str], tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("needs signals")
    files = ("--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    found = invoke("--backend", backend(CTRL_C), *FAST[2:], "--level", "deep", *files)
    assert found.exit_code == 130, found.output
    assert "PARTIAL, stopped early after" in found.stdout
    report = json.loads((tmp_path / "a.json").read_text())
    done = report["checks"]["passed"] + report["checks"]["not applicable"]
    assert report["partial"] and 0 < done < report["checks"]["planned"]
    assert "unproven" in {rule["verdict"] for rule in report["rules"]}
    assert "<strong>Partial.</strong>" in (tmp_path / "a.html").read_text()
    assert "agrees with the spec" not in (tmp_path / "a.html").read_text()


def test_a_deep_run_has_seen_everything_before_it_goes_deep() -> None:
    rounds = list(request("numpy", dtypes=("float32",), mergers=("ltm",), level="deep").rounds())
    half = len(rounds) // 2
    assert {level for level, _, _ in rounds[:half]} == {"ci"} and {level for level, _, _ in rounds[half:]} == {"deep"}
    assert [check for _, _, check in rounds[:half]] == [check for _, _, check in rounds[half:]]


def test_a_run_that_checks_nothing_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "all.skips").write_text("\n".join(f"{check}: no" for check in CHECKS))
    found = invoke("--backend", "numpy", *FAST, "--skips", tmp_path / "all.skips")
    assert found.exit_code == 1
    assert "no check ran, so nothing is proven" in " ".join(found.stdout.split())


# Mistakes


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--backend", "nunpy"], r"get_backend: `backend` must be one of .*, got 'nunpy' \(did you mean 'numpy'\?\)"),
        ([], r"conformance: --backend must be given \(`tokenmerge backends` lists those that are known\)"),
        (["--backend", "os.path"], r"get_backend: `backend` must have NAME, .*, got 'os.path' without .*"),
        (["--backend", "no.such.module"], r"get_backend: `backend` must be a module that can be imported, got .*"),
        (["--backend", "numpy", "--dtype", "float32,float23"], r"conformance: `dtype` must be one of .*'float23'.*"),
        (["--backend", "numpy", "--device", "cuda"], r"conformance: `device` must be one of 'cpu', got 'cuda'"),
        (["--backend", "numpy", "--merger", "tomе"], r"conformance: `merger` must be one of 'tome', .*"),
        (["--backend", "numpy", "--level", "Deep"], r"conformance: `level` must be one of .*\(did you mean 'deep'\?\)"),
        (["--backend", "numpy", "--json", "none/a.json"], r"conformance: `json` .*/none/a.json', whose folder is .*"),
        (["--backend", "numpy", "--html", "folder"], r"conformance: `html` .*/folder', which is a folder"),
        (["--backend", "numpy", "--json", "old", "--html", "./old"], r"conformance: .* must be different files, .*"),
        (["--backend", "numpy", "--json", "my.skips", "--skips", "my.skips"], r"conformance: .* different files, .*"),
        (["--backend", "numpy", "--skips", "none"], r"conformance: `skips` .*'none' \(No such file or directory\)"),
        (["--backend", "numpy", "--skips", "folder"], r"conformance: `skips` .*'folder' \(Is a directory\)"),
        (["--backend", "numpy", "--skips", "latin"], r"conformance: `skips` .*'latin' \(which is not UTF-8\)"),
        (["--backend", "numpy", "--skips", "bad.skips"], r"conformance: bad.skips line 3 must name a check, .*"),
        (["--list", "--json", "old"], r"conformance: --list must be without --json"),
        (["--list", "--merger", "tomé"], r"conformance: `merger` must be one of .*"),
        (["--list", "--self-test"], r"conformance: --list must be without --self-test"),
        (["--self-test", "--backend", "numpy"], r"conformance: --self-test must be without --backend"),
        (["--self-test", "--dtype", "float16"], r"conformance: --self-test must be without --dtype"),
        (["--self-test", "--merger", "foo"], r"conformance: `merger` must be one of .*, got 'foo'"),
        (["--list", "--device", "cpu"], r"conformance: --list must be without --device"),
        (["--list", "--seed", "0"], r"conformance: --list must be without --seed"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("latin").write_bytes(b"ltm-generic: \xe4")
    Path("my.skips").write_text("ltm-generic: no")
    Path("bad.skips").write_text("# comment\nltm-generic: no\nltm-generik: no")
    Path("old").write_text("an earlier report")
    before = sorted(os.listdir())
    found = invoke(*arguments)
    assert found.exit_code == 2, found.output
    assert found.stdout == ""
    assert re.fullmatch(sentence, found.stderr.strip())
    assert Path("old").read_text() == "an earlier report"
    assert sorted(os.listdir()) == before


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", r"ZeroDivisionError: division by zero \(.*backend.py, line 1\)"),
        ("raise ValueError('several\\nlines')", r"ValueError: several \(.*backend.py, line 1\)"),
        ("import sys; sys.exit(0)", r"SystemExit: 0 \(.*backend.py, line 1\)"),
        ("\n\ndef (", r"SyntaxError: invalid syntax \(backend.py, line 3\)"),
        ("import a_package_nobody_has", r"ModuleNotFoundError: No module named 'a_package_nobody_has' \(.*, line 1\)"),
        ("class Odd(Exception): pass\nraise Odd", r"Odd \(.*backend.py, line 2\)"),
    ],
)
def test_a_module_that_raises_on_import(source: str, said: str, backend: Callable[[str], str]) -> None:
    name = backend(source)
    found = invoke("--backend", name)
    assert found.exit_code == 2 and found.stdout == ""
    start = f"conformance: `backend` must be a module that can be imported, got {name!r}, which raised "
    assert found.stderr.startswith(start)
    assert re.fullmatch(said, found.stderr.strip().removeprefix(start))


@pytest.mark.usefixtures("nothing_runs")
def test_a_merger_that_the_backend_does_not_have(backend: Callable[[str], str]) -> None:
    found = invoke("--backend", backend(BACKWARDS), "--merger", "tome")
    assert found.exit_code == 2
    assert found.stderr.startswith("conformance: `merger` must be one of 'ltm', got 'tome'")


# Skips


def test_skips_are_shown_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "my.skips").write_text("# known\n\nltm-generic @ float32: it is slow: see issue #3\nltm-large: no\n")
    files = ("--skips", tmp_path / "my.skips", "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    found = invoke("--backend", "numpy", "--level", "quick", "--merger", "ltm", "--dtype", "float32,float64", *files)
    assert found.exit_code == 0, found.output
    out = " ".join(found.stdout.split())
    assert "Skipped it is slow: see issue #3: ltm-generic (float32) no: ltm-large" in out
    report = json.loads((tmp_path / "a.json").read_text())
    skipped = [(each["check"], each["dtype"]) for each in report["results"] if each["status"] == "skipped"]
    assert skipped == [("ltm-generic", "float32"), ("ltm-large", "float32"), ("ltm-large", "float64")]
    of_rule = {rule["id"]: rule for rule in report["rules"]}
    assert of_rule["LTM-5"]["dtypes"]["float32"]["verdict"] == "skipped"  # by no other check
    assert of_rule["LTM-5"]["verdict"] == "green" and of_rule["LTM-5"]["skipped"] == 1
    assert " 1 skipped " in out
    page = (tmp_path / "a.html").read_text()
    assert "issue #3" in page and "<h1>numpy agrees with the spec on ltm, 3 checks skipped</h1>" in page


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("ltm-generik: no", r"line 2 must name a check, got 'ltm-generik' \(did you mean 'ltm-generic'\?\)"),
        (": no", "line 2 must name a check, got ''"),
        ("ltm-*: no", "line 2 must name a check, got 'ltm-\\*'"),
        ("ltm-generic", "line 2 must give a reason after a colon, got 'ltm-generic'"),
        ("ltm-generic:  ", "line 2 must give a reason after a colon, got 'ltm-generic:'"),
        ("ltm-generic # no", "line 2 must name a check, got 'ltm-generic # no'"),
        ("ltm-generic @ bfloat16: no", r"line 2 must name a dtype of the backend after @ \(float32\), got 'bfloat16'"),
        ("ltm-generic @: no", r"line 2 must name a dtype of the backend after @ \(float32\), got ''"),
        ("tome-exact: twice", "line 2 must skip something new, got 'tome-exact', which line 1 skips"),
        ("tome-exact @ float32: twice", "line 2 must skip something new, got 'tome-exact @ float32', which line 1"),
    ],
)
def test_a_skip_that_skips_nothing_is_a_mistake(line: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"conformance: my.skips {sentence}"):
        parse_skips(f"tome-exact: first\n{line}\n", "my.skips", CHECKS, ["float32"])


def test_skips_as_editors_write_them(tmp_path: Path) -> None:
    (tmp_path / "my.skips").write_bytes(b"\xef\xbb\xbfltm-generic:no\r\n  tome-exact@float32 : a : b\r\n")
    assert dict(read_skips(tmp_path / "my.skips", CHECKS, ["float32"])) == {
        ("ltm-generic", None): "no",
        ("tome-exact", "float32"): "a : b",
    }


def test_a_check_that_does_not_apply_is_not_called_skipped() -> None:
    skips = {("ltm-compiled", None): "not yet"}
    found = request("numpy", dtypes=("float32",), skips=skips).run("float32", CHECKS["ltm-compiled"])
    assert (found.status, found.message) == ("not applicable", "the backend has no compile")


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


@pytest.fixture(scope="module")
def reports() -> tuple[dict[str, Any], dict[str, Any]]:
    """A green report, and one of everything else."""
    asked = request("numpy", level="quick", dtypes=("float32", "float64"), mergers=("ltm",))
    green = command.run(asked)
    results = []
    for i, check in enumerate(asked.checks):
        for dtype in asked.dtypes:
            one = Result(check.id, check.tier, check.statement, check.rules, "passed", dtype, examples=5)
            if i % 4 == 1 and dtype == "float32":
                one = replace(one, status="failed", broken=check.rules[:2], message="tokens=<i>1</i>, but should be 2")
                one = replace(one, snippet="print('<&>')", repeat="again()", input="x (1,) =\n[1.]")
            elif i % 4 > 1:
                one = replace(one, status=("skipped", "not applicable")[i % 4 - 2], message="because <so>", examples=0)
            results.append(one)
    return green, make_report(replace(asked, backend="my.<b>"), results)


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


# Files


def test_a_report_replaces_an_earlier_one_only_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        write(tmp_path / "a.json", "new \ud800")
    assert (tmp_path / "a.json").read_text() == "old"
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    write(tmp_path / "link.json", "new")
    assert (tmp_path / "a.json").read_text() == "new" and (tmp_path / "link.json").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a.json", "link.json"]


@pytest.mark.skipif(os.name != "posix", reason="needs a device file")
def test_a_device_is_written_to_and_not_replaced() -> None:
    check_writable("json", Path(os.devnull))
    write(Path(os.devnull), "text")
    assert not Path(os.devnull).is_file()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "a.json").chmod(0o400)
    with pytest.raises(OSError, match=r"conformance: `json` must be a file .*, which is read-only"):
        check_writable("json", tmp_path / "a.json")


# --list and --self-test


@pytest.mark.usefixtures("nothing_runs")
def test_list_names_every_rule_and_check_without_running_any() -> None:
    found = invoke("--list")
    assert found.exit_code == 0, found.output
    for name in (*rules(), *CHECKS):
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", found.stdout), name
    out = " ".join(found.stdout.split())
    assert f"{len(rules())} rules, {len(CHECKS)} checks" in out
    assert "…" not in out
    some = invoke("--list", "--merger", "ltm").stdout
    assert "LTM-1" in some and "ltm-exact" not in some and "TOME-1" not in some and "tome-" not in some


def test_self_test_is_run_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    module = ModuleType("self_test")
    monkeypatch.setattr(module, "run_self_test", lambda *asked: given.append(asked) or 7, raising=False)
    monkeypatch.setitem(sys.modules, "tokenmerge.conformance.self_test", module)
    assert invoke("--self-test", "--level", "quick", "--seed", "3", "--merger", "ltm,ats").exit_code == 7
    assert given == [("quick", 3, ("ltm", "ats"))]


def test_how_to_install_what_it_needs() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None; sys.argv[1:] = ['conformance', '--list'];"
        "from tokenmerge.cli import main; main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == 'conformance needs hypothesis: pip install "tokenmerge[conformance]"\n'


# Under pytest


def under_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The suite in a project that is not ours."""
    line = [sys.executable, "-m", "pytest", "-p", "tokenmerge.conformance.plugin", "-p", "no:cacheprovider", "-q"]
    # where tokenmerge is installed the plugin is there already, and a second registration is an error
    installed = importlib.metadata.entry_points(group="pytest11", name="tokenmerge.conformance.plugin")
    line = line if not installed else [*line[:3], *line[5:]]
    options = ("--tokenmerge-level=quick", "--tokenmerge-merger=ltm", "--tokenmerge-dtype=float32", *options)
    line += ["--pyargs", "tokenmerge.conformance", *options]
    env = os.environ | {"PYTHONPATH": str(Path(tokenmerge.__file__).parents[1])}
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True)


def test_pytest_runs_the_same_checks_with_the_same_skips(tmp_path: Path) -> None:
    (tmp_path / "my.skips").write_text("ltm-generic @ float32: not yet\n")
    run = under_pytest(tmp_path, "--tokenmerge-backend=numpy", "--tokenmerge-skips=my.skips", "-vv", "-rs")
    assert run.returncode == 0, run.stdout
    assert "[numpy-float32-ltm-padded] PASSED" in run.stdout
    assert re.search(r"SKIPPED \[1\].*: not yet", run.stdout)
    checks = request("numpy", dtypes=("float32",), mergers=("ltm",)).checks
    assert len(re.findall(r"\[numpy-float32-[\w-]+\] (?:PASSED|SKIPPED)", run.stdout)) == len(checks)


@pytest.mark.parametrize(
    ("options", "sentence", "status"),
    [
        (["--tokenmerge-backend=no.such.module"], "get_backend: `backend` must be a module that can be imported", 1),
        (["--tokenmerge-backend=numpy", "--tokenmerge-device=tpu"], "conformance: `device` must be one of 'cpu'", 2),
        (["--tokenmerge-backend=numpy", "--tokenmerge-skips=bad.skips"], "conformance: bad.skips line 1 must name", 2),
    ],
)
def test_mistakes_under_pytest(options: list[str], sentence: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "bad.skips").write_text("ltm-generik: no")
    run = under_pytest(tmp_path, *options)
    assert run.returncode == status, run.stdout
    assert re.search(rf"^{re.escape(sentence)}", run.stdout, re.MULTILINE)
    assert "Traceback" not in run.stdout and "_caller.py" not in run.stdout


def test_a_failure_under_pytest(tmp_path: Path, backend: Callable[[str], str]) -> None:
    run = under_pytest(tmp_path, f"--tokenmerge-backend={backend(BACKWARDS)}", "-k", "ltm-generic")
    assert run.returncode == 1, run.stdout
    assert f"PLAN-1: {rules()['PLAN-1']}" in run.stdout and "Repeat it with:" in run.stdout


# The published scores


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
