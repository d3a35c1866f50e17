"""The golden vectors: current, complete, enough for a reader that knows nothing else, and true of our backends."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tokenmerge.backends import get_backend
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.vectors import DATA
from tokenmerge.conformance.vectors.__main__ import main
from tokenmerge.conformance.vectors.build import build
from tokenmerge.conformance.vectors.cases import WITHOUT
from tokenmerge.conformance.vectors.files import stale, write
from tokenmerge.conformance.vectors.replay import differences, read, replay

Array = np.ndarray[Any, Any]
INDEX = json.loads((DATA / "index.json").read_text())
CASES = {case["id"]: case for case in INDEX["cases"]}
FILES = sorted({case["file"] for case in INDEX["cases"]})
BUILT = build()
PAGE = Path(__file__).parents[1] / "docs" / "vectors.md"
EXAMPLES = PAGE.parent / "examples"


# The files


def test_files_are_current() -> None:
    assert stale(DATA, *BUILT) is None


def test_command_says_that_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_files_are_few_and_small() -> None:
    assert sorted(path.name for path in DATA.iterdir()) == sorted(["index.json", *FILES])
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 350_000


def test_every_rule_has_a_case_or_a_reason() -> None:
    covered = {rule for case in INDEX["cases"] for rule in case["rules"]}
    assert covered | set(WITHOUT) == set(rules())
    assert not covered & set(WITHOUT)


def test_ids_are_unique_and_every_tensor_is_described() -> None:
    assert len(CASES) == len(INDEX["cases"])
    described = {
        (case["file"], f"{name}/{group}/{tensor}"): (about["dtype"], tuple(about["shape"]))
        for name, case in CASES.items()
        for group in ("inputs", "params", "expected")
        for tensor, about in case[group].items()
    }
    stored = {
        (file, name): (str(array.dtype), array.shape)
        for file in FILES
        for name, array in load_file(DATA / file).items()
    }
    assert described == stored


def test_margins_are_beyond_rounding_or_the_arithmetic_is_exact() -> None:
    for case in INDEX["cases"]:
        for each in case["margins"].values():
            assert case["exact"] or each["margin"] > each["rounding"] > 0, case["id"]


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    write(tmp_path, *BUILT)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write(tmp_path, *build())
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def _tensor(name: str, change: Callable[[Array], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / CASES[name.partition("/")[0]]["file"]
        tensors = load_file(file)
        change(tensors[name])
        save_file(tensors, file)

    return damage


def _text(old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / "index.json").read_text()
        assert old in text
        (folder / "index.json").write_text(text.replace(old, new))

    return damage


def _without(file: str, start: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        save_file({k: v for k, v in load_file(folder / file).items() if not k.startswith(start)}, folder / file)

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_tensor("tome-7-grouped/expected/assignment", lambda a: a.__isub__(1)), "tome-7-grouped/expected/assignment"),
        (_tensor("ltm-4-step/expected/tokens", lambda a: a.__imul__(1 + 1e-9)), "ltm-4-step/expected/tokens"),
        (_tensor("pm-1-bare/inputs/x", lambda a: a.__iadd__(1)), "pm-1-bare/inputs/x"),
        (_without("ats.safetensors", "ats-5-tie/"), "ats-5-tie/inputs/x"),
        (_text('"order":"score"', '"order":"grouped"'), "tome-4-five-protected-score in index.json"),
        (_text('"id": "pool-1-plain"', '"id": "pool-1-other"'), "pool-1-plain must be in index.json"),
        (_text('"schema": 1', '"schema": 2'), "the head of index.json"),
        (lambda folder: (folder / "ltm.safetensors").unlink(), "ltm.safetensors must be a file"),
        (lambda folder: (folder / "ats.safetensors").write_bytes(b"nothing"), "ats.safetensors must be a file"),
        (_text('"cases": [', '"cases": '), "index.json must be a file"),
    ],
)
def test_the_first_stale_case_is_named(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(DATA, folder)
    assert stale(folder, *BUILT) is None
    damage(folder)
    assert said in (stale(folder, *BUILT) or "")


def test_check_fails_where_there_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("vectors: index.json must be a file of vectors in")


def test_last_bits_of_another_machine_are_current(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(DATA, folder)
    _tensor("ltm-4-step/expected/tokens", lambda a: a.__imul__(1 + 2.0**-52))(folder)
    assert stale(folder, *BUILT) is None


# A reader that has only the files and the page: grouped ToMe, in float32, from nothing but NumPy and JSON


def tome_grouped(metric: Array, r: int, protected: int, cosine: bool = True, first_of_ties: bool = True) -> Array:
    """The assignment of one sample of real tokens; the last two options make mistakes."""
    n = len(metric)
    removed = max(0, min(r, (n - protected) // 2))
    if removed == 0:
        return np.arange(n)
    usable = np.isfinite(metric).all(axis=1) & metric.any(axis=1)
    m = np.where(usable[:, None], metric, 0).astype(np.float32)
    if cosine:
        m /= np.where(usable, np.abs(m).max(axis=1), 1)[:, None]
        m /= np.where(usable, np.sqrt((m * m).sum(axis=1)), 1)[:, None]
    a = [i for i in range(0, n, 2) if i >= protected]
    b = [i for i in range(1, n, 2) if i >= protected]
    with np.errstate(over="ignore"):  # without the cosine
        similarity = m[a] @ m[b].T
    if first_of_ties:
        partner = similarity.argmax(axis=1)
    else:
        partner = len(b) - 1 - similarity[:, ::-1].argmax(axis=1)
    ranking = sorted(range(len(a)), key=lambda i: (-similarity[i].max(), i))
    unmerged = sorted(a[i] for i in ranking[removed:])
    slots = np.empty(n, np.int64)
    slots[[*range(protected), *unmerged, *b]] = np.arange(n - removed)
    for i in ranking[:removed]:
        slots[a[i]] = slots[b[partner[i]]]
    return slots


def read_like_the_page(folder: Path, **mistakes: bool) -> list[str]:
    """Ids of the grouped ToMe cases, with a "!" in front where the result is wrong."""
    index, said = json.loads((folder / "index.json").read_text()), []
    for case in index["cases"]:
        config = case["config"]
        if case["function"] != "tome" or (config["matching"], config["order"]) != ("bipartite", "grouped"):
            continue
        tensors = load_file(folder / case["file"])
        given = {name: tensors[f"{case['id']}/inputs/{name}"] for name in case["inputs"]}
        want = {name: tensors[f"{case['id']}/expected/{name}"] for name in case["expected"]}
        tolerance = {
            name: about["tolerance"][case["dtypes"].index("float32")]
            for name, about in case["expected"].items()
            if "tolerance" in about
        }
        b, n, _ = given["x"].shape
        good = True
        for i in range(b) if case["samples"] is None else case["samples"]:
            real = np.flatnonzero(given["mask"][i]) if "mask" in given else np.arange(n)
            assignment = np.full(n, -1)
            metric = given.get("metric", given["x"])[i][real]
            assignment[real] = tome_grouped(metric, config["r"], config["protected"], **mistakes)
            good &= bool((assignment == want["assignment"][i]).all())
            size = given["size"][i] if "size" in given else np.ones(n, np.float32)
            for slot in range(want["tokens"].shape[1]):
                members = assignment == slot
                weight = size[members] if size[members].any() else np.ones(members.sum(), np.float32)
                token = weight @ given["x"][i][members] / max(weight.sum(), np.float32(1e-30))
                good &= bool((np.abs(token - want["tokens"][i, slot]) <= tolerance["tokens"]).all())
                good &= bool(np.abs(size[members].sum() - want["size"][i, slot]) <= tolerance["size"])
        said.append(case["id"] if good else f"!{case['id']}")
    return said


def test_a_reader_without_tokenmerge_agrees() -> None:
    said = read_like_the_page(DATA)
    assert len(said) > 20
    assert [name for name in said if name.startswith("!")] == []


@pytest.mark.parametrize(
    ("mistake", "caught"), [("cosine", "tome-2-length-is-nothing"), ("first_of_ties", "tome-5-tied-partners")]
)
def test_a_reader_that_is_wrong_is_caught(mistake: str, caught: str) -> None:
    assert f"!{caught}" in read_like_the_page(DATA, **{mistake: False})


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_program_of_the_page_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"```cpp\n(.*?)```", PAGE.read_text(), re.DOTALL)
    tolerance = CASES["tome-5-tied-partners"]["expected"]["tokens"]["tolerance"][1]
    assert f"tolerance = {tolerance};" in program
    (tmp_path / "vectors.cpp").write_text(program)
    subprocess.run(["g++", "-std=c++17", "-Wall", "-o", "vectors", "vectors.cpp"], cwd=tmp_path, check=True)
    run = subprocess.run([tmp_path / "vectors", DATA], capture_output=True, text=True, check=True)
    assert run.stdout == "tome-5-tied-partners: ok\n"


def run_the_example(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "patch_merger.cpp").write_text(source)
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{EXAMPLES}", "-o", "test", "patch_merger.cpp"]
    subprocess.run(command, cwd=folder, check=True)
    return subprocess.run([folder / "test", DATA], capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_example_in_cpp_agrees_with_every_case(tmp_path: Path) -> None:
    cases = [case for case in CASES.values() if case["function"] == "patch_merger" and "float32" in case["dtypes"]]
    said = f"{len(cases)} of {len(cases)} cases agree"
    run = run_the_example(tmp_path, (EXAMPLES / "patch_merger.cpp").read_text())
    assert (run.returncode, run.stdout) == (0, f"{said}\n") and f"# {said}" in PAGE.read_text()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_example_in_cpp_finds_mistakes(tmp_path: Path) -> None:
    source = (EXAMPLES / "patch_merger.cpp").read_text()
    for right, wrong in (("variance + eps", "variance + 0 * eps"), ("real[n] ? std::exp(", "true ? std::exp(")):
        assert source.count(right) == 1
        source = source.replace(right, wrong)
    run = run_the_example(tmp_path, source)
    assert run.returncode == 1
    assert all(f"{words} differs" in run.stdout for words in ("pm-1-eps: weights", "pm-4-nothing-real: weights"))


def test_the_reader_in_cpp_knows_every_escape() -> None:
    """It takes a quote and a backslash after a backslash, and no other letter (`golden.hpp`)."""
    assert set(re.findall(r"\\(.)", (DATA / "index.json").read_text())) <= {'"', "\\"}


# Our backends


def problems(backend: str, dtype: str, one_per_rule: bool = False) -> list[str]:
    """What a backend makes wrong, one sentence each."""
    (cases, tensors), module, found, seen = read(), get_backend(backend), list[str](), set[str]()
    for case in cases:
        new = set(case["rules"]) - seen
        seen |= new
        if dtype in case["dtypes"] and (new or not one_per_rule):
            found += differences(case, tensors, replay(case, tensors, module, dtype), dtype)
    return found


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numpy(dtype: str) -> None:
    assert problems("numpy", dtype) == []


@pytest.mark.skipif(find_spec("torch") is None, reason="no torch")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch(dtype: str) -> None:
    assert problems("torch", dtype) == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("flax") is None, reason="no jax")
def test_jax() -> None:
    assert problems("jax", "float32", one_per_rule=True) == []  # it compiles every shape: some have to do


def test_a_difference_is_told() -> None:
    cases, tensors = read()
    case = next(case for case in cases if case["id"] == "tome-sizes")
    got = replay(case, tensors, get_backend("numpy"), "float32")
    assert differences(case, tensors, got, "float32") == []
    got["assignment"] = got["assignment"] + 1
    got["tokens"] = got["tokens"] * (1 + 1e-4)
    got["size"] = got["size"][:, 1:]
    told = differences(case, tensors, got, "float32")
    assert [sentence.split("`")[1] for sentence in told] == ["assignment", "tokens", "size"]
