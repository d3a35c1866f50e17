"""What `patch` returns: the plans of the last call, `r`, and the way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tokenmerge.backends.torch.patch.families import Network
from tokenmerge.backends.torch.patch.merging import Merging, schedule
from tokenmerge.backends.torch.patch.state import Run, State
from tokenmerge.backends.torch.plan import Plan

Tensor = torch.Tensor


class Handle:
    """A patched model's handle, and a context manager that removes the patch at its end.

    `plans`, `source()` and `unmerge()` speak of the last call that this thread finished.
    """

    def __init__(
        self, run: Run, merging: Merging, network: Network, hooks: list[RemovableHandle], added: list[nn.Module]
    ) -> None:
        self._run, self._merging, self._network = run, merging, network
        self._hooks, self._added = hooks, added

    @property
    def plans(self) -> list[Plan | None]:
        """For every block its plan, or None where it merged nothing."""
        return list(self._last().plans)

    def source(self) -> Plan:
        """The composed plan, from the tokens that entered the first block to the final ones.

        Of a partition, `.assignment (B,N)` says which final token holds each patch; tokens in front come first.

        Raises:
            RuntimeError: nothing was merged, or the model has not been called in this thread.
        """
        plan = self._last().source
        if plan is None:
            raise RuntimeError("patch: `source` must follow a call that merged something, got one that did not")
        return plan

    def unmerge(self, tokens: Tensor) -> Tensor:
        """Final tokens `(B,P,C)` back to the places they came from: `(B,N,C)`, tokens in front included."""
        return self.source().unmerge(tokens)

    @property
    def size(self) -> Tensor | None:
        """`(B,P)`, how many tokens each final token stands for; None where each counts one."""
        return self._last().size

    @property
    def mask(self) -> Tensor | None:
        """`(B,P)` bool, False for a padded slot (ATS); None where all are real."""
        return self._last().mask

    @property
    def r(self) -> Any:
        """ToMe's schedule, as it was given; can be set, for the next call."""
        if self._merging.name != "tome":
            raise AttributeError(f"patch: `r` is an option of 'tome', got {self._merging.name!r}")
        return self._merging.config.r

    @r.setter
    def r(self, r: Any) -> None:
        from dataclasses import replace

        wanted = schedule(r, self._merging, self._network)
        self._merging.config, self._merging.r = replace(self._merging.config, r=r), wanted

    def remove(self) -> None:
        """Take every hook and every added module away again. A second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        for block in self._added:
            del block.merger
        self._hooks, self._added = [], []

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()

    def _last(self) -> State:
        last = self._run.last
        if last is None:
            raise RuntimeError("patch: the model must have been called in this thread, got no call yet")
        return last
