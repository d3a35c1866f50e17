"""The PyTorch backend: the semantics of `tokenmerge.spec` as `torch.nn.Module`s."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from tokenmerge.backends.torch import (
    ats,
    attention,
    information_bottleneck,
    kernels,
    ltm,
    patch_merger,
    plan,
    pooling,
    tome,
)
from tokenmerge.backends.torch.ats import ATS
from tokenmerge.backends.torch.bottleneck_tracker import BottleneckTracker
from tokenmerge.backends.torch.check import check
from tokenmerge.backends.torch.ltm import LTM
from tokenmerge.backends.torch.merger import as_numpy
from tokenmerge.backends.torch.mergers import MERGERS
from tokenmerge.backends.torch.patch_merger import PatchMerger
from tokenmerge.backends.torch.patching import patch
from tokenmerge.backends.torch.plan import DensePlan, PartitionPlan, SelectionPlan, compose
from tokenmerge.backends.torch.stream import ViTOutput
from tokenmerge.backends.torch.tome import ToMe
from tokenmerge.backends.torch.vit import ViT
from tokenmerge.spec.shared.arguments import check_source_array

NAME = "torch"
VERSION = str(torch.__version__)
CHANNELS_FIRST = True  # of the images that `ViT` takes
DTYPES = ("float16", "bfloat16", "float32", "float64")
SLOW = kernels.interpreted()  # where Triton's interpreter runs the kernels, statement by statement


def devices() -> tuple[str, ...]:
    """Where tensors of this backend can live."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return ("cpu", *(name for name in present if present[name]))


def kernels_in_use() -> str | None:
    """Who runs kernels of ours and where, such as "triton 3.6.0 on cuda"; None where PyTorch's operations do it all."""
    return kernels.in_use()


def from_numpy(array: np.ndarray[Any, Any], dtype: str | None = None, device: str | None = None) -> torch.Tensor:
    """A tensor of the same values and its own memory, in the dtype of the array or in one of `DTYPES`."""
    check_source_array(array, dtype, device, DTYPES, devices)
    tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    return tensor.to(device=device, dtype=None if dtype is None else getattr(torch, dtype))


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A NumPy array of the same values; bfloat16, which NumPy does not have, as float32."""
    check.to_numpy(tensor)
    return as_numpy(tensor)


def gradient(function: Callable[..., torch.Tensor], *arrays: torch.Tensor) -> list[torch.Tensor]:
    """The gradient of the scalar `function(*arrays)` with respect to each array; zeros where it does not depend on it.

    >>> gradient(lambda x, y: (x * x).sum(), torch.tensor([3.0]), torch.tensor([1.0]))
    [tensor([6.]), tensor([0.])]
    """
    leaves = [array.detach().clone().requires_grad_() for array in arrays]
    value = function(*leaves)
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True))


@contextmanager
def context(dtype: str) -> Iterator[None]:
    """Work in a dtype: what depends on no array, such as `plan.matrix()` without sizes, is as fine as that.

    >>> with context("float64"):
    ...     PartitionPlan(torch.tensor([[0, 0, 0]])).matrix().dtype
    torch.float64
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if dtype == "float64" else torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def run(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as people run it: without gradients."""
    return torch.inference_mode()(function)


def compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` through `torch.compile` as one graph."""
    return torch.compile(function, fullgraph=True)


def vmap(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` over one more leading axis of every argument."""
    return torch.vmap(function)


__all__ = [
    "ATS",
    "DTYPES",
    "LTM",
    "MERGERS",
    "NAME",
    "SLOW",
    "VERSION",
    "BottleneckTracker",
    "DensePlan",
    "PartitionPlan",
    "PatchMerger",
    "SelectionPlan",
    "ToMe",
    "ViT",
    "ViTOutput",
    "ats",
    "attention",
    "compile",
    "compose",
    "context",
    "devices",
    "from_numpy",
    "gradient",
    "information_bottleneck",
    "kernels_in_use",
    "ltm",
    "patch",
    "patch_merger",
    "plan",
    "pooling",
    "run",
    "to_numpy",
    "tome",
    "vmap",
]
