"""Plugins and reports of somebody else under attack: what they break is theirs alone."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tokenmerge import get_merger
from tokenmerge.backends import available_backends, get_backend, register_backend, registry
from tokenmerge.cli import app

GOOD = """
from tokenmerge.backends.numpy import *
from tokenmerge.backends.numpy import DTYPES, MERGERS, NAME, VERSION, devices, from_numpy, to_numpy
"""
BROKEN = {
    "exits": "import sys; sys.exit(3)",
    "raises": "raise RuntimeError('no')",
    "no devices": GOOD + "def devices(): raise OSError('no')",
    "exits later": GOOD + "def devices(): raise SystemExit(4)",
    "no dtypes": GOOD + "DTYPES = None",
    "numbers for dtypes": GOOD + "DTYPES = 5",
    "raising kernels": GOOD + "def kernels_in_use(): raise KeyError('no')",
    "version": GOOD + "VERSION = (1, 2)",
    "no version": GOOD + "VERSION = None",
    "markup": GOOD + "VERSION = '[/b] [red]'\nDTYPES = ('[/i]',)\ndef kernels_in_use(): return '[/x]'",
    "odd kernels": GOOD + "def kernels_in_use(): return object()",
    "interrupted": GOOD + "class V:\n    def __str__(self): raise ValueError\nVERSION = V()",
}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    (tmp_path / "somebodys_backend.py").write_text(BROKEN[request.param])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys_backend", raising=False)
    importlib.invalidate_caches()
    monkeypatch.setitem(registry._MODULES, "[/b]", "somebodys_backend")
    monkeypatch.setattr(registry, "_LOADED", dict(registry._LOADED))
    return "[/b]"


@pytest.mark.parametrize("plugin", BROKEN, indirect=True)
def test_a_broken_plugin_costs_only_itself(plugin: str) -> None:
    found = available_backends()
    assert found["numpy"].available and plugin in found
    if not found[plugin].available:
        assert found[plugin].install
    shown = CliRunner().invoke(app, ["backends"])
    assert shown.exit_code == 0 and "numpy" in shown.stdout and "[/b]" in shown.stdout, shown.output


@pytest.mark.parametrize(
    ("name", "module"), [(None, None), ("x", 5), ("x", None), (5, "numpy"), ("", "numpy"), ("x", "")]
)
def test_registering_nonsense(name: Any, module: Any) -> None:
    with pytest.raises(TypeError, match=r"^register_backend: `(name|module)` must be a "):
        register_backend(name, module)
    with pytest.raises(ValueError, match=r"did you mean 'numpy'"):
        get_backend("nunpy")


@pytest.mark.parametrize("name", [["x"], None, 5, b"numpy", np.array([1, 2]), "../x", ".x", "x.", "this", "", "a b"])
def test_names_that_are_none(name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^get_backend: `backend` must be one of .* or a module, got"):
        get_backend(name)
    with pytest.raises((TypeError, ValueError), match=r"^get_merger: `name` must be one of "):
        get_merger(name, r=1)
    with pytest.raises((TypeError, ValueError), match=r"^get_backend: `backend` must be one of .* or a module, got"):
        get_merger("tome", backend=name, r=1)
    assert "this" not in sys.modules


# Reports


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("hypothesis")
    from tokenmerge.conformance.report.record import make_report
    from tokenmerge.conformance.request import request

    made: dict[str, Any] = json.loads(json.dumps(make_report(request("numpy", dtypes=("float32",)), [], partial=True)))
    return made


EVIL = "<script>alert(7)</script>"


def paths(value: Any, at: tuple[Any, ...] = ()) -> Any:
    """The places of all leaves and keys of some data."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from paths(each, (*at, key))
    elif isinstance(value, list):
        for i, each in enumerate(value[:2]):
            yield from paths(each, (*at, i))
    else:
        yield at


def test_no_place_of_a_foreign_report_is_a_script(report: dict[str, Any]) -> None:
    from tokenmerge.conformance.report.page import html_page
    from tokenmerge.conformance.report.shape import is_report

    assert is_report(report)
    assert html_page([report])
    for path in paths(report):
        evil = json.loads(json.dumps(report))
        place = evil
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = EVIL
        if is_report(evil):
            try:
                assert EVIL not in html_page([evil]), path
            except (KeyError, ValueError):  # a sentence from `python -m tokenmerge.conformance.report`
                continue
    renamed = json.loads(json.dumps(report).replace("float32", EVIL).replace("TOME-1", EVIL))
    assert is_report(renamed) and EVIL not in html_page([renamed, renamed])


@pytest.mark.parametrize("text", ['{"schema": 1}', "[" * 100_000, "{}", '{"schema": 1, "rules": 5}', "", "[1]", "\x00"])
def test_what_is_no_report(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hypothesis")
    from tokenmerge.conformance.report.__main__ import main

    (tmp_path / "a.json").write_text(text)
    assert main([str(tmp_path / "a.json")]) == 2
    assert capsys.readouterr().err.startswith("report: ")


# Terminals


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
@pytest.mark.parametrize("command", [["--help"], ["backends"], ["conformance", "--list"], ["evaluate", "--help"]])
def test_every_encoding_prints_something(encoding: str, command: list[str]) -> None:
    import os

    run = subprocess.run(
        [sys.executable, "-c", "from tokenmerge.cli import main; main()", *command],
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0 and run.stdout and b"Traceback" not in run.stderr, run.stderr


def test_without_docstrings() -> None:
    code = "from tokenmerge.cli import main; main()"
    run = subprocess.run([sys.executable, "-OO", "-c", code, "backends"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for command in (["--backend", "numpy"], ["--list"]):
        said = subprocess.run(
            [sys.executable, "-OO", "-c", code, "conformance", *command], capture_output=True, text=True, check=False
        )
        assert said.returncode == 2 and said.stderr.startswith("conformance: Python must keep docstrings")
