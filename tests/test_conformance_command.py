"""`tokenmerge conformance`: what it prints and writes, how it ends, --list and --self-test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from conformance_cases import BACKWARDS, CTRL_C, FAST, ODD_DEVICE, backend, failing, invoke, nothing_runs

from tokenmerge.conformance.checks import CHECKS
from tokenmerge.conformance.checks.odd import every_row
from tokenmerge.conformance.request import load, request
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.subject import Subject

__all__ = ["backend", "nothing_runs"]

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
    assert "replay('unlike', 'ltm-errors', 'float32', b'" in found.snippet
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


def test_what_was_compiled_for_a_dtype_goes_with_it(backend: Callable[[str], str]) -> None:
    name = backend("from tokenmerge.backends.numpy import *\nFORGOT = []\ndef forget():\n    FORGOT.append(1)\n")
    found = invoke("--backend", name, "--level", "quick", "--merger", "ltm")
    assert found.exit_code == 0, found.output
    assert len(load(name).FORGOT) == 2  # between three dtypes


def test_jax_forgets_its_programs() -> None:
    jax = pytest.importorskip("jax")
    doubled = jax.jit(lambda x: 2 * x)
    doubled(1.0)
    assert doubled._cache_size() == 1
    load("jax").forget()
    assert doubled._cache_size() == 0


def test_a_slow_backend_is_looked_at_in_fewer_odd_shapes() -> None:
    data, rows = SimpleNamespace(draw=lambda strategy: None), {}
    for module in (SimpleNamespace(DTYPES=("float32",)), SimpleNamespace(DTYPES=("float32",), SLOW=True)):
        subject = Subject("one", module, "float32", level="quick")
        rows[subject.slow] = len(list(every_row(subject, data, "tome", "generic")))
    assert 2 < rows[True] < rows[False] / 2


def test_ctrl_c_reports_what_was_found(
    backend: Callable[[str], str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if os.name != "posix":
        pytest.skip("needs signals")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
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
    assert run.stderr == "conformance needs hypothesis: pip install hypothesis\n"
