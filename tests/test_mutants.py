"""The suite turns red on every mutant and names the rule that is broken; and it is green where nothing is."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from importlib.util import find_spec

import pytest
from rich.console import Console

from tokenmerge.backends import get_backend
from tokenmerge.conformance import self_test
from tokenmerge.conformance.checks.check import PREFIXES
from tokenmerge.conformance.mutants import MUTANTS, Mutant
from tokenmerge.conformance.mutants.edited import Edit, edited
from tokenmerge.conformance.mutants.mutant import variant
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.runner import run_check, select
from tokenmerge.conformance.self_test import Kill, kill, print_kill_table, run_self_test
from tokenmerge.conformance.subject import Subject

SEEDS = (1, 2, 3)
FRAMEWORK = {"torch": "torch", "jax": "flax"}
NUMPY = [name for name, mutant in MUTANTS.items() if mutant.backend == "numpy"]

# Rules of which no mutant can be made, and why.
EXCEPTIONS: dict[str, str] = {}


def demand(found: Kill) -> None:
    mutant = found.mutant
    assert found.killed, f"{mutant.name} survived: {mutant.what}"
    assert found.named, f"{mutant.name} breaks {mutant.rule}, but {found.checks} name {found.rules}"
    assert found.rules.index(mutant.rule) < 3, f"{mutant.name} breaks {mutant.rule}, which is not among the first names"


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed_and_its_rule_named(name: str) -> None:
    mutant = MUTANTS[name]
    if find_spec(FRAMEWORK.get(mutant.backend, "numpy")) is None:
        pytest.skip(f"needs {mutant.backend}")
    demand(kill(mutant))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NUMPY)
def test_mutant_is_killed_with_other_examples(name: str, seed: int) -> None:
    demand(kill(MUTANTS[name], seed=seed))


@pytest.mark.parametrize(("dtype", "seed"), zip(["float16", "float32", "float64"], SEEDS, strict=True))
def test_correct_backend_is_green(dtype: str, seed: int) -> None:  # every test run looks at it with the usual examples
    subject = Subject("numpy", get_backend("numpy"), dtype)
    results = [run_check(subject, check, "quick", seed) for check in select()]
    assert [result.id for result in results if result.status == "failed"] == []


# There are enough of them


def test_every_rule_has_a_mutant() -> None:
    assert set(rules()) - {mutant.rule for mutant in MUTANTS.values()} == set(EXCEPTIONS)


def test_every_rule_of_a_mutant_exists() -> None:
    assert {mutant.rule for mutant in MUTANTS.values()} <= set(rules())


@pytest.mark.parametrize("prefix", PREFIXES.values())
def test_every_algorithm_has_mutants(prefix: str) -> None:
    assert Counter(mutant.rule.partition("-")[0] for mutant in MUTANTS.values())[prefix] >= 3


def test_there_are_many_and_each_is_another() -> None:
    assert len(MUTANTS) >= 40
    assert len({mutant.what for mutant in MUTANTS.values()}) == len(MUTANTS)


# The machinery


def test_import_loads_no_framework() -> None:
    code = "import sys, tokenmerge.conformance.mutants; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {"torch", "jax", "flax", "tokenmerge.backends.numpy"} & set(run.stdout.split()) == set()


@pytest.mark.parametrize("name", NUMPY)
def test_built_mutant_differs_from_the_backend_and_leaves_it_alone(name: str) -> None:
    backend = get_backend("numpy")
    before = dict(vars(backend.tome))
    with MUTANTS[name].built() as module:
        assert module is not backend
        assert sys.modules[module.MERGERS["tome"].__module__] is not backend.tome
    assert not [each for each in sys.modules if each.partition(".")[0] == "mutant"]
    assert vars(backend.tome) == before


def test_edit_whose_text_is_gone_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"mutant: `old` must stand once in tome.py, got 0 times: 'no such text'"),
        edited("tokenmerge.backends.numpy", "mutant", [Edit("tome", "no such text", "")]),
    ):
        pass


def test_edit_of_a_file_that_is_not_there_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"mutant: `file` must be a module that tokenmerge.backends.numpy imports"),
        edited("tokenmerge.backends.numpy", "mutant", [Edit("tom", "a", "b")]),
    ):
        pass


UNBROKEN = Mutant("unbroken", "ATS-8", "Nothing is broken.", lambda module: variant(module), mergers=("ats",))
MISLABELLED = Mutant("mislabelled", "ATS-6", "Not what it says.", MUTANTS["ats-class-token-last"].change, ("ats",))


def test_mutant_that_is_not_broken_survives() -> None:
    found = kill(UNBROKEN, level="quick")
    assert (found.killed, found.named, found.checks, found.rules) == (False, False, (), ())


def test_mutant_that_breaks_another_rule_is_not_named() -> None:
    found = kill(MISLABELLED, level="quick")
    assert found.killed
    assert not found.named
    assert "ATS-8" in found.rules


@pytest.mark.parametrize(
    ("mutants", "status", "said"),
    [
        ([MUTANTS["ats-class-token-last"]], 0, "1 of 1 mutants killed"),
        ([MUTANTS["ats-class-token-last"], UNBROKEN], 1, "survived"),
        ([MISLABELLED], 1, "not ATS-8"),
    ],
)
def test_self_test(
    mutants: list[Mutant],
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(self_test, "MUTANTS", {mutant.name: mutant for mutant in mutants})
    assert run_self_test("quick") == status
    assert said in capsys.readouterr().out


def test_self_test_of_some_mergers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    two = {name: MUTANTS[name] for name in ("ats-class-token-last", "ltm-not-smoothed")}
    monkeypatch.setattr(self_test, "MUTANTS", two)
    assert run_self_test("quick", mergers=("ats",)) == 0
    out = capsys.readouterr().out
    assert "ats-class-token-last" in out and "ltm-" not in out


def test_self_test_refuses_an_unknown_level() -> None:
    with pytest.raises(ValueError, match="conformance: `level` must be one of 'quick', 'ci', 'deep', got 'slow'"):
        run_self_test("slow")


def test_kill_table_has_mutant_rule_check_and_seconds() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        print_kill_table(console, [kill(MUTANTS["ats-class-token-last"], level="quick")])
    row = next(line for line in capture.get().splitlines() if "ats-class-token-last" in line)
    mutant, rule, named, seconds, check = row.split()
    assert (mutant, rule, named, check) == ("ats-class-token-last", "ATS-8", "ATS-8", "ats-planned")
    assert float(seconds) >= 0
