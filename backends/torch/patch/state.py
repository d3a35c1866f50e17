"""What one forward pass knows: it begins with the first block, belongs to one thread, and ends with the last block."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.plan import DensePlan, Plan, compose
from tokenmerge.backends.torch.precision import matmul, safe_log, working_dtype

Tensor = torch.Tensor


@dataclass(eq=False)
class State:
    """One forward pass.

    size, mask: of the tokens that enter the next block; None where all sizes are one, all tokens real.
    prior: the mask of the LTM before. metric: this block's keys, averaged over heads.
    source: the composed plan so far. plans: of the blocks so far, None where nothing was merged.
    chosen, attended: ATS: the plan and what the chosen queries saw, until the residual stream follows.
    merged, branch: the merged tokens and what the MLP made of them, until the block's own sum is over.
    merger: the block's learned merger. in_mlp: whether the block has come to its second half. tokens: what the
    network's pooling will see.
    """

    size: Tensor | None = None
    mask: Tensor | None = None
    prior: Tensor | None = None
    metric: Tensor | None = None
    source: Plan | None = None
    plans: list[Plan | None] = field(default_factory=list)
    plan: Plan | None = None
    chosen: Plan | None = None
    attended: Tensor | None = None
    merged: Tensor | None = None
    branch: Tensor | None = None
    merger: nn.Module | None = None
    in_mlp: bool = False
    tokens: Tensor | None = None

    def sizes(self, x: Tensor) -> Tensor:
        """The sizes of `x (B,N,C)`, ones where nothing was merged yet."""
        return x.new_ones(x.shape[:2], dtype=working_dtype(x)) if self.size is None else self.size

    def bias(self, proportional: bool, dtype: torch.dtype) -> Tensor | None:
        """`(B,1,1,N)`, what is added to the logits of attention; None where every key is alike."""
        size = self.size if proportional else None
        if size is None and self.mask is None:
            return None
        log_size = torch.zeros((), dtype=dtype) if size is None else safe_log(size).to(dtype)
        logits = log_size if self.mask is None else torch.where(self.mask, log_size.to(self.mask.device), -torch.inf)
        return logits[:, None, None, :]

    def follow(self, plan: Plan, size: Tensor) -> None:
        """Take the sizes and the mask through a plan, and the plan into the composed one."""
        if self.source is None:
            self.source = plan
        elif isinstance(plan, DensePlan) or isinstance(self.source, DensePlan):
            # with the sizes of this pass, which a composed dense plan no longer knows
            self.source = DensePlan(matmul(plan.matrix(size), self.source.matrix()), plan.mask)
        else:
            self.source = compose(self.source, plan)
        self.plan, self.size, self.mask = plan, plan.merge_size(size), plan.mask


class Run:
    """The pass that this thread is in, or the last one it finished. A copy or a pickle of it starts empty."""

    def __init__(self) -> None:
        self._local = _Local()

    @property
    def state(self) -> State:
        state = self._local.state
        if state is None:
            raise RuntimeError(
                "patch: a patched block must be called by its network, from the first block on, and not by itself or "
                "again by gradient checkpointing"
            )
        return state

    @property
    def last(self) -> State | None:
        """The last finished pass of this thread."""
        return self._local.last

    def begin(self) -> None:
        self._local.state = State()

    def end(self) -> None:
        self._local.state, self._local.last = None, self._local.state

    def __reduce__(self) -> tuple[Any, ...]:
        return Run, ()  # a thread's pass is nobody else's


class _Local(threading.local):
    def __init__(self) -> None:
        self.state: State | None = None
        self.last: State | None = None
