"""What `patch` returns: the plans of the last call, `r`, and the way back."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.block import BlockRole
from tokenmerge.backends.torch.patching.families import CannotPatch
from tokenmerge.backends.torch.patching.graphed import Graphed
from tokenmerge.backends.torch.patching.grid_role import GridBlockRole, GridMethod
from tokenmerge.backends.torch.patching.hook import Hook, Patch
from tokenmerge.backends.torch.patching.marks import role_of, unmark
from tokenmerge.backends.torch.patching.network import NetworkRole
from tokenmerge.backends.torch.patching.parts import AFTER, BEFORE, unhook
from tokenmerge.backends.torch.patching.state import Last
from tokenmerge.backends.torch.patching.tome import R, ToMePatch
from tokenmerge.backends.torch.plan import Plan, compose_layers
from tokenmerge.spec.shared.arguments import check_integer

Tensor = torch.Tensor


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

    @property
    def num_tokens(self) -> list[int]:
        """For every block how many tokens it left, restored ones not counted; [] before the first call."""
        left, found = self._last.num_tokens_in, []
        for plan in self.plans:
            left = left if plan is None or self._last.around else plan.num_tokens_out
            found.append(left)
        return found

    def source(self, layer: int | None = None) -> Plan:
        """Which patch went into which token: the plans of all blocks as one, from the first block's tokens to the last.

        Of ToMe, `.assignment (B,N)` names for every token that entered the one that holds it; `.share() (B,N,P)` is
        defined for all mergers. The tokens in front of the patches come first.

        Args:
            layer: the number of blocks to look at; None for all. Of hidden states it is the index.

        Raises:
            TypeError, ValueError: `layer` is no integer from 0 to the depth.
            RuntimeError: no call has been finished in this thread, nothing was merged up to there, or the plans act
                around a branch and the stream has kept all tokens.
        """
        made = self._made(layer)
        if not made:
            had = "a call that merged nothing" if self.plans else "none"
            if self._last.around:
                had = "one whose plans act around a branch"
            raise RuntimeError(f"patch: `source` must follow a call of this thread in which tokens merged, got {had}")
        return compose_layers(made)

    def unmerge(self, tokens: Tensor, layer: int | None = None) -> Tensor:
        """Tokens `(B,P,C)` of the last call back in their places: `(B,N,C)`, the tokens in front included.

        Args:
            tokens: what came out of that many blocks.
            layer: the number of blocks; None for all.

        Raises:
            TypeError, ValueError: `tokens` has another shape or is not floating point; `layer` as in `source`.
            RuntimeError: no call has been finished in this thread.
        """
        if self.plans and not self._made(layer):
            return tokens
        return self.source(layer).unmerge(tokens)

    def _made(self, layer: int | None) -> list[tuple[Plan, Tensor | None]]:
        if layer is not None:
            check_integer("patch", "layer", layer, minimum=0, hint="the number of blocks before the tokens")
            if self.plans and layer > len(self.plans):
                raise ValueError(f"patch: `layer` must be at most {len(self.plans)}, the number of blocks, got {layer}")
        if self._last.around:
            return []
        made = zip(self.plans[:layer], self.sizes[:layer], strict=True)
        return [(plan, size) for plan, size in made if plan is not None]

    @property
    def r(self) -> R | None:
        """ToMe's tokens to remove per block, as given; can be set. None with `tokens_out`.

        Raises:
            AttributeError: another merger; TypeError, ValueError: as in `patch`, and nothing is changed.
        """
        return self._tome.r

    @r.setter
    def r(self, r: R) -> None:
        tome = self._tome
        tome.set_r(r, self._tokens())
        tome.given.pop("tokens_out", None)
        tome.given["r"] = r

    def _tokens(self) -> int | None:
        """The most tokens that an image may have: of the last call, or of the model's own size now."""
        own = [
            role.tokens_of(module)
            for module in self._model.modules()
            if isinstance(role := role_of(module), NetworkRole)
        ]
        if not own or own[0] is None:
            return None
        return max(own[0], self._last.num_tokens_in)

    def graphed(self) -> Graphed:
        """The model as a callable that captures its calls in CUDA graphs, one for each shape of the inputs.

        In eager mode a GPU waits for Python at small batches; a graph is launched at once. Without gradients. See
        `tokenmerge.backends.torch.patching.graphed`.

        Raises:
            RuntimeError: the model is not on a CUDA device.
        """
        return Graphed(self._model, self._patch)

    def remove(self) -> None:
        """Take everything off again: roles, hooks, mergers. A second time does nothing."""
        for module in self._model.modules():
            unhook(module, None, self._patch)
            role = role_of(module)
            if role is not None and role.patch is self._patch:
                if isinstance(role, BlockRole | GridBlockRole) and role.learned:
                    del module.merger
                unmark(module)

    @property
    def _last(self) -> Last:
        return self._patch.thread.last

    @property
    def _tome(self) -> ToMePatch:
        method = self._patch.method
        if not isinstance(method, ToMePatch):
            where = (
                f"{method.NAME!r}, whose tokens keep a grid" if isinstance(method, GridMethod) else repr(method.NAME)
            )
            raise AttributeError(f"patch: `r` must be asked of a model patched with 'tome', got {where}")
        return method


def hooks_of(model: nn.Module) -> list[Hook]:
    """All our hooks and roles in a model."""
    found: list[Any] = [
        hook for module in model.modules() for name in (BEFORE, AFTER) for hook in getattr(module, name).values()
    ]
    found += [role_of(module) for module in model.modules()]
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
