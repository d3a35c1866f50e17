"""The benchmark: what is compared computes the same, and a small run gives a table and files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tokenmerge import get_merger
from tokenmerge.bench import operators, small, textbook
from tokenmerge.bench.machine import Limits
from tokenmerge.bench.memory import peak
from tokenmerge.bench.row import Work
from tokenmerge.bench.subject import Subject
from tokenmerge.bench.timing import Pair, compare
from tokenmerge.cli import app

TINY: dict[str, dict[str, int]] = {
    "tome": {"B": 2, "N": 17, "D": 4, "C": 8, "r": 3},
    "plan": {"B": 2, "N": 17, "D": 4, "C": 8, "r": 3},
    "merge": {"B": 2, "N": 17, "D": 4, "C": 8, "r": 3},
    "unmerge": {"B": 2, "N": 17, "D": 4, "C": 8, "r": 3},
    "attention": {"B": 2, "H": 2, "N": 9, "d": 4},
    "ats": {"B": 2, "H": 2, "N": 9, "d": 4, "K": 4},
    "patch_merger": {"B": 2, "N": 9, "C": 8, "M": 3},
    "ltm": {"B": 2, "N": 8, "C": 8, "P": 4},
}


def same(ours: Any, other: Any, terms: int) -> bool:
    """Equal up to the rounding of sums of so many terms, each of them of size one."""
    return bool((ours.double() - other.double()).abs().max() <= 8 * terms * torch.finfo(torch.float32).eps)


def outputs(operation: str) -> tuple[Any, Any]:
    subject, shape = Subject("torch"), TINY[operation]
    case = next(operators.cases(operation, subject, shape))
    assert case.against == "textbook"
    return case.ours(), case.other()


def test_textbook_tome_is_ours_up_to_order() -> None:
    """Unmerged tokens and targets are the same; the textbook puts the class token with them, in position 0."""
    (tokens, size), (their_tokens, their_size) = outputs("tome")
    assert torch.equal(size, their_size) and same(tokens, their_tokens, 17)


@pytest.mark.parametrize("operation", ["merge", "unmerge", "attention", "ats"])
def test_textbook_is_ours(operation: str) -> None:
    ours, other = (each if isinstance(each, tuple) else (each,) for each in outputs(operation))
    assert all(same(a, b, 64) for a, b in zip(ours, other, strict=True))


def test_textbook_patch_merger_and_ltm_are_ours() -> None:
    x = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    merger = get_merger("patch_merger", backend="torch", dim=8, num_tokens_out=3)
    assert same(merger(x).tokens, textbook.patch_merger(x, merger.queries, merger.scale, merger.bias), 64)
    ours, other = outputs("ltm")
    assert same(ours, other, 64)


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("operation", operators.OPERATIONS)
def test_every_operator_runs_in_every_backend(operation: str, backend: str) -> None:
    for case in operators.cases(operation, Subject(backend), TINY[operation]):
        case.ours()
        case.other()
        assert case.work is not None and case.work.bytes > 0
        assert case.our_peak is not None and (case.our_peak() or 1) > 0


def test_calls_are_timed_in_turn() -> None:
    called: list[str] = []
    pair = compare(lambda: called.append("A"), lambda: called.append("B"), seconds=1e-3)
    timed = called[-2 * len(pair.ours) :]
    assert len(pair.ours) == len(pair.other) >= 5 and timed == ["A", "B"] * len(pair.ours)
    assert Pair([2.0], [1.0]).ratio() == (0.5, 0.5, 0.5)


def test_a_call_that_does_it_several_times_counts_for_one() -> None:
    def ten() -> None:
        time.sleep(0.02)

    ten.times = 10  # type: ignore[attr-defined]
    pair = compare(ten, lambda: time.sleep(0.02), seconds=0.1)
    assert max(pair.ours) < min(pair.other)


def test_the_floor_is_the_slower_of_both() -> None:
    assert Work(10.0, 1.0).seconds(2.0, 1.0) == 5.0


def test_peak_memory_sees_a_temporary() -> None:
    items = 2**18
    for name in ("numpy", "torch"):
        subject = Subject(name)
        found = peak(subject, lambda x: ((x + 1) * 2).sum(), subject.array((items,)))
        assert found is not None and found >= 2 * 4 * items


def test_a_shape_with_other_names_is_refused() -> None:
    with pytest.raises(ValueError, match="shape of tome must give B, N, D, C, r, got B"):
        next(operators.cases("tome", Subject("numpy"), {"B": 1}))


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file, picture = tmp_path / "rows.json", tmp_path / "rows.png"
    options = ["bench", "tome", "--backend", "torch", "--seconds", "0.01", "--shape", "B=1,N=9,D=4,C=8,r=2"]
    options += ["--shape", "B=2,N=9,D=4,C=8,r=2"]
    result = CliRunner().invoke(app, [*options, "--json", str(file), "--plot", str(picture)])
    assert result.exit_code == 0, result.output
    written = json.loads(file.read_text())
    assert [row["shape"]["B"] for row in written["rows"] if row["against"] == "textbook"] == [1, 2]
    assert "versions" in written["machine"]
    assert picture.stat().st_size > 0


def test_a_small_patched_model_and_the_textbook_s_way_give_the_same() -> None:
    pytest.importorskip("timm")
    options = {"img_size": 48, "depth": 3, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
    against_plain, against_textbook = small.patched(Subject("torch"), "vit_tiny_patch16_224", B=2, r=5, **options)
    ours, plain, by_hand = against_plain.ours(), against_plain.other(), against_textbook.other()
    assert same(ours, by_hand, 64) and not same(ours, plain, 64)


def test_small_is_a_row_for_every_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "OPERATORS", tuple((name, TINY[name]) for name, _ in small.OPERATORS[1:5]))
    monkeypatch.setattr(small, "NETWORKS", ())
    monkeypatch.setattr("tokenmerge.bench.command.limits", lambda subject: Limits(1e9, 1e9))
    file = tmp_path / "rows.json"
    options = ["bench", "small", "--backend", "torch", "--backend", "numpy", "--seconds", "0.01", "--json", str(file)]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    rows = {(row["operation"], row["backend"], row["against"]) for row in json.loads(file.read_text())["rows"]}
    wanted = {(name, *pair) for name in ("tome", "ltm") for pair in (("torch", "textbook"), ("numpy", "torch"))}
    assert wanted <= rows


def test_an_unknown_operation_is_one_sentence() -> None:
    result = CliRunner().invoke(app, ["bench", "sort"])
    assert result.exit_code == 2 and "bench: operation must be one of" in result.output


@pytest.mark.parametrize("most", [1, 100, 2**22])
@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_blocks_decide_as_the_whole_matrix(backend: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = np.sign(np.random.default_rng(0).standard_normal((3, 300, 4))).astype(np.float32)
    whole = get_merger("tome", backend="spec", r=70, protected=1).plan(metric).assignment
    monkeypatch.setattr(f"tokenmerge.backends.{backend}.matching.MOST", most)
    subject = Subject(backend)
    if backend == "jax":
        subject.backend.tome._plan.clear_cache()  # compiled with another limit
    made = get_merger("tome", backend=backend, r=70, protected=1).plan(subject.given(metric))
    np.testing.assert_array_equal(subject.backend.to_numpy(made.assignment), whole)


def test_memory_of_a_plan_grows_with_the_tokens_and_not_with_their_square() -> None:
    for name in ("numpy", "torch"):
        subject = Subject(name)
        merger = get_merger("tome", backend=name, r=512, protected=1)
        small, large = (peak(subject, merger.plan, subject.array((1, n, 8))) for n in (4096, 16384))
        assert small is not None and large is not None and large <= 4 * small
