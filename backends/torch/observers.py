"""PyTorch's private questions, in one place: what is running, who called, and what is being compiled."""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Any

import torch
from torch import nn

INSIDE = ("torch", "timm", "transformers", "tokenmerge")  # packages that a warning does not point at


is_compiling = torch.compiler.is_compiling  # whether the compiler, or `torch.export`, is reading this


def in_backward() -> bool:
    """Whether this thread runs a backward pass, in which a checkpoint runs parts of a network again."""
    return not is_compiling() and torch._C._current_graph_task_id() != -1


def callers() -> list[nn.Module]:
    """The modules whose functions are being called, the innermost first; what a compiler has taken in, too.

    A `forward` is found by its first argument, so a module's other methods count as well.
    """
    found: dict[int, nn.Module] = {}
    for module in _compiled_callers():
        found.setdefault(id(module), module)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and code.co_varnames[0] == "self" and not code.co_filename.endswith("nn/modules/module.py"):
            caller = frame.f_locals.get("self")
            if isinstance(caller, nn.Module):
                found.setdefault(id(caller), caller)
        frame = frame.f_back
    return list(found.values())


def _compiled_callers() -> list[nn.Module]:
    """Modules in the frames that the compiler is inside of; it runs none of them, so Python's stack has them not."""
    if "torch._dynamo.symbolic_convert" not in sys.modules:
        return []
    try:
        translator: Any = sys.modules["torch._dynamo.symbolic_convert"].InstructionTranslator.current_tx()
    except (AttributeError, IndexError, RuntimeError):
        return []
    found = []
    while translator is not None:
        module = getattr(translator.symbolic_locals.get("self"), "value", None)
        if isinstance(module, nn.Module):
            found.append(module)
        translator = getattr(translator, "parent", None)
    return found


def in_step(wrapper: nn.Module) -> set[int]:
    """What a wrapper keeps the same in all processes, by `id`: parameters, or the modules that they are of."""
    found: set[int] = set()
    for module in wrapper.modules():
        state = _state_of(module)
        for of_ddp in (module, getattr(state, "_ddp", None)):
            found |= {id(value) for value in getattr(of_ddp, "_module_parameters", ())}
        flat: Any = getattr(getattr(module, "_handle", None), "flat_param", None)
        found |= {id(info.module) for info in getattr(flat, "_param_infos", ())}
        groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
        found |= {id(value._module_info.module) for group in groups if group for value in group.fsdp_params}
    return found


def _state_of(module: nn.Module) -> Any:
    """What `fully_shard` or `replicate` keeps of a module, whose class they change; None if there is nothing."""
    if "torch.distributed._composable_state" not in sys.modules:
        return None
    return sys.modules["torch.distributed._composable_state"]._get_module_state(module)


def warn(text: str) -> None:
    """A warning that points at the caller's line, the first outside of the libraries."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, UserWarning, stacklevel=level - 1)
