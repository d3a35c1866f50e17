"""Parameters of mergers that somebody around the model will not average, train or save."""

from __future__ import annotations

from typing import Any

from torch import nn

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.patching.families import Network
from tokenmerge.backends.torch.patching.hook import Patch
from tokenmerge.backends.torch.patching.method import Method

AVERAGED = ("torch.nn.parallel.distributed", "torch.distributed.fsdp", "torch.distributed._composable")


def check_training(model: nn.Module, network: Network, method: Method) -> bool:
    """Warn of parameters that come too late for the wrappers that a model has already; whether there was any."""
    if not method.modules():
        return False
    for module in model.modules():
        text = matter(method.NAME, module, [])
        if text:
            observers.warn(f"patch: {text}")
            return True
    return False


def look_at_wrappers(patch: Patch, network: nn.Module) -> None:
    """Warn, once, of the same at the time of a call: of wrappers around a model that was patched inside of them."""
    if "training" in patch.said:
        return
    learned = [module for name, module in network.named_modules() if name.endswith(".merger")]
    for module in observers.callers():
        if module in patch.looked_at:
            continue
        patch.looked_at.add(module)
        text = matter(patch.method.NAME, module, learned)
        if text:
            patch.say(text, about="training")


def matter(name: str, module: Any, learned: list[nn.Module]) -> str:
    """What a wrapper will not do with the parameters of a merger; "" if there is nothing to say.

    Args:
        learned: the mergers; a wrapper that was made after them knows them. [] if it was made before.
    """
    kind = f"{type(module).__module__}.{type(module).__name__}"
    if kind.startswith(AVERAGED):
        known = observers.in_step(module) if learned else set()
        if learned and all(_all_in(each, known) for each in learned):
            return ""
        return (
            f"the parameters of {name!r} will not be averaged between processes, because {type(module).__name__} was "
            "made before: patch what is inside, and wrap that"
        )
    if kind.startswith("peft.") and hasattr(module, "peft_config"):
        trains = any(value.requires_grad for each in learned for value in each.parameters())
        frozen = "are frozen and " if learned and not trains else ""
        return (
            f"the parameters of {name!r} {frozen}will not be saved by `save_pretrained` of {type(module).__name__}, "
            "which saves adapters only: save `state_dict()` of the mergers as well"
        )
    return ""


def _all_in(merger: nn.Module, known: set[int]) -> bool:
    """Whether all parameters of a merger are among those, or the parts that have them."""
    parts = [part for part in merger.modules() if part._parameters]
    return all(id(part) in known or all(id(value) in known for value in part.parameters(False)) for part in parts)
