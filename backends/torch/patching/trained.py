"""Parameters of mergers that somebody around the model will not average, train or save."""

from __future__ import annotations

from typing import Any

from torch import nn

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.patching.families import Network
from tokenmerge.backends.torch.patching.hook import Patch
from tokenmerge.backends.torch.patching.method import Method

AVERAGED = ("torch.nn.parallel.distributed", "torch.distributed.fsdp")


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
    learned = [value for name, value in network.named_parameters() if ".merger." in name]
    for module in observers.callers():
        text = matter(patch.method.NAME, module, learned)
        if text:
            patch.say(text, about="training")


def matter(name: str, module: Any, learned: list[nn.Parameter]) -> str:
    """What a wrapper will not do with the parameters of a merger; "" if there is nothing to say.

    Args:
        learned: those parameters; a wrapper that was made after them knows them. [] if it was made before.
    """
    kind = f"{type(module).__module__}.{type(module).__name__}"
    if kind.startswith(AVERAGED):
        known = {id(value) for value in getattr(module, "_module_parameters", [])}
        if learned and all(id(value) in known for value in learned):
            return ""
        return (
            f"the parameters of {name!r} will not be averaged between processes, because {type(module).__name__} was "
            "made before: patch what is inside, and wrap that"
        )
    if kind.startswith("peft.") and hasattr(module, "peft_config"):
        frozen = " and are frozen" if learned and not any(value.requires_grad for value in learned) else ""
        return (
            f"the parameters of {name!r}{frozen} will not be saved by `save_pretrained` of {type(module).__name__}, "
            "which saves adapters only: save `state_dict()` of the mergers as well"
        )
    return ""
