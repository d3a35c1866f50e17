"""What turns a function that launches kernels into an operator of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

Tensor = torch.Tensor


def operator(launch: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """`torch.ops.tokenmerge.<name>`: opaque to compilers, which learn the shapes of its results from `fake`.

    Where nobody looks, the kernels are launched at once: the way through PyTorch's dispatcher takes longer than a
    small kernel.

    Every tensor argument and every result has the batch as its first axis, so that `torch.vmap` only makes that longer.

    Args:
        launch: allocates the results and runs the kernels; named like the operator.
        fake: the same arguments; empty results.
    """

    def launched(*arguments: Any) -> Any:
        with _device_of(arguments[0]):
            return launch(*arguments)

    def called(*arguments: Any) -> Any:
        return launched(*arguments) if _unobserved(arguments[0]) else made(*arguments)

    schema = torch.library.infer_schema(launch, mutates_args=())
    made = torch.library.custom_op(f"tokenmerge::{launch.__name__}", launched, mutates_args=(), schema=schema)
    made.register_fake(fake)

    def mapped(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        def joined(argument: Any, axis: int | None) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            if axis is None:
                return argument.expand(info.batch_size, *argument.shape).flatten(0, 1)
            return argument.movedim(axis, 0).flatten(0, 1)

        results = made(*map(joined, arguments, in_dims))
        several = results if isinstance(results, tuple) else (results,)
        split = tuple(result.unflatten(0, (info.batch_size, len(result) // info.batch_size)) for result in several)
        return (split, (0,) * len(split)) if isinstance(results, tuple) else (split[0], 0)

    made.register_vmap(mapped)
    return called


def _unobserved(tensor: Tensor) -> bool:
    """Whether this is a call with numbers: no compiler, no `torch.func`, no mode, no tensor of a special kind."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def _device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Kernels are launched on the current GPU, wherever their pointers point."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(tensor.device)
