"""A program of `torch.export`, run by PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokenmerge.deploy.formats import Array, Run


def program_of(model: torch.nn.Module, example: torch.Tensor, any_batch: bool) -> torch.export.ExportedProgram:
    """The program, for any number of images or for as many as there are in `example`."""
    axes = ({0: torch.export.Dim("batch")},) if any_batch else None
    return torch.export.export(model, (example,), dynamic_shapes=axes)


def write(model: torch.nn.Module, example: torch.Tensor, out: Path, *, any_batch: bool, **_: Any) -> int:
    """As PyTorch saves it."""
    program = program_of(model, example, any_batch)
    torch.export.save(program, out)
    return sum(node.op == "call_function" for node in program.graph.nodes)


def load(file: Path, threads: int | None = None) -> Run:
    """Node by node, in this process's threads."""
    return caller(torch.export.load(file).module())


def caller(model: Any) -> Run:
    """A function of tensors as one of arrays."""

    def run(images: Array) -> list[Array]:
        with torch.inference_mode():
            made = model(torch.from_numpy(images))
        return [each.numpy() for each in (made if isinstance(made, tuple | list) else [made])]

    return run
