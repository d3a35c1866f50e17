"""Decoders behind a patched encoder: what ATS pads must not be a key of their cross attention."""

from __future__ import annotations

from typing import Any

from torch import nn

from tokenmerge.backends.torch.patching.hook import Hook
from tokenmerge.backends.torch.patching.parts import BEFORE


class CrossMask(Hook):
    """Before a decoder: the padding of the encoder's last call is its `encoder_attention_mask`, if none is given."""

    where, name = BEFORE, "tokenmerge.cross_mask"

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        mask, states = self.patch.thread.last.mask, kwargs.get("encoder_hidden_states")
        if mask is None or states is None or self.patch.restore or states.shape[1] != mask.shape[1]:
            return None
        if kwargs.get("encoder_attention_mask") is not None:
            return None
        times, rest = divmod(states.shape[0], mask.shape[0])
        if rest:
            raise RuntimeError(
                f"patch: a decoder must be given the states of the last call, {mask.shape[0]} images or beams of them, "
                f"got {states.shape[0]}"
            )
        return args, kwargs | {"encoder_attention_mask": mask.repeat_interleave(times, dim=0).long()}
