"""The PyTorch mergers exported to ONNX and run by ONNX Runtime: a backend like any other, so the suite can check it.

PYTHONPATH=docs tokenmerge conformance --backend examples.onnx_backend --merger patch_merger --level quick

A model is exported for every merger, its options and the shapes of its inputs but the batch, which takes seconds, and
kept. What comes out of it, tokens, sizes and the arrays of the plan, is put into the plans of the NumPy backend.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch.func import functional_call

from tokenmerge.backends import numpy as numpy_backend
from tokenmerge.backends import torch as torch_backend
from tokenmerge.spec.shared.merged import Merged

Array = np.ndarray[Any, Any]
Shapes = tuple[tuple[str, tuple[int | None, ...], str], ...]  # name, shape (None for the batch), dtype of every input

NAME = "onnx"
VERSION = onnxruntime.__version__
DTYPES = ("float32",)
COMPILES = True
devices, from_numpy, to_numpy = numpy_backend.devices, numpy_backend.from_numpy, numpy_backend.to_numpy
compose = numpy_backend.compose


class Graph(torch.nn.Module):
    """A merger as a function of tensors: its parameters are inputs, and the plan comes out as the tensors in it."""

    def __init__(self, merger: Any, names: list[str]) -> None:
        super().__init__()
        self.merger, self.names = merger, names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs = dict(zip(self.names, tensors, strict=True))
        params = {name: inputs.pop(name) for name in self.merger.PARAMETERS if name in inputs}
        return tensors_of(functional_call(self.merger, params, (), inputs))


def tensors_of(merged: Any) -> tuple[torch.Tensor, ...]:
    """Tokens, sizes, the tensor that encodes the plan, and its mask where it has one."""
    fields = (getattr(merged.plan, name, None) for name in ("assignment", "indices", "weights", "mask"))
    return merged.tokens, merged.size, *(field for field in fields if field is not None)


@cache
def model(merger: str, options: tuple[tuple[str, Any], ...], shapes: Shapes) -> bytes:
    """A merger as an ONNX model, for inputs of these names, shapes and dtypes and any number of samples.

    >>> from pathlib import Path
    >>> shapes = (("x", (None, 197, 64), "float32"), ("mask", (None, 197), "bool"))
    >>> Path("tome.onnx").write_bytes(model("tome", (("r", 16),), shapes))  # doctest: +SKIP
    """
    names, batch = [name for name, _, _ in shapes], torch.export.Dim("batch")
    blank, axes = [], []
    for _, shape, dtype in shapes:
        blank.append(torch.zeros([2 if n is None else n for n in shape], dtype=getattr(torch, dtype)))
        axes.append({0: batch} if None in shape else None)
    program = torch.onnx.export(
        Graph(torch_backend.MERGERS[merger](**dict(options)), names).eval(),
        tuple(blank),
        input_names=names,
        dynamic_shapes=(tuple(axes),),
        dynamo=True,
        optimize=False,  # ONNX Runtime does that itself when it loads the model
        verbose=False,
    )
    assert program is not None
    return program.model_proto.SerializeToString()


@cache
def session(merger: str, options: tuple[tuple[str, Any], ...], shapes: Shapes) -> onnxruntime.InferenceSession:
    """The model, ready to run on the CPU; in one thread, because there will be many of them."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(model(merger, options, shapes), settings, ["CPUExecutionProvider"])


class Merger:
    """A merger of the PyTorch backend that computes nothing itself: it checks the arguments and has its model run."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name, self.options = name, tuple(sorted(options.items()))
        self.learned = torch_backend.MERGERS[name](**options)
        self.without_data = torch_backend.MERGERS[name](**options).to("meta")

    def params(self) -> dict[str, Array]:
        return self.learned.params()

    def load_params(self, params: Mapping[str, Array]) -> None:
        self.learned.load_params(params)

    def plan(self, *arrays: Any, **inputs: Any) -> Any:
        """The plan of a call with these arrays; ATS, which does not look at its tokens, gets the values of a head."""
        named = {name: _without_data(array) for name, array in inputs.items()}
        self.without_data.plan(*map(_without_data, arrays), **named)  # refuses what a plan refuses
        given = inspect.signature(self.without_data.plan).bind(*arrays, **inputs).arguments
        x = given["value"][:, 0] if self.name == "ats" else given.pop("x" if "x" in given else "metric")
        return self(x, **given).plan

    def __call__(self, x: Any, **inputs: Any) -> Merged:
        given = {"x": x, **{name: array for name, array in inputs.items() if array is not None}}
        expected = self.without_data(**{name: _without_data(array) for name, array in given.items()})
        if 0 in x.shape[:2]:  # most kernels of ONNX Runtime refuse empty arrays; what comes of nothing is zeros
            outputs = [torch.zeros_like(tensor, device="cpu").numpy() for tensor in tensors_of(expected)]
        else:
            arrays = self.params() | given
            run = session(self.name, self.options, tuple(self._shape(*each) for each in arrays.items()))
            outputs = run.run(None, {each.name: np.ascontiguousarray(arrays[each.name]) for each in run.get_inputs()})
        tokens, size, array, *masks = outputs
        mask = masks[0] if masks else None
        plan: numpy_backend.plan.Plan
        if isinstance(expected.plan, torch_backend.PartitionPlan):
            plan = numpy_backend.PartitionPlan(array, expected.plan.num_tokens_out, mask)
        elif isinstance(expected.plan, torch_backend.SelectionPlan):
            plan = numpy_backend.SelectionPlan(array, mask, expected.plan.num_tokens_in)
        else:
            plan = numpy_backend.DensePlan(array, mask)
        return Merged(tokens, size, mask, plan)

    def _shape(self, name: str, array: Array) -> tuple[str, tuple[int | None, ...], str]:
        shared = name in self.learned.PARAMETERS or (name == "prior" and array.ndim == 2)
        return name, array.shape if shared else (None, *array.shape[1:]), array.dtype.name


def _without_data(array: Any) -> Any:
    """A tensor of the array's shape and dtype; what is no array is left for the checks to refuse."""
    return torch.from_numpy(np.array(array)).to("meta") if isinstance(array, np.ndarray) else array


MERGERS = {name: partial(Merger, name) for name in torch_backend.MERGERS}
