"""What `patch` returns: the plans of the last call, `r`, and the way back."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.ats import SampledForward
from tokenmerge.backends.torch.patching.families import CannotPatch
from tokenmerge.backends.torch.patching.hooks import Enter, Hook, Patch
from tokenmerge.backends.torch.patching.state import Last
from tokenmerge.backends.torch.patching.tome import R, ToMePatch
from tokenmerge.backends.torch.plan import Plan, compose_layers

Tensor = torch.Tensor
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
MARKS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


class Handle:
    """A patched model, from the outside. As a context manager it takes the patch off at the end.

    Plans and sizes are those of the last call that this thread has finished. They are kept without gradients, until
    the thread's next call.

    >>> import torch, timm
    >>> from tokenmerge.backends.torch import patch
    >>> model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2).eval()
    >>> with patch(model, "tome", r=4) as handle:
    ...     tokens = model.forward_features(torch.zeros(1, 3, 64, 64))
    >>> tokens.shape, handle.unmerge(tokens).shape, handle.size.sum()
    (torch.Size([1, 9, 192]), torch.Size([1, 17, 192]), tensor(17.))
    """

    def __init__(self, model: nn.Module, patch: Patch) -> None:
        self._model, self._patch = model, patch

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        method = self._patch.method
        options = ", ".join(f"{name}={method.given[name]!r}" for name in method.given)
        state = "" if installed(self._model, self._patch) else ", removed"
        return f"<patch of {type(self._model).__name__}: {method.NAME}({options}){state}>"

    @property
    def plans(self) -> list[Plan | None]:
        """For every block its plan, or None where it merged nothing; [] before the first call."""
        return list(self._last.plans)

    @property
    def sizes(self) -> list[Tensor | None]:
        """For every block the sizes `(B,N)` that its plan took; None where every token counted one."""
        return list(self._last.sizes)

    @property
    def size(self) -> Tensor | None:
        """`(B,P)`, patches in every token that is left; None where every token counts one."""
        return self._last.size

    @property
    def mask(self) -> Tensor | None:
        """`(B,P)` bool, False for padding; None where all tokens are real."""
        return self._last.mask

    def source(self) -> Plan:
        """Which patch went into which token: the plans of all blocks as one, from the first block's tokens to the last.

        Of ToMe, `.assignment (B,N)` names for every token that entered the one that holds it; `.share() (B,N,P)` is
        defined for all mergers. The tokens in front of the patches come first.

        Raises:
            RuntimeError: no call has been finished in this thread, or nothing was merged.
        """
        made = [(plan, size) for plan, size in zip(self.plans, self.sizes, strict=True) if plan is not None]
        if not made:
            had = "a call that merged nothing" if self.plans else "none"
            raise RuntimeError(f"patch: `source` must follow a call of this thread in which tokens merged, got {had}")
        return compose_layers(made)

    def unmerge(self, tokens: Tensor) -> Tensor:
        """Tokens `(B,P,C)` of the last call back in their places: `(B,N,C)`, the tokens in front included.

        Raises:
            TypeError, ValueError: `tokens` has another shape or is not floating point.
            RuntimeError: no call has been finished in this thread.
        """
        if self.plans and all(plan is None for plan in self.plans):
            return tokens
        return self.source().unmerge(tokens)

    @property
    def r(self) -> R:
        """ToMe's tokens to remove per block, as given; can be set.

        Raises:
            AttributeError: another merger; TypeError, ValueError: as in `patch`, and nothing is changed.
        """
        return self._tome.r

    @r.setter
    def r(self, r: R) -> None:
        self._tome.r = self._tome.given["r"] = r

    def remove(self) -> None:
        """Take everything off again: hooks, mergers, the `forward` of sampled attention. A second time does nothing."""
        for module in self._model.modules():
            for hooks in (getattr(module, name) for name in HOOKS):
                for key in [key for key, hook in hooks.items() if isinstance(hook, Hook) and hook.patch is self._patch]:
                    if isinstance(hooks[key], Enter) and hooks[key].learned:
                        del module.merger
                    del hooks[key]
                    for mark in MARKS:
                        getattr(module, mark).pop(key, None)
            if isinstance(module.__dict__.get("forward"), SampledForward):
                del module.forward

    @property
    def _last(self) -> Last:
        return self._patch.thread.last

    @property
    def _tome(self) -> ToMePatch:
        method = self._patch.method
        if not isinstance(method, ToMePatch):
            raise AttributeError(f"patch: `r` must be asked of a model patched with 'tome', got {method.NAME!r}")
        return method


def hooks_of(model: nn.Module) -> list[Hook]:
    """All our hooks in a model."""
    found: list[Any] = [hook for module in model.modules() for name in HOOKS for hook in getattr(module, name).values()]
    return [hook for hook in found if isinstance(hook, Hook)]


def installed(model: nn.Module, patch: Patch) -> bool:
    """Whether a model has the hooks of a patch."""
    return any(hook.patch is patch for hook in hooks_of(model))


def handle(model: nn.Module) -> Handle:
    """The handle of a patched model, also of a copy of one, or of one that was loaded.

    Raises:
        CannotPatch: it is not patched.
    """
    found = hooks_of(model)
    if not found:
        raise CannotPatch(f"patch: `model` must be patched, got a {type(model).__name__} that is not")
    return Handle(model, found[0].patch)
