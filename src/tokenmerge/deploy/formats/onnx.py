"""ONNX, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokenmerge.deploy.formats import Array, Run


def write(
    model: torch.nn.Module, example: torch.Tensor, out: Path, *, any_batch: bool, opset: int | None, int8: bool
) -> int:
    """By PyTorch's exporter as it is."""
    axes = ({0: torch.export.Dim("batch")},) if any_batch else None
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        dynamic_shapes=axes,
        opset_version=opset,
        input_names=["images"],
        output_names=list(getattr(model, "outputs", ("logits",))),
        verbose=False,
    )
    assert program is not None
    if not int8:
        program.save(out)
        return len(program.model_proto.graph.node)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = out.with_suffix(".whole.onnx")
    try:
        program.save(whole)
        quantize_dynamic(whole, out, weight_type=QuantType.QInt8)
    finally:
        whole.unlink(missing_ok=True)
    return count_nodes(out)


def count_nodes(file: Path) -> int:
    """Nodes in the graph of a file."""
    import onnx

    return len(onnx.load(file).graph.node)


def load(file: Path, threads: int | None = None) -> Run:
    """On the CPU."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if threads is not None:
        settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), settings, ["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(images: Array) -> list[Any]:
        return list(session.run(None, {given.name: images}))

    return run
