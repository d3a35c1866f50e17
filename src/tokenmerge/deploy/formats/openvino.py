"""OpenVINO, by way of ONNX."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from tokenmerge.deploy.formats import Array, Run, onnx


def write(model: torch.nn.Module, example: torch.Tensor, out: Path, **options: Any) -> int:
    """An `.xml` with its `.bin`, in the precision of the model."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "model.onnx"
        onnx.write(model, example, between, **options)
        converted = openvino.convert_model(between)
        openvino.save_model(converted, out, compress_to_fp16=False)
        return len(converted.get_ops())


def load(file: Path, threads: int | None = None) -> Run:
    """On the CPU, in the file's own precision: OpenVINO would choose bfloat16 where the processor has it."""
    import openvino

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(file, "CPU", settings)

    def run(images: Array) -> list[Array]:
        made = compiled(images)
        return [made[output].copy() for output in compiled.outputs]

    return run
