"""Working precision: float32 for half precision, the input's own otherwise; and operations that keep to it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.autograd import forward_ad

Tensor = torch.Tensor


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The precision in which decisions about these tensors are made."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor.dtype != dtype:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` in the precision of the operands, whatever the user allows elsewhere.

    Autocast would round the operands to half precision, and `torch.set_float32_matmul_precision` lets a device round
    them to TF32 or bfloat16. Networks can bear that; a decision can flip, and a merged token would no longer be the
    mean of its group. There the product goes through float64, which no setting lowers.
    """
    dtype = a.dtype if a.dtype == b.dtype else torch.promote_types(a.dtype, b.dtype)
    if not _may_autocast(a):
        return _product(a, b, dtype)
    with without_autocast(a):
        return _product(a, b, dtype)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float32 and a.device.type != "mps" and _float32_is_lowered():  # mps: no float64, no TF32
        return (a.double() @ b.double()).to(dtype)
    a, b = a if a.dtype == dtype else a.to(dtype), b if b.dtype == dtype else b.to(dtype)
    batched = a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0]
    return torch.bmm(a, b) if batched else a @ b  # which comes to the same slowly


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """A context in which operations on the tensor's device keep the dtype of their operands."""
    if not _may_autocast(tensor):
        return nullcontext()
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _may_autocast(tensor: Tensor) -> bool:
    if tensor.is_meta:  # shapes without data; autocast does not know this device
        return False
    # a graph may run later where autocast is on
    return torch.compiler.is_compiling() or torch.is_autocast_enabled(tensor.device.type)


def _float32_is_lowered() -> bool:
    """Whether a float32 product may be made of less than float32."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # set for single backends (`torch.backends.*.fp32_precision`), and this question has no answer
        return True


# What `torch.compiler.assume_constant_result` does, which would import the compiler for everyone, a second of work.
# The compiler cannot trace the question; it compiles again by itself when the general or the CUDA setting changes.
_float32_is_lowered._dynamo_marked_constant = True  # type: ignore[attr-defined]


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """`numerator / denominator` of finite numbers, and 0 with gradient 0 where the denominator is 0."""
    return numerator / torch.where(denominator == 0, torch.inf, denominator)


def safe_log(values: Tensor) -> Tensor:
    """`log values`, and -inf with gradient 0 where a value is 0."""
    if exporting() or not is_recorded(values):  # nobody asks for a gradient
        return torch.log(values)
    zero = values == 0
    return torch.where(zero, -torch.inf, torch.log(torch.where(zero, 1, values)))


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last axis; a row that is all -inf, or empty, becomes zero with gradient 0."""
    nothing = (logits == -torch.inf).all(dim=-1, keepdim=True)
    return torch.softmax(logits.masked_fill(nothing, 0), dim=-1).masked_fill(nothing, 0)


def is_recorded(*tensors: Tensor) -> bool:
    """Whether a gradient, a transform such as `torch.vmap`, or a compiler asks what is done to the tensors."""
    if _is_watched():
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _is_watched() -> bool:
    """Whether a compiler or a transform asks what is done to any tensor."""
    return (
        torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )


def exporting() -> bool:
    """Whether `torch.export` looks at this, for a runtime that may not be PyTorch."""
    return torch.compiler.is_compiling() and torch.compiler.is_exporting()


def looks(tensor: Tensor) -> bool:
    """Whether a number of the tensor can be looked at without waiting, as in `reads_at_once`, gradient or not."""
    return (
        isinstance(tensor, Tensor)
        and tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
        and type(tensor) in (Tensor, torch.nn.Parameter)
    )


def reads_at_once(tensor: Tensor) -> bool:
    """Whether a number of the tensor can be looked at: it is on the CPU, so nothing waits, and nobody records.

    What such a look decides is how something is computed; whoever looks has to see to it that the same comes out, to
    the last bit, as without.
    """
    return (
        type(tensor) is Tensor
        and not _is_watched()
        and tensor.is_cpu
        and not (tensor.requires_grad and torch.is_grad_enabled())
        and torch._C._len_torch_dispatch_stack() == 0
    )
