"""A plugin under which Triton's interpreter looks through its language once, not in every call inside of a kernel.

The interpreter replaces the functions of the language when a kernel starts, and again in every function that the kernel
calls, where it finds them replaced. Looking for them takes a third of the time of our kernels.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from triton.language.core import is_builtin
from triton.runtime import interpreter


@functools.cache
def _names(module: Any) -> tuple[str, ...]:
    return tuple(name for name, member in inspect.getmembers(module) if is_builtin(member))


def _patch_builtin(module: Any, builder: Any, scope: Any) -> None:
    names = _names(module)  # asked for first when none is replaced
    if names and is_builtin(getattr(module, names[0])):
        for name in names:
            interpreter._patch_attr(module, name, getattr(module, name), builder, scope)


interpreter._patch_builtin = _patch_builtin
