"""Mutants that write themselves: there are hundreds, each builds, and a sample of them is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tokenmerge.cli import app
from tokenmerge.conformance.mutants.generated import generated, run
from tokenmerge.conformance.mutants.generated.run import Fate, equivalent, fate, holes, print_fates, sample

# A fixed sample: small, because every run of CI pays for it; the published figure is of all.
GATE = sample(16, seed=7, known=False)
KINDS = (
    "comparison",
    "arithmetic",
    "bound",
    "axis",
    "dtype",
    "branch",
    "condition",
    "left out",
    "constant",
    "function",
)
ON_ARGUMENTS = ("size dropped", "mask dropped", "from sample 4 on", "from token 128 on", "from channel 32 on")


@pytest.mark.parametrize("name", [mutant.name for mutant in GATE], ids=range(len(GATE)))
def test_generated_mutant_is_killed(name: str) -> None:
    assert fate(generated()[name]).stage != "survived", f"{name} survived"


def test_there_are_hundreds_of_every_kind() -> None:
    operators = [mutant.operator for mutant in generated().values()]
    assert len(operators) > 1000
    for kind in (*KINDS, *ON_ARGUMENTS):
        assert sum(operator.endswith(kind) for operator in operators) >= 5, kind


def test_every_change_is_one() -> None:
    for mutant in generated().values():
        assert mutant.change.old != mutant.change.new, mutant.name


def test_sample_is_the_same_in_every_run_and_has_no_equivalent_ones() -> None:
    assert [mutant.name for mutant in sample(5, 3)] == [mutant.name for mutant in sample(5, 3)]
    assert [mutant.name for mutant in sample(5, 3)] != [mutant.name for mutant in sample(5, 4)]
    assert len(sample(None)) == len(generated()) - len(set(equivalent()) & set(generated()))
    assert not set(equivalent()) & set(holes())


NAME = next(iter(generated()))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"    {NAME}\n", NAME.split(".")[0]),
        (f"a\n    {NAME}\n    {NAME}\n", NAME.split(".")[0]),
    ],
)
@pytest.mark.parametrize(("file", "read"), [("EQUIVALENT", equivalent), ("HOLES", holes)])
def test_listed_mutants_stand_there_once_below_a_reason(
    file: str, read: Callable[[], object], text: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "listed.txt"
    path.write_text(text)
    monkeypatch.setattr(run, file, path)
    with pytest.raises(
        ValueError, match=f"listed.txt: every mutant must stand there once, below a reason, got '{what}"
    ):
        read()


def test_listed_mutant_whose_code_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "holes", lambda: {"plan.no_such_function bound: 1 -> (0)": "why"})
    console = Console(width=120)
    with console.capture() as capture:
        print_fates(console, [])
    assert "listed, but gone: plan.no_such_function bound: 1 -> (0)" in capture.get()


def test_mutant_that_never_returns_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LONGEST", 0.2)
    monkeypatch.setattr(run, "run_check", lambda *arguments: [None for _ in iter(int, 1)])
    assert fate(generated()[NAME]).check == "it takes too long"


def test_table_has_every_stage_and_the_survivors() -> None:
    mutant = generated()[NAME]
    console = Console(width=120)
    with console.capture() as capture:
        print_fates(console, [Fate(mutant, "quick", "tome-exact in float32", 1.0), Fate(mutant, "survived", "", 1.0)])
    out = capture.get()
    assert "level ci 1 50.0%" in " ".join(out.split())
    assert f"survived {NAME}" in out and "1 of 2 generated mutants killed" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--generated"], "conformance: --generated must be with --self-test"),
        (["--self-test", "--sample", "3"], "conformance: --sample must be with --generated"),
    ],
)
def test_command_refuses(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, ["conformance", *arguments])
    assert result.exit_code == 2 and sentence in " ".join(result.output.split())


def test_command_runs_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "fate", lambda mutant, seed: Fate(mutant, "quick", "a check", 0.0))
    result = CliRunner().invoke(app, ["conformance", "--self-test", "--generated", "--sample", "2"])
    assert result.exit_code == 0 and "2 of 2 generated mutants killed" in result.output
