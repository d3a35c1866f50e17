"""AOTInductor: PyTorch's compiler, ahead of time, as a package with a library in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokenmerge.deploy.formats import Run
from tokenmerge.deploy.formats.torch_export import caller, program_of


def write(model: torch.nn.Module, example: torch.Tensor, out: Path, *, any_batch: bool, **_: Any) -> int:
    """For this machine's processor; needs a C++ compiler."""
    program = program_of(model, example, any_batch)
    torch._inductor.aoti_compile_and_package(program, package_path=str(out))
    return sum(node.op == "call_function" for node in program.graph.nodes)


def load(file: Path, threads: int | None = None) -> Run:
    """In this process's threads."""
    return caller(torch._inductor.aoti_load_package(str(file)))
