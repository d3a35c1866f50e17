"""What a patched model has to give, computed without a patch, without sizes and with all tokens.

A token of size s is the same to attention as s equal tokens of size one. So the model runs as it is, on all of its
tokens: where tokens merge, each of them becomes their mean, between attention and MLP. Whoever reads the tokens behind
the blocks then sees what a patched model with restored tokens gives, and means over all tokens are those weighted by
size. Who merges with whom is decided by the NumPy merger, from keys that are computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import nn

from tokenmerge import get_merger, merge_schedule

Tensor = torch.Tensor


@dataclass(frozen=True)
class Joints:
    """A kind of block, by the paths of its parts.

    Attributes:
        attention: the attention. between: what the stream enters between attention and MLP; "" to merge after both.
        heads: attention and its input to queries, keys and values `(B,H,N,d)`, before any rotation.
        table: the argument of attention that holds positions; "" for none.
        turn: attention, queries, keys and that argument, to those turned by their positions.
        end: the part whose output the block adds at last, if the block is a list that is not called itself.
    """

    attention: str
    between: str
    heads: Callable[[Any, Tensor], tuple[Tensor, Tensor, Tensor]]
    table: str = ""
    turn: Callable[..., tuple[Tensor, Tensor]] = lambda attention, q, k, table: (q, k)
    end: str = ""


class ToMe:
    """Hooks on one model, for one call."""

    def __init__(
        self,
        blocks: list[tuple[nn.Module, Joints]],
        r: Any,
        prefix: int,
        mask: Tensor | None = None,
        around_mlp: bool = False,
    ) -> None:
        self.schedule, self.prefix, self.mask = merge_schedule(r, max(len(blocks), 1)), prefix, mask
        self.around_mlp = around_mlp  # the MLP sees means, and what it makes of them is added to every token
        self.place: np.ndarray | None = None  # (B,N), in which of the merged tokens each token is
        self.size: np.ndarray | None = None
        self.keys: Tensor | None = None
        self.change: Tensor | float = 0.0
        self.removers: list[Any] = []
        for index, (block, joints) in enumerate(blocks):
            self._hook(index, block, joints)

    def _hook(self, index: int, block: nn.Module, joints: Joints) -> None:
        attention = block.get_submodule(joints.attention) if joints.attention else block

        def before_attention(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            self.keys = joints.heads(module, x)[1].mean(1)
            table = kwargs.get(joints.table) if joints.table else None
            if table is not None and self.place is not None and not self.around_mlp:
                kwargs = kwargs | {joints.table: self._averaged(table, x.shape[1])}
            return args, kwargs

        def between(module: nn.Module, args: Any) -> Any:
            if joints.between and self.schedule[index]:
                if self.around_mlp:
                    self.place = None
                    return (self.merge(args[0], index), *args[1:])
                merged = self.merge(args[0], index)
                self.change = merged - args[0]
                return (merged, *args[1:])
            return None

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            x = x + self.change if joints.between or not self.schedule[index] else self.merge(x, index)
            self.change = 0.0
            return (x, *output[1:]) if isinstance(output, tuple) else x

        self.removers.append(attention.register_forward_pre_hook(before_attention, with_kwargs=True))
        if joints.between:
            self.removers.append(block.get_submodule(joints.between).register_forward_pre_hook(between))
        end = block.get_submodule(joints.end) if joints.end else block
        self.removers.append(end.register_forward_hook(after, prepend=True))

    def merge(self, x: Tensor, index: int) -> Tensor:
        """All tokens `(B,N,C)` with those that merge in this block replaced by their means."""
        batch, n = x.shape[:2]
        if self.place is None:
            self.place = np.tile(np.arange(n), (batch, 1))
            self.size = np.ones((batch, n))
        first = np.stack([np.unique(row, return_index=True)[1] for row in self.place])
        rows = np.arange(batch)[:, None]
        assert self.keys is not None
        merger = get_merger("tome", r=self.schedule[index], protected=self.prefix)
        given: dict[str, Any] = {} if self.mask is None else {"mask": self.mask.numpy()}
        out = merger(x.numpy()[rows, first], metric=self.keys.numpy()[rows, first], size=self.size, **given)
        self.size = out.size
        self.place = np.take_along_axis(np.asarray(out.plan.assignment), self.place, axis=1)
        return torch.from_numpy(np.asarray(out.tokens)[rows, self.place])

    def _averaged(self, table: Any, n: int) -> Any:
        """Positions of merged tokens are the mean of those of their patches; tokens in front may have none."""
        if not isinstance(table, Tensor):
            return type(table)([self._averaged(each, n) for each in table])
        assert self.place is not None
        front = n - table.shape[-2]
        per_image = []
        for row in self.place:
            one_hot = torch.from_numpy(np.equal.outer(row[front:], row[front:])).to(table.dtype)
            per_image.append(one_hot / one_hot.sum(1, keepdim=True) @ table)
        stacked = torch.stack(per_image)
        if len(per_image) == 1:
            return stacked[0]
        return stacked if stacked.ndim == 4 else stacked[:, None]


class ATS:
    """The same for ATS and one image: tokens that are not chosen leave after the block, for all that come."""

    def __init__(self, blocks: list[tuple[nn.Module, Joints]], max_tokens: list[int], prefix: int) -> None:
        self.removers: list[Any] = []
        self.prefix = prefix
        self.kept: list[int] | None = None  # of the tokens that came in
        for (block, joints), budget in zip_longest(blocks, max_tokens):
            self._hook(block, joints, budget)

    def _hook(self, block: nn.Module, joints: Joints, budget: int | None) -> None:
        attention, seen = block.get_submodule(joints.attention) if joints.attention else block, {}

        def before_attention(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            table = kwargs.get(joints.table) if joints.table else None
            if table is not None and self.kept is not None:
                kwargs = kwargs | {joints.table: self._of_kept(table)}
            x = args[0] if args else kwargs["hidden_states"]
            seen["heads"], seen["table"] = joints.heads(module, x), kwargs.get(joints.table) if joints.table else None
            return args, kwargs

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            if budget is None:
                return output
            x = output[0] if isinstance(output, tuple) else output
            if self.kept is None:
                self.kept, self.n = list(range(x.shape[1])), x.shape[1]
            q, k, v = seen["heads"]
            if seen["table"] is not None:
                q, k = joints.turn(attention, q, k, seen["table"])
            row = (q[:, :, :1] @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)[:, :, 0]
            kept = self.chosen(row.numpy(), v.numpy(), x.shape[1], budget)
            x, self.kept = x[:, kept], [self.kept[each] for each in kept]
            return (x, *output[1:]) if isinstance(output, tuple) else x

        self.removers.append(attention.register_forward_pre_hook(before_attention, with_kwargs=True))
        self.removers.append(block.register_forward_hook(after, prepend=True))

    def _of_kept(self, table: Any) -> Any:
        if not isinstance(table, Tensor):
            return type(table)([self._of_kept(each) for each in table])
        assert self.kept is not None
        front = self.n - table.shape[-2]
        return table[..., [each - front for each in self.kept if each >= front], :]

    def chosen(self, row: np.ndarray, value: np.ndarray, n: int, budget: int) -> list[int]:
        """The tokens that stay. Tokens in front beside the class token always do, and take no part."""
        if n - self.prefix <= budget:
            return list(range(n))
        extra = self.prefix - 1
        there = [0, *range(self.prefix, n)]
        merger = get_merger("ats", max_tokens=budget)
        x = np.arange(n, dtype=float)[None, there, None]
        out = merger(x, attn=row[:, :, there], value=value[:, :, there])
        mask = np.ones(out.tokens.shape[:2], bool) if out.mask is None else np.asarray(out.mask)
        chosen = [int(each) for each in np.asarray(out.tokens)[0, mask[0], 0]]
        return [0, *range(1, 1 + extra), *chosen[1:]]


@contextmanager
def hooked(oracle: ToMe | ATS) -> Iterator[ToMe | ATS]:
    """Take the hooks off at the end."""
    try:
        yield oracle
    finally:
        for remover in oracle.removers:
            remover.remove()
