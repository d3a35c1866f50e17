"""What `tokenmerge conformance` says about mistakes: in its options, its skips and its files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("hypothesis")

from conformance_cases import BACKWARDS, backend, invoke, nothing_runs

from tokenmerge.conformance.checks import CHECKS
from tokenmerge.conformance.report.files import check_writable, write
from tokenmerge.conformance.request import request
from tokenmerge.conformance.skips import parse_skips, read_skips

__all__ = ["backend", "nothing_runs"]

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
        (["--backend", "numpy", "--json", "none/a.json"], r"conformance: `json` .*'none/a.json', whose folder is .*"),
        (["--backend", "numpy", "--html", "folder"], r"conformance: `html` .*'folder', which is a folder"),
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
    (tmp_path / "my.skips").write_text("# known\n\nltm-strided @ float32: it is slow: see issue #3\nltm-large: no\n")
    files = ("--skips", tmp_path / "my.skips", "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    found = invoke("--backend", "numpy", "--level", "quick", "--merger", "ltm", "--dtype", "float32,float64", *files)
    assert found.exit_code == 0, found.output
    out = " ".join(found.stdout.split())
    assert "Skipped no: ltm-large it is slow: see issue #3: ltm-strided (float32)" in out
    report = json.loads((tmp_path / "a.json").read_text())
    skipped = [(each["check"], each["dtype"]) for each in report["results"] if each["status"] == "skipped"]
    assert skipped == [("ltm-large", "float32"), ("ltm-strided", "float32"), ("ltm-large", "float64")]
    of_rule = {rule["id"]: rule for rule in report["rules"]}
    assert of_rule["CALL-9"]["dtypes"]["float32"]["verdict"] == "skipped"  # by no other check
    assert of_rule["CALL-9"]["verdict"] == "green" and of_rule["CALL-9"]["skipped"] == 1
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
