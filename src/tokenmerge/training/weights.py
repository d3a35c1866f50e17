"""The weights of a training, as every process holds them: whole (DDP) or in parts (FSDP2); and their average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tokenmerge.training.ranks import Ranks
from tokenmerge.training.request import Request


class Weights:
    """A model, how it is called in training, and the average of its weights.

    Attributes:
        bare: the model itself; model: what is called in training, which adds up gradients over processes.
        ema: timm's average, or None.
    """

    def __init__(self, request: Request, model: nn.Module, ranks: Ranks) -> None:
        from timm import utils as timm_utils

        ModelEmaV3: Any = timm_utils.ModelEmaV3  # type: ignore[attr-defined]
        self.bare, self.sharded = model, request.shard
        self.ema = ModelEmaV3(model, decay=request.model_ema_decay) if request.model_ema else None
        self.model: nn.Module = model
        if request.shard:
            shard(model, ranks)
        elif ranks.world > 1:
            on = [ranks.device] if ranks.device.type == "cuda" else None
            self.model = nn.parallel.DistributedDataParallel(model, device_ids=on)

    def average(self) -> None:
        if self.ema is not None:
            self.ema.update(self.bare)

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Whole tensors, also of a model in parts; every process has to ask."""
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

            whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
            model, state = get_state_dict(self.bare, optimizer, options=whole)
            return {"model": model, "optimizer": state, "ema": None}
        ema = None if self.ema is None else self.ema.module.state_dict()
        return {"model": self.bare.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema}

    def load(self, state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """What `state` returned."""
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

            set_state_dict(
                self.bare,
                optimizer,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
                options=StateDictOptions(full_state_dict=True),
            )
            return
        self.bare.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])


def shard(model: nn.Module, ranks: Ranks) -> None:
    """FSDP2: every process holds its part of every block, and has the whole block while it runs.

    Raises:
        ValueError: there is one process only.
    """
    if ranks.world == 1:
        raise ValueError("train: `shard` must be given to several processes (torchrun), got one")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for part in model.modules():
        if isinstance(part, nn.ModuleList):
            for block in part:
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
