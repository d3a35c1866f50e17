"""Parameters of mergers that somebody around the model will not average, train or save."""

from __future__ import annotations

from torch import nn

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.patching.families import Network
from tokenmerge.backends.torch.patching.method import Method

AVERAGED = ("torch.nn.parallel.distributed", "torch.distributed.fsdp")


def check_training(model: nn.Module, network: Network, method: Method) -> None:
    """Warn of parameters that come too late for the wrappers that a model has already."""
    if not method.modules():
        return
    for module in model.modules():
        kind = f"{type(module).__module__}.{type(module).__name__}"
        if kind.startswith(AVERAGED):
            observers.warn(
                f"patch: the parameters of {method.NAME!r} will not be averaged between processes, because "
                f"{type(module).__name__} was made before: patch what is inside, and wrap that"
            )
        elif kind.startswith("peft.") and hasattr(module, "peft_config"):
            observers.warn(
                f"patch: the parameters of {method.NAME!r} will not be saved by `save_pretrained` of "
                f"{type(module).__name__}, which saves adapters only: save `state_dict()` of the mergers as well"
            )
            return
