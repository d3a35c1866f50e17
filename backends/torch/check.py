"""The checker of this backend: what tensors can be beside plain, and when their entries can be looked at."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from tokenmerge.backends.torch.precision import reads_at_once
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.calls import Calls

Tensor = torch.Tensor


_PLAIN = frozenset((Tensor, torch.nn.Parameter))
# no quantized dtype is among them
_KINDS = {kind: frozenset(getattr(torch, name) for name in names) for kind, names in arguments.KINDS.items()}


@lru_cache(128)
def _axes(letters: str) -> tuple[str, ...]:
    return tuple(letters.split())


def _plain(array: Any, rank: int) -> bool:
    """Whether nothing is wrong with a tensor of real numbers; a compiler takes the long way, once."""
    return (
        type(array) in _PLAIN
        and array.dtype in _KINDS["floating point"]
        and array.layout is torch.strided
        and array.ndim == rank
        and not (array.is_nested or torch.compiler.is_compiling())
    )


def _is_of(x: Tensor, array: Any, letters: str) -> bool:
    """Whether an array has one vector for each token."""
    return letters == "N D" and _plain(array, 3) and array.shape[:2] == x.shape[:2] and array.device == x.device


def _is_row(array: Any, length: int, device: torch.device) -> bool:
    """Whether an array has one number for each channel."""
    return _plain(array, 1) and array.shape[0] == length and array.device == device


class TensorCalls(Calls):
    """Checks of tensors; a compiler traces them, and none waits for a device."""

    source = (torch.Generator, type(None))
    scalar = ()

    def array(
        self, owner: str, name: str, array: Any, letters: str, kind: str = "floating point", /, **sizes: int
    ) -> tuple[int, ...]:
        """As for any backend; what is plainly right is seen sooner."""
        # a compiler knows no cache, and checks once
        if type(array) in _PLAIN and not (array.is_nested or torch.compiler.is_compiling()):
            axes, shape = _axes(letters), tuple(array.shape)
            if array.dtype in _KINDS[kind] and array.layout is torch.strided and len(axes) == len(shape):
                for axis, got in zip(axes, shape, strict=True):
                    if axis in sizes and sizes[axis] != got:
                        break
                else:
                    return shape
        return super().array(owner, name, array, letters, kind, **sizes)

    def tokens(self, owner: str, x: Any, size: Any, other: Any = None, **sizes: int) -> None:
        """As for any backend; what is plainly right is seen sooner."""
        if _plain(x, 3) and x.shape[2] == sizes.get("C", x.shape[2]):
            samples = x.shape[:2]
            sized = size is None or (_plain(size, 2) and size.shape == samples and size.device == x.device)
            if sized and (other is None or other[1] is None or _is_of(x, *other[1:])):
                return
        super().tokens(owner, x, size, other, **sizes)

    def tome(self, metric: Any, mask: Any, permutation: Any, matching: str, protected: int) -> tuple[int, ...]:
        """As for any backend; what is plainly right is seen sooner."""
        if mask is None and permutation is None and matching != "random" and _plain(metric, 3):
            n, d = metric.shape[1:]
            if protected <= n:
                return n, d
        return super().tome(metric, mask, permutation, matching, protected)

    def patch_merger(self, x: Any, queries: Any, scale: Any, bias: Any, mask: Any) -> tuple[int, ...]:
        """As for any backend; what is plainly right is seen sooner."""
        if mask is None and _plain(x, 3) and _plain(queries, 2) and queries.device == x.device:
            n, c = x.shape[1:]
            if queries.shape[1] == c and all(each is None or _is_row(each, c, x.device) for each in (scale, bias)):
                return n, c
        return super().patch_merger(x, queries, scale, bias, mask)

    def ltm(
        self, x: Any, weight: Any, prior: Any, mask: Any, compression_ratio: float, protected: int
    ) -> tuple[int, ...]:
        """As for any backend; what is plainly right is seen sooner."""
        if mask is None and prior is None and _plain(x, 3):
            n, c = x.shape[1:]
            if protected <= n and _is_row(weight, c, x.device):
                return n, c
        return super().ltm(x, weight, prior, mask, compression_ratio, protected)

    def odd(self, array: Any) -> str:
        if array.is_nested:
            return "a nested tensor"
        if array.layout is not torch.strided:
            return f"a tensor of layout {array.layout}"
        return "a quantized tensor" if array.is_quantized else ""

    def to_numpy(self, array: Any) -> None:
        super().to_numpy(array)
        if array.device.type == "meta":
            raise TypeError("to_numpy: `array` must have numbers, got a tensor on the device meta")

    def together(self, owner: str, **arrays: Any) -> None:
        first, device = "", None
        for name, array in arrays.items():
            if array is None:
                continue
            if device is None:
                first, device = name, array.device
            elif array.device != device:
                raise ValueError(
                    f"{owner}: `{name}` must be on the device of `{first}`, which is {device}, got {array.device}"
                )

    def readable(self, array: Any) -> np.ndarray[Any, Any] | None:
        return array.long().numpy() if reads_at_once(array) else None  # NumPy has fewer unsigned gaps than PyTorch

    def largest(self, array: Any) -> int:
        return max(int(array.long().max()), -1) if array.numel() else -1


check = TensorCalls(torch.Tensor)
