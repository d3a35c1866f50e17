"""The suite never says green about what it did not look at, nor red about its own fault."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import pytest

from tokenmerge.backends import numpy as right
from tokenmerge.backends import registry
from tokenmerge.conformance import command, request
from tokenmerge.conformance.checks import CHECKS
from tokenmerge.conformance.checks.check import check
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.report import html_page
from tokenmerge.conformance.report.words import headline, not_checked
from tokenmerge.conformance.runner import run_check
from tokenmerge.conformance.subject import Subject

NAME = "of_a_stranger"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The NumPy backend as somebody else's module, registered for one test."""
    module = types.ModuleType(NAME)
    module.__dict__.update({name: getattr(right, name) for name in [*right.__all__, "devices"]})
    module.__dict__["NAME"] = NAME
    monkeypatch.setitem(registry._MODULES, NAME, NAME)
    monkeypatch.setitem(registry._LOADED, NAME, module)
    return module


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checks, so that a whole command is quick."""
    names = ("tome-ratio", "ltm-ratio", "tome-load", "ltm-load")
    monkeypatch.setattr(request, "select", lambda mergers: [CHECKS[name] for name in names if name in CHECKS])


def printed(run: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = run()
    return status, " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("few")
def test_a_merger_without_a_record_is_named_and_the_status_is_not_0(
    backend: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = printed(lambda: command.conformance(NAME, level="quick", dtypes=("float32",)), capsys)
    assert status == 0, out
    backend.__dict__["MERGERS"] = {**right.MERGERS, "stride": object}
    status, out = printed(lambda: command.conformance(NAME, level="quick", dtypes=("float32",)), capsys)
    assert status == 1
    assert "not looked at: stride" in out
    assert "the suite has no record of the merger stride" in out
    status, out = printed(
        lambda: command.conformance(NAME, level="quick", dtypes=("float32",), mergers=("ltm",)), capsys
    )
    assert status == 0  # only what was asked for
    assert "stride" not in out


@pytest.mark.usefixtures("few")
def test_every_report_names_it(backend: types.ModuleType) -> None:
    backend.__dict__["MERGERS"] = {**right.MERGERS, "stride": object}
    report = command.run(request.request(NAME, level="quick", dtypes=("float32",)))
    assert report["verdict"] == "incomplete"
    assert report["not_looked_at"] == ["stride"]
    assert headline(report).endswith(")")
    assert ("Not looked at", ["the suite has no record of the merger stride"]) in not_checked(report)
    assert "not looked at: stride" in html_page([report])


@pytest.mark.usefixtures("few")
def test_an_error_of_the_suite_has_its_own_status_and_breaks_no_rule(
    backend: types.ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("a table of ours")

    object.__setattr__(MERGERS["ltm"], "cases", broken)
    try:
        result = run_check(Subject(NAME, backend, "float32"), CHECKS["ltm-generic"], "quick")
    finally:
        from tokenmerge.conformance.ltm import cases

        object.__setattr__(MERGERS["ltm"], "cases", cases)
    assert result.status == "suite error"
    assert result.broken == ()
    assert "report this to tokenmerge" in result.message
    assert "ltm-generic" in result.message

    monkeypatch.setitem(CHECKS, "ltm-ratio", check_of(lambda subject, data: undefined))  # type: ignore[name-defined]  # noqa: F821
    status, out = printed(lambda: command.conformance(NAME, level="quick", dtypes=("float32",)), capsys)
    assert status == 3
    assert "report this to tokenmerge" in out
    assert "broken" not in out


def check_of(function: Any) -> Any:
    from dataclasses import replace

    return replace(CHECKS["ltm-ratio"], function=function)


def test_what_a_backend_raises_is_the_backends(backend: types.ModuleType) -> None:
    class Leaves(right.ToMe):
        def __call__(self, *_: Any, **__: Any) -> Any:
            raise SystemExit(4)

    backend.__dict__["MERGERS"] = {**right.MERGERS, "tome": Leaves}
    result = run_check(Subject(NAME, backend, "float32"), CHECKS["tome-generic"], "quick")
    assert result.status == "failed"
    assert "raised SystemExit: 4" in result.message


@pytest.fixture
def unregistered() -> Iterator[None]:
    before = dict(CHECKS)
    yield
    CHECKS.clear()
    CHECKS.update(before)


@pytest.mark.usefixtures("unregistered")
def test_a_malformed_check_names_itself() -> None:
    with pytest.raises(ValueError, match=r"check 'tome-strange': check: `rules` must be numbers of rules"):
        check("tome-strange", 1, "Nothing.", "TOME-999")(lambda subject, data: None)
    with pytest.raises(TypeError, match=r"check 'tome-strange': .*unexpected keyword argument 'nonsense'"):
        check("tome-strange", 1, "Nothing.", "TOME-1", nonsense=True)(lambda subject, data: None)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("DTYPES", "float32", r"conformance: `DTYPES` of 'of_a_stranger' must be a tuple or list of names, got a str"),
        ("devices", ("cpu",), r"conformance: `devices` of 'of_a_stranger' must be a function .*, got a tuple"),
        ("MERGERS", ["tome"], r"conformance: `MERGERS` of 'of_a_stranger' must be a mapping .*, got a list"),
    ],
)
def test_what_a_backend_says_of_itself_is_checked_first(
    backend: types.ModuleType, name: str, value: Any, sentence: str
) -> None:
    backend.__dict__[name] = value
    with pytest.raises(TypeError, match=sentence):
        request.request(NAME)


def test_a_check_leaves_the_default_dtype_of_pytorch_as_it_was() -> None:
    torch = pytest.importorskip("torch")
    asked = request.request("torch", dtypes=("float64",), mergers=("tome",), level="quick")
    for _ in range(5):
        asked.run("float64", CHECKS["tome-threads"])
        assert torch.get_default_dtype() == torch.float32
