"""The Triton kernels: under Triton's interpreter on the CPU, and on a GPU where there is one.

Whether Triton interprets is decided when it is imported, so everything runs in processes of its own: the cases of
`triton_cases.py`, and the conformance suite on the backend, which uses the kernels wherever they run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="needs triton, which has no wheel for this system"
)
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
ONE_RUN = "from tokenmerge.cli import main; main()"  # what the script `tokenmerge` does, installed or not
EVERY_DTYPE = ("float16", "bfloat16", "float32", "float64")


def python(*arguments: str, interpret: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python where our helpers can be imported, with or without the interpreter."""
    path = os.pathsep.join([str(HERE), *(entry or os.getcwd() for entry in sys.path)])
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": path, "COLUMNS": "120", "OMP_NUM_THREADS": "1"} | variables
    environment |= {"TRITON_INTERPRET": "1"} if interpret else {}
    run = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=HERE.parent)
    assert run.returncode == 0, run.stdout + run.stderr
    return run


def cases(file: str, share: str = "0/1", **how: str | bool) -> str:
    options = ("-q", "-p", "triton_shares", "-p", "no:cacheprovider", "-p", "no:xdist")
    options += ("-p", "triton_quickly") if how.get("interpret", True) else ()
    options += ("--override-ini", "addopts=--import-mode=importlib", str(HERE / file))
    return python("-m", "pytest", *options, TRITON_CASES_SHARE=share, **how).stdout  # type: ignore[arg-type]


def shares(**files: int) -> pytest.MarkDecorator:
    """Every file in as many processes, which workers can run side by side."""
    each = [(f"triton_{name}.py", f"{share}/{count}") for name, count in files.items() for share in range(count)]
    return pytest.mark.parametrize(("file", "share"), each)


def conformance(*dtypes: str, device: str, interpret: bool) -> str:
    options = ("--merger", "tome", "--level", "quick", "--device", device, "--dtype", ",".join(dtypes))
    options += ("--skips", str(HERE / "triton_skips.txt")) if interpret else ()
    one_run = "import triton_quickly; " * interpret + ONE_RUN
    return python("-c", one_run, "conformance", "--backend", "torch", *options, interpret=interpret).stdout


@needs_triton
@shares(cases=3, attention_cases=2)
def test_cases_under_the_interpreter(file: str, share: str) -> None:
    assert " passed" in cases(file, share)


@needs_triton
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_the_suite_under_the_interpreter(dtype: str) -> None:
    # float32 and float16 differ from these two by nothing that a kernel sees; a GPU gets all four
    assert "are green" in conformance(dtype, device="cpu", interpret=True)


@pytest.mark.gpu
@pytest.mark.parametrize("file", ["triton_cases.py", "triton_attention_cases.py"])
def test_cases_on_a_gpu(file: str) -> None:
    assert " passed" in cases(file, interpret=False, TRITON_CASES_DEVICE="cuda")


@pytest.mark.gpu
def test_the_suite_on_a_gpu() -> None:
    assert "are green" in conformance(*EVERY_DTYPE, device="cuda", interpret=False)


# What the interpreter does not show: that they are programs for a GPU

COMPILE = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tokenmerge.backends.torch.kernels.device import matching, merging, placement, selection
from tokenmerge.backends.torch.kernels.matching import TILES

def compiled(kernel, types, **constants):
    types = [types.split()[i] for i in range(len(types.split()))]
    names = [name for name in kernel.arg_names if name not in constants]
    assert len(names) == len(types), (names, types)
    signature = dict(zip(names, types)) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, constants)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]

"""

COMPILE_MATCHING = """
for bytes_, entry, work, name, precision in [
    (2, tl.bfloat16, tl.float32, "bf16", "ieee"), (4, tl.float32, tl.float32, "fp32", "tf32x3")
]:
    a, b, d, warps = TILES[bytes_]
    tiles = dict(BLOCK_A=a, BLOCK_B=b, BLOCK_D=d, stride_ad=1, stride_bd=1, PRECISION=precision, RESCALED=True)
    pointers = f"*{name} *{name}" + " *fp32" * 2 + " *i64" * 3 + " *fp32 *i64"
    for shared in (False, True):
        kind = dict(WORK=work, OPERAND=entry, SHARED=shared, NARROW=shared)
        program = compiled(matching.match, pointers + " i32" * 13, **kind, **tiles)
        # by the matrix unit: bfloat16 exactly; float32 as three products of TF32, never as one
        assert program.count("wgmma.mma_async") % 3 == 0 if name == "fp32" else "wgmma" in program
        assert ("tf32" in program) == (name == "fp32")
    found = dict.fromkeys(("inverse_a_ptr", "inverse_b_ptr"))
    pointers, kind = f"*{name} *{name}" + " *i64" * 3 + " *fp32 *i64", kind | dict(SHARED=False)
    program = compiled(matching.match, pointers + " i32" * 13, **found, **kind, **tiles)
    assert "wgmma" in program

compiled(matching.first_best, "*fp32 *i64 *fp32 *i64 *fp32 *i64" + " i32" * 4, WORK=tl.float32, BLOCK=128)
compiled(
    matching.directions, "*bf16 *bf16 *fp32" + " i32" * 5, WORK=tl.float32, RESCALED=True, BLOCK_N=32, BLOCK_D=64
)
compiled(selection.place, "*fp32 *i64 i32", BLOCK=32, OTHERS=128)
compiled(placement.slots, "*i64 *i64 *i64 *i64" + " i32" * 4, ORDER="grouped", BLOCK=32, OTHERS=256)
compiled(placement.arrange, "*fp32 *i64 *i64 *i64" + " i32" * 4, BLOCK=512)
compiled(placement.arrange, "*fp64 *i64 *i64 *i64" + " i32" * 4, BLOCK=8192)
compiled(merging.group, "*i64" + " *i32" * 4 + " i32 i32", BLOCK=1024)
compiled(merging.bounds, "*i64 *i32 *i32 i32 i32", BLOCK=256)
nothing, found = dict.fromkeys(("added_ptr", "weight_ptr", "bias_ptr")), dict.fromkeys(("first_ptr", "end_ptr"))
for given in (nothing, found):
    pointers = "*bf16" + (" *fp32 *i32 *i32 *i32" if given is nothing else " *bf16 *fp32 *i64 *bf16 *bf16")
    constants = given | dict(WORK=tl.float32, BLOCK_C=1024, BLOCK_N=256)
    program = compiled(merging.merge, pointers + " *bf16 *bf16 *fp32 *i32 i32 i32 i32 fp32" + " i32" * 6, **constants)
    assert "div.rn.f32" in program and "atom" not in program
"""

COMPILE_ATTENTION = """
import torch

from tokenmerge.backends.torch.kernels.attention import FORWARD, OF_KEYS, OF_QUERIES
from tokenmerge.backends.torch.kernels.device import attention

def built(kernel, tile, pointers, others, **constants):
    tile = dict(BLOCK_M=tile.queries, BLOCK_N=tile.keys, BLOCK_D=64, D=64, OPERAND=tl.bfloat16)
    innermost = {name: 1 for name in kernel.arg_names if name.startswith("stride_") and name.endswith("d")}
    strides = " i32" * (3 * len(innermost))
    program = compiled(kernel, pointers + " i32 i32 i32" + others + strides, **tile, **innermost, **constants)
    assert "wgmma" in program and "ex2.approx.ftz" in program and "tf32" not in program and "atom" not in program

inputs = "*bf16 *bf16 *bf16 *fp32 *i1"
built(attention.attention, FORWARD[2, 64], inputs + " *bf16 *fp32", " fp32", RAISED=1.0, STAGES=3)
built(attention.of_queries, OF_QUERIES[2, 64], inputs + " *bf16 *fp32 *bf16 *fp32 *bf16", " fp32 fp32")
built(attention.of_keys, OF_KEYS[2, 64], inputs + " *fp32 *bf16 *fp32 *bf16 *bf16", " fp32 fp32")
"""


@needs_triton
@pytest.mark.parametrize("kernels", [COMPILE_MATCHING, COMPILE_ATTENTION], ids=["matching and merging", "attention"])
def test_they_compile_for_a_gpu_that_is_not_here(kernels: str, tmp_path: Path) -> None:
    python("-c", COMPILE + kernels, interpret=False, TRITON_CACHE_DIR=str(tmp_path))


# Where they are not


@needs_torch
@pytest.mark.parametrize("missing", [True, False])
def test_the_backend_imports_and_runs_without_triton(missing: bool) -> None:
    program = f"""
import sys
if {missing}:
    sys.modules["triton"] = None
import torch
import tokenmerge.backends.torch as backend
from tokenmerge.backends.torch import kernels
assert {missing} or "triton" not in sys.modules
x = torch.randn(1, 9, 4)
assert not kernels.usable(x)
assert backend.ToMe(r=2)(x).tokens.shape == (1, 7, 4)
if {missing}:
    assert kernels.available() is None
"""
    python("-c", program, interpret=missing)


@needs_triton
def test_usable_knows_what_they_run_on() -> None:
    program = """
import torch
import triton
from tokenmerge.backends.torch import kernels
assert kernels.available() == f"triton {triton.__version__}"
assert kernels.usable(torch.ones(2)) and kernels.usable(torch.ones(2).bfloat16())
assert not kernels.usable(torch.ones(2, device="meta")) and not kernels.usable(torch.ones(2, dtype=torch.int64))
asked = []
class Asks(torch.nn.Module):
    def forward(self, x):
        return x + 1 if kernels.usable(x) else x - 1
assert torch.export.export(Asks(), (torch.ones(2),)).module()(torch.ones(2)).tolist() == [0, 0]
assert torch.compile(Asks(), fullgraph=True, backend="eager")(torch.ones(2)).tolist() == [2, 2]
"""
    python("-c", program)
