"""ExecuTorch with XNNPACK, for phones; what XNNPACK does not know runs by ExecuTorch's own kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokenmerge.deploy.formats import Array, Run
from tokenmerge.deploy.formats.torch_export import program_of


def write(model: torch.nn.Module, example: torch.Tensor, out: Path, **_: Any) -> int:
    """For exactly as many images as there are in `example`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = program_of(model, example, any_batch=False)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    out.write_bytes(lowered.buffer)
    return sum(node.op == "call_function" for node in lowered.exported_program().graph.nodes)


def load(file: Path, threads: int | None = None) -> Run:
    """In the runtime's own threads."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(str(file))
    method = program.load_method("forward")

    def run(images: Array) -> list[Array]:
        return [each.numpy().copy() for each in method.execute([torch.from_numpy(images)])]

    return run
