"""Whether Triton is there, and whether it compiles or interprets."""

from __future__ import annotations

import os
from functools import cache

import torch

Tensor = torch.Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OLDEST = (8, 0)  # compute capability: products in bfloat16 and float64


@cache
def available() -> str | None:
    """The name and version of Triton, or None where it does not import.

    >>> available() is None or available().startswith("triton ")
    True
    """
    try:
        import triton
    except ImportError:
        return None
    return f"triton {triton.__version__}"


def usable(tensor: Tensor) -> bool:
    """Whether the kernels run on a tensor: it lives on a GPU, or Triton interprets (`TRITON_INTERPRET=1`).

    Args:
        tensor: floating point, any shape.

    Returns:
        bool, known to a compiler while it traces. False while a program is exported, which must run without us.

    >>> usable(torch.ones(2, device="meta"))
    False
    """
    if tensor.is_cuda:
        return tensor.dtype in DTYPES and not exporting() and _compiles(tensor.device.index or 0)
    return interpreted() and tensor.device.type == "cpu" and tensor.dtype in DTYPES and not exporting()


def in_use() -> str | None:
    """Where the backend uses the kernels: "triton 3.6.0 on cuda", "... on cpu, interpreted", or None for nowhere."""
    if interpreted():
        return f"{available()} on cpu, interpreted"
    return f"{available()} on cuda" if torch.cuda.is_available() and _compiles(torch.cuda.current_device()) else None


def interpreted() -> bool:
    """Whether kernels are run by Triton's interpreter, statement by statement in NumPy."""
    return _INTERPRETED


def exporting() -> bool:
    """Whether a program is made that must run without us."""
    return torch.compiler.is_exporting()


def _compiles(index: int) -> bool:
    return available() is not None and (
        torch.version.hip is not None or torch.cuda.get_device_capability(index) >= OLDEST
    )


# asked once, as Triton does: every call of a merger would look it up again
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y") and (
    available() is not None
)


def block(length: int, smallest: int, largest: int) -> int:
    """The power of two that covers a length, within two others.

    >>> block(50, 16, 128), block(1, 16, 128), block(10**6, 16, 128)
    (64, 16, 128)
    """
    return min(max(1 << max(length - 1, 0).bit_length(), smallest), largest)


def warps(length: int) -> int:
    """How many of them share a block of so many numbers, when one program has it all: 8 numbers for a thread.

    >>> warps(64), warps(512), warps(8192)
    (1, 2, 32)
    """
    return min(max(length // 256, 1), 32)


# The compiler need not look inside: no answer changes while a program runs (see `precision._float32_is_lowered`).
# PyTorch 2.11, asked by the compiler whether a program is exported, always says yes.
exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]
interpreted._dynamo_marked_constant = True  # type: ignore[attr-defined]
_compiles._dynamo_marked_constant = True  # type: ignore[attr-defined]
