"""A model as a runtime sees it: images to logits, and to the plan of the whole network where it is asked for."""

from __future__ import annotations

import copy
from typing import Any

import torch

from tokenmerge.backends.torch.patching import handle
from tokenmerge.backends.torch.patching.handle import hooks_of
from tokenmerge.backends.torch.plan import DensePlan, Plan, slots_of
from tokenmerge.backends.torch.vit import ViT

Tensor = torch.Tensor


class Deployed(torch.nn.Module):
    """One input, named outputs; images and logits are float32, whatever the model computes in.

    Args:
        model: a patched model, a `ViT` of ours, or a model that merges nothing.
        with_plans: whether the composed plan comes out, too: `assignment (B,N)`, the token at the end that each token
            went into and -1 for a dropped one, or, where a plan mixes tokens, `weights (B,P,N)`.

    Attributes:
        outputs: the names of what comes out, in order.
    """

    def __init__(self, model: torch.nn.Module, with_plans: bool = False) -> None:
        super().__init__()
        self.model, self.with_plans = model, with_plans
        self.outputs: tuple[str, ...] = ("logits",)

    def probe(self, images: Tensor) -> None:
        """Run once, to see what the plan is encoded by.

        Raises:
            ValueError: a plan is asked for, and there is none.
        """
        if not self.with_plans:
            return
        plan = self._plan(self.model(images.to(next(self.model.parameters()).dtype)))
        if plan is None:
            raise ValueError(
                "export: `with_plans` must be False for a model whose stream keeps all tokens, got one that merges "
                "nothing or whose plans act around a branch"
            )
        self.outputs = ("logits", "weights" if isinstance(plan, DensePlan) else "assignment")

    def forward(self, images: Tensor) -> Any:
        out = self.model(images.to(next(self.model.parameters()).dtype))
        logits = logits_of(out).to(images.dtype)
        if not self.with_plans:
            return logits
        plan = self._plan(out)
        assert plan is not None  # see `probe`
        return logits, plan.weights if isinstance(plan, DensePlan) else slots_of(plan)

    def _plan(self, out: Any) -> Plan | None:
        """The composed plan of the call that gave `out`; None where the stream kept all tokens."""
        if isinstance(self.model, ViT):
            return out.plan if self.model.config.merging else None
        if not hooks_of(self.model):
            return None
        try:
            return handle(self.model).source()
        except RuntimeError:  # nothing merged, or around a branch
            return None


def gives_plan(model: torch.nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether the stream of a model loses tokens, for images of this shape."""
    try:
        with torch.no_grad():
            Deployed(model, with_plans=True).probe(torch.zeros((1, *shape)))
    except ValueError:
        return False
    return True


def logits_of(out: Any) -> Tensor:
    """The tensor that a model's answer is about: logits, or what it pools, or its tokens."""
    for name in ("logits", "pooler_output", "image_embeds", "last_hidden_state"):
        value = getattr(out, name, None)
        if value is not None:
            return value
    return out[0] if isinstance(out, tuple | list) else out


def without_merging(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of the model that merges nothing."""
    if isinstance(model, ViT):
        from dataclasses import replace

        unmerged = ViT(replace(model.config, merging=None))
        own = unmerged.state_dict()
        unmerged.load_state_dict({name: value for name, value in model.state_dict().items() if name in own})
        return unmerged.to(next(model.parameters()).dtype).eval()
    plain = copy.deepcopy(model)
    if hooks_of(plain):
        handle(plain).remove()
    return plain.eval()
