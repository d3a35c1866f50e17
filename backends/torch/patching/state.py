"""What a patched model knows during one call, and where it keeps it: on a stack that every thread has for itself.

Nothing outlives the call except its plans and sizes (`Last`), without gradients, until the thread's next one.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.plan import DensePlan, PartitionPlan, Plan
from tokenmerge.backends.torch.precision import working_dtype

if TYPE_CHECKING:
    from tokenmerge.backends.torch.patching.families import Block

Tensor = torch.Tensor


class Call:
    """One call on its way through the blocks.

    Attributes:
        by_block: whether the first block began it, because no function of the network was called.
        started: whether a block has begun; inside: whether one is running.
        own_mask: whether a mask that attention is given was made by the network itself, and masks nothing.
        size: `(B,N)`, patches in every token; None while every token counts one.
        mask: `(B,N)` bool, False for padding; None while all tokens are real.
        prior: the last LTM's mask `(B,n,P')`, for the next one.
        replaced: whether PatchMerger's tokens took the place of all others, those in front included.
        plans: of every block, None where nothing merged; sizes: what each plan took; counts: tokens after it.
        num_tokens_in: N of the first block. num_tokens_here: of the one that is running.
        tokens: `(B,P,C)`, what pooling reads. kept: the merged tokens, where everybody else sees restored ones.
        around: whether plans act around a branch, so that the stream keeps all tokens.
        whole: the plan of all blocks so far, when tokens are restored after every block.
        real: `(B,N)` bool, which tokens that came in are no padding, where somebody has said so.
        known: plans of a call whose blocks are run again in a backward pass.
        block: the one that is running; in `DataParallel` it is the replica's. parts: its description.
        attention: its attention module. keys: its keys `(B,N,D)`, averaged over heads. chosen: its ATS plan.
        branch: what its attention adds to the chosen tokens. merged: the tokens that enter its MLP, when they are not
            the block's own. mlp: what the MLP adds to them. stream: `x1`, where that is added to all tokens.
    """

    block: nn.Module
    parts: Block

    def __init__(self, by_block: bool = False, around: bool = False) -> None:
        self.by_block, self.around = by_block, around
        self.started = self.inside = self.replaced = self.own_mask = False
        self.num_tokens_here = 0
        self.plans: list[Plan | None] = []
        self.sizes: list[Tensor | None] = []
        self.counts: list[int] = []
        self.before: list[tuple[Tensor | None, Tensor | None, bool]] = []  # size, mask, replaced, as a block began
        self.num_tokens_in = 0
        self.size: Tensor | None = None
        self.mask: Tensor | None = None
        self.prior: Tensor | None = None
        self.tokens: Tensor | None = None
        self.kept: Tensor | None = None
        self.whole: Plan | None = None
        self.known: tuple[Call, int] | None = None
        self.real: Tensor | None = None
        self.given: Returned | None = None  # what the last block returned
        self.removal: int | None = None  # tokens that the running block removes, once it is known
        self._merged_before = False
        self._table: Tensor | None = None
        self._merged_table: Tensor | None = None
        self._merges_in_table = 0
        self._forget()

    @property
    def merged_any(self) -> bool:
        """Whether the tokens no longer are those that came in."""
        if self.around:
            return False
        return self._merged_before or (bool(self.plans) and self.plans[-1] is not None)

    @property
    def known_plan(self) -> Plan | None:
        """The plan that this block has made before, if it runs again."""
        return None if self.known is None else self.known[0].plans[len(self.plans) - 1]

    def enter(self, block: nn.Module, x: Tensor, parts: Block) -> None:
        """A block begins."""
        if not self.started:
            self.num_tokens_in = x.shape[1]
            self._place_mask(x)
        self.started = self.inside = True
        self.block, self.parts, self.removal = block, parts, None
        self.next_plan()

    def next_plan(self) -> None:
        """The next block has none yet."""
        self._merged_before = self._merged_before or (bool(self.plans) and self.plans[-1] is not None)
        self.plans.append(None)
        self.sizes.append(None)
        self.before.append((self.size, self.mask, self.replaced))

    def take_mask(self, given: Tensor, name: str) -> None:
        """Which tokens are real, from outside: `(B,n)` or `(B,h,w)`, of all tokens or of the patches.

        Raises:
            ValueError: plans act around a branch, where no size says what is padding.
        """
        if self.around:
            raise ValueError(f"patch: `{name}` must be None where plans act around a branch, got a mask")
        self.real = given.flatten(1).bool()

    def _place_mask(self, x: Tensor) -> None:
        if self.real is None:
            return
        front = x.shape[1] - self.real.shape[1]
        if front < 0:
            raise ValueError(f"patch: a mask must have an entry for each of {x.shape[1]} tokens, got {-front} more")
        self.real = torch.cat([self.real.new_ones((x.shape[0], front)), self.real], dim=1)
        self.mask, self.size = self.real, self.real.to(working_dtype(x))

    def leave(self) -> None:
        """A block ends."""
        self.inside = False
        self._forget()

    def again(self, index: int) -> Call:
        """This call as it was when a block began, to run that block again."""
        call = Call(by_block=True, around=self.around)
        call.started, call.num_tokens_in, call.known = True, self.num_tokens_in, (self, index)
        call.plans, call.sizes, call.counts = self.plans[:index], self.sizes[:index], self.counts[:index]
        call.before = self.before[:index]
        call._merged_before = any(plan is not None for plan in call.plans)
        call.own_mask, call.real = self.own_mask, self.real
        call.size, call.mask, call.replaced = self.before[index]
        return call

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

    def rotary(self, table: Any, batch: int) -> Any:
        """A block's rotary table `(N',2d)` or `(H,N',2d)`, of all patches, as `(B,H,P',2d)` of the tokens left. Of a
        pair of tables the pair."""
        if not isinstance(table, Tensor):
            widths = [each.shape[-1] for each in table]
            merged = self._merge_table(table[0], torch.cat(list(table), dim=-1), batch)
            return merged.split(widths, dim=-1)
        return self._merge_table(table, table, batch)

    def _merge_table(self, known: Tensor, table: Tensor, batch: int) -> Tensor:
        if self.around:
            plan = self.plans[-1]
            return table if plan is None else merge_table(plan, table, self.sizes[-1], batch)
        if self._table is not known:  # the first block, or a network whose tables differ from block to block
            self._table, self._merged_table, self._merges_in_table = known, table, 0
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
        self.stream: Tensor | None = None
        self.between = False  # whether what lies between attention and MLP has been run


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
        self.num_tokens_in = 0
        self.size: Tensor | None = None
        self.mask: Tensor | None = None
        self.around = self.replaced = False
        self.real: Tensor | None = None
        self.whole: Plan | None = None
        self.given: Returned | None = None  # the tokens after the last norm

    def keep(self, call: Call) -> None:
        """Keep the plans of a call, and no graph of it."""
        self.plans = tuple(detached(plan) for plan in call.plans)
        self.sizes = tuple(None if size is None else size.detach() for size in call.sizes)
        self.num_tokens_in = call.num_tokens_in
        self.size = None if call.size is None else call.size.detach()
        self.mask, self.around, self.replaced, self.real = call.mask, call.around, call.replaced, call.real
        self.whole = None if call.whole is None else detached(call.whole)
        self.given = call.given

    @property
    def merged_any(self) -> bool:
        """Whether the tokens no longer were those that came in."""
        return not self.around and any(plan is not None for plan in self.plans)


def detached(plan: Plan | None) -> Plan | None:
    return DensePlan(plan.weights.detach(), plan.mask) if isinstance(plan, DensePlan) else plan


class Returned:
    """A tensor that somebody was given, to know it again: it is not kept alive."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = weakref.ref(tensor)
        self._version = None if tensor.is_inference() else tensor._version  # which counts changes in place

    def is_still(self, tensor: Tensor) -> bool:
        """Whether it is this one, and nobody has written into it."""
        return self._tensor() is tensor and (self._version is None or self._version == tensor._version)

    def __call__(self) -> Tensor | None:
        return self._tensor()


def returned(tensor: Tensor) -> Returned | None:
    """A mark of a tensor; a compiler has none."""
    return None if observers.is_compiling() else Returned(tensor)


class Reader:
    """A module around the network that reads its tokens, while it runs: the last call of that network."""

    def __init__(self) -> None:
        self.call: Call | None = None


class Thread(threading.local):
    """The calls that a thread is in, the innermost last.

    What changes lies in lists and objects inside: a compiler keeps track of these, not of attributes of a
    `threading.local`.
    """

    def __init__(self) -> None:
        self.stack: list[Call] = []
        self.readers: list[Reader] = []
        self.alone: list[int] = []  # blocks that run without a call
        self.stages: list[Any] = []  # of a network on a map, the ones that run
        self.last = Last()

    def call(self) -> Call | None:
        """The innermost call."""
        return self.stack[-1] if self.stack else None

    def drop(self, call: Call) -> None:
        """A call ends."""
        self.stack[:] = [each for each in self.stack if each is not call]

    def innermost(self, call: Call) -> None:
        """A call goes on after another one had its turn."""
        self.drop(call)
        self.stack.append(call)

    def drop_stale(self) -> None:
        """Forget calls that a first block began, and that were left between blocks."""
        while self.stack and self.stack[-1].by_block and not self.stack[-1].inside:
            self.stack.pop()

    def between_blocks(self) -> list[Call]:
        """Calls that first blocks have begun inside of the innermost one that is not of that kind."""
        found: list[Call] = []
        for call in reversed(self.stack):
            if not call.by_block or call.inside:
                break
            found.append(call)
        return found
