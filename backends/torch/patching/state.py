"""What a patched model knows during one call, and where it keeps it: on a stack that every thread has for itself.

Nothing outlives the call except its plans and sizes (`Last`), without gradients, until the thread's next one.
"""

from __future__ import annotations

import threading

import torch
from torch import nn

from tokenmerge.backends.torch.plan import DensePlan, PartitionPlan, Plan
from tokenmerge.backends.torch.precision import working_dtype

Tensor = torch.Tensor


class Call:
    """One call on its way through the blocks.

    Attributes:
        by_block: whether the first block began it, because the network's own `forward` was not called.
        started: whether a block has begun; inside: whether one is running.
        size: `(B,N)`, patches in every token; None while every token counts one.
        mask: `(B,N)` bool, False for padding; None while all tokens are real.
        prior: the last LTM's mask `(B,n,P')`, for the next one.
        replaced: whether PatchMerger's tokens took the place of all others, those in front included.
        plans: of every block, None where nothing merged; sizes: what each plan took.
        tokens: `(B,P,C)`, what pooling reads.
        block: the one that is running; in `DataParallel` it is the replica's.
        attention: its attention module. keys: its keys `(B,N,D)`, averaged over heads. chosen: its ATS plan.
        branch: what its attention adds to the chosen tokens. merged: the tokens that enter its MLP, when they are not
            the block's own. mlp: what the MLP adds to them.
    """

    block: nn.Module

    def __init__(self, by_block: bool = False) -> None:
        self.by_block = by_block
        self.started = self.inside = self.replaced = False
        self.plans: list[Plan | None] = []
        self.sizes: list[Tensor | None] = []
        self.size: Tensor | None = None
        self.mask: Tensor | None = None
        self.prior: Tensor | None = None
        self.tokens: Tensor | None = None
        self._table: Tensor | None = None
        self._merged_table: Tensor | None = None
        self._merges_in_table = 0
        self._forget()

    def enter(self, block: nn.Module) -> None:
        """A block begins."""
        self.started = self.inside = True
        self.block = block
        self.plans.append(None)
        self.sizes.append(None)

    def leave(self) -> None:
        """A block ends."""
        self.inside = False
        self._forget()

    def merge(self, plan: Plan, x: Tensor) -> Tensor:
        """`W x`; sizes and mask go along."""
        size = x.new_ones(x.shape[:2], dtype=working_dtype(x)) if self.size is None else self.size
        self.plans[-1], self.sizes[-1] = plan, self.size
        if isinstance(plan, PartitionPlan):  # sizes began as ones
            merged, self.size = plan.merge_checked(x, size, self.mask is None, self.mask is None)
        else:
            merged, self.size = plan.merge_both(x, size)
        self.mask = plan.mask
        return merged

    def rotary(self, table: Tensor, batch: int) -> Tensor:
        """A block's rotary table `(N',2d)` or `(H,N',2d)`, of all patches, as `(B,H,P',2d)` of the tokens left."""
        if self._table is not table:  # the first block, or a network whose tables differ from block to block
            self._table, self._merged_table, self._merges_in_table = table, table, 0
        assert self._merged_table is not None
        made = range(self._merges_in_table, len(self.plans))
        for plan, size in [(self.plans[index], self.sizes[index]) for index in made]:
            if plan is not None:
                self._merged_table = merge_table(plan, self._merged_table, size, batch)
        self._merges_in_table = len(self.plans) - 1  # this block has made no plan yet
        return self._merged_table

    def _forget(self) -> None:
        self.attention: nn.Module | None = None
        self.keys: Tensor | None = None
        self.chosen: Plan | None = None
        self.branch: Tensor | None = None
        self.merged: Tensor | None = None
        self.mlp: Tensor | None = None


def merge_table(plan: Plan, table: Tensor, size: Tensor | None, batch: int) -> Tensor:
    """Sines and cosines of merged tokens: those of their patches, averaged as the plan averages tokens."""
    while table.ndim < 4:
        table = table[None]
    heads, patches, width = table.shape[1:]
    front = plan.num_tokens_in - patches  # tokens in front have no position, and stay in front
    rows = table.expand(batch, heads, patches, width).transpose(1, 2).reshape(batch, patches, heads * width)
    rows = torch.cat([rows.new_zeros((batch, front, heads * width)), rows], dim=1)
    merged = plan.merge(rows, size)[:, front:]
    return merged.reshape(batch, merged.shape[1], heads, width).transpose(1, 2)


class Last:
    """What is left of a thread's last call through all blocks."""

    def __init__(self) -> None:
        self.plans: tuple[Plan | None, ...] = ()
        self.sizes: tuple[Tensor | None, ...] = ()
        self.size: Tensor | None = None
        self.mask: Tensor | None = None

    def keep(self, call: Call) -> None:
        """Keep the plans of a call, and no graph of it."""
        self.plans = tuple(_detached(plan) for plan in call.plans)
        self.sizes = tuple(None if size is None else size.detach() for size in call.sizes)
        self.size = None if call.size is None else call.size.detach()
        self.mask = call.mask


def _detached(plan: Plan | None) -> Plan | None:
    return DensePlan(plan.weights.detach(), plan.mask) if isinstance(plan, DensePlan) else plan


class Thread(threading.local):
    """The calls that a thread is in, the innermost last, each with the module whose `forward` it serves.

    What changes lies in lists and objects inside: a compiler keeps track of these, not of attributes of a
    `threading.local`.
    """

    def __init__(self) -> None:
        self.stack: list[tuple[Call, nn.Module | None]] = []
        self.last = Last()
        self.attending: list[nn.Module] = []  # modules whose attention is for chosen queries only

    def call(self) -> Call | None:
        """The innermost call."""
        return self.stack[-1][0] if self.stack else None

    def open(self, module: nn.Module) -> None:
        """A module that holds all blocks begins; one inside another serves the same call."""
        self.drop_stale()
        call = self.call()
        self.stack.append((Call() if call is None or call.started else call, module))

    def next_block(self, index: int) -> Call | None:
        """A block begins: its call, which the first block begins if nobody else has; None for a block on its own."""
        call = self.call()
        if index == 0 and (call is None or call.started):
            self.drop_stale()
            self.stack.append((Call(by_block=True), None))
        call = self.call()
        return call if call is not None and not call.inside and len(call.plans) == index else None

    def close(self, module: nn.Module) -> None:
        """It ends, also by an exception."""
        if self.stack and self.stack[-1][1] is module:
            self.stack.pop()

    def drop_stale(self) -> None:
        """Forget a call that the first block began, and that was left between blocks."""
        while self.stack and self.stack[-1][0].by_block and not self.stack[-1][0].inside:
            self.stack.pop()
