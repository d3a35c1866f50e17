"""Foreign bugs: those that the suite finds stay found, and those that it does not find are listed, and only those."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from tokenmerge.conformance.checks import CHECKS
from tokenmerge.conformance.mutants import MUTANTS, Mutant, foreign
from tokenmerge.conformance.mutants.foreign import FOREIGN, survivors
from tokenmerge.conformance.mutants.foreign.__main__ import main
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.runner import replay, run_check
from tokenmerge.conformance.self_test import kill
from tokenmerge.conformance.subject import Subject

HANDED = 40  # that others found; there are at least as many of the same kinds
LISTED = survivors()


def built_here(mutant: Mutant) -> Mutant:
    if find_spec({"torch": "torch"}.get(mutant.backend, "numpy")) is None:
        pytest.skip(f"needs {mutant.backend}")
    return mutant


@pytest.mark.parametrize("name", [name for name in FOREIGN if name not in LISTED])
def test_foreign_bug_is_found_and_its_rule_named(name: str) -> None:
    found = kill(built_here(FOREIGN[name]))
    assert found.killed, f"{name} survived: {found.mutant.what}"
    assert found.mutant.rule in found.rules[:3], f"{name} breaks {found.mutant.rule}, got {found.rules}"


@pytest.mark.parametrize("name", LISTED)
def test_listed_survivor_survives(name: str) -> None:
    """At level quick, which is cheap; `python -m tokenmerge.conformance.mutants.foreign --survivors` takes level ci."""
    found = kill(built_here(FOREIGN[name]), level="quick")
    assert found.mutant.rule not in found.rules[:3], f"{name} is found now: take it out of survivors.txt"


def test_there_are_many_and_each_is_another() -> None:
    assert len(FOREIGN) >= 2 * HANDED
    assert len({mutant.what for mutant in FOREIGN.values()}) == len(FOREIGN)
    assert not set(FOREIGN) & set(MUTANTS)
    assert {mutant.rule for mutant in FOREIGN.values()} <= set(rules())


@pytest.mark.parametrize("line", ["no-such-bug", "foreign-long-runs\nforeign-long-runs"])
def test_list_names_foreign_bugs_once(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "survivors.txt"
    file.write_text(f"# a comment\n{line}\n")
    monkeypatch.setattr(foreign, "SURVIVORS_FILE", file)
    with pytest.raises(ValueError, match=r"survivors.txt: every line must name one foreign bug, once, got '"):
        survivors()


@pytest.mark.parametrize(
    ("name", "check"), [("foreign-samples-from-the-fifth", "tome-odd"), ("foreign-plan-merges-plainly", "tome-doors")]
)
def test_the_program_of_a_failure_fits_a_terminal_and_shows_it(name: str, check: str) -> None:
    """One is of thousands of numbers, the other shows in no single call: both are told by what was drawn."""
    with FOREIGN[name].built() as module:
        found = run_check(Subject(name, module, "float32"), CHECKS[check])
        call = ast.parse(found.snippet).body[-1].value.args[0]  # type: ignore[attr-defined]
        assert call.func.id == "replay" and len(found.snippet) < 2000
        example = ast.literal_eval(call.args[3])
        assert replay(module, check, "float32", example).splitlines()[0] == found.message.splitlines()[0]
    assert "the check passes" in replay("numpy", check, "float32", example)


def test_command_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["foreign-sizes-above-1000", "foreign-point-zero"]) in (0, 1)
    assert "of 2 mutants killed" in capsys.readouterr().out
