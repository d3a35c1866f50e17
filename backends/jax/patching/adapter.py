"""How a block of somebody's network is read: three functions, and from them a block that merges.

A block is `x1 = x + attention(norm(x))`, `x2 = x1 + mlp(norm(x1))`, however its parts are called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tokenmerge.backends.jax import tome
from tokenmerge.backends.jax.ats import ATS
from tokenmerge.backends.jax.attention import attention_weights
from tokenmerge.backends.jax.batches import ones
from tokenmerge.backends.jax.blockwise import blockwise_attention
from tokenmerge.backends.jax.ltm import LTM, chain
from tokenmerge.backends.jax.merger import Merger
from tokenmerge.backends.jax.patch_merger import PatchMerger
from tokenmerge.backends.jax.plan import Plan
from tokenmerge.backends.jax.precision import working_dtype
from tokenmerge.backends.jax.tome import ToMe
from tokenmerge.backends.jax.vit import sample, take_queries
from tokenmerge.spec.shared.schedule import ltm_tokens_out

Array = jax.Array


@dataclass(frozen=True)
class Adapter:
    """What a block of one class does, on `x (B,N,C)`.

    Attributes:
        heads: `(block, x, rotary, **options)` to queries, keys and values `(B,H,N,d)`, the norm before and rotary
            positions included; `options` are what the block is called with.
        after_attention: `(block, x, attended, **options)` to `x1`: projection, scales and residual connection, where
            `attended (B,N,C)` are the heads side by side.
        after_merging: `(block, x1, **options)` to `x2`: norm, MLP, scales and residual connection.
        width: `(block)` to C.
    """

    heads: Callable[..., tuple[Array, Array, Array]]
    after_attention: Callable[..., Array]
    after_merging: Callable[..., Array]
    width: Callable[[Any], int]


class Stream(NamedTuple):
    """What flows from block to block.

    Attributes:
        x: `(B,N,C)`. size, mask: `(B,N)`, None where every token counts one, and is real.
        rotary: tables `(B,N,d)` of all tokens that a block turns queries and keys by, or nothing.
        plans, sizes: of every block so far, as in `ViTOutput`.
        prefix: tokens in front of the patches.
        proportional: whether attention counts sizes.
        around: the branch that plans act around, "mlp" or "block", while all tokens stay; None for the stream.
        prior: the mask of the LTM before, which the next one starts from where the shapes repeat.
    """

    x: Array
    size: Array | None = None
    mask: Array | None = None
    rotary: tuple[Array, ...] = ()
    plans: tuple[Plan | None, ...] = ()
    sizes: tuple[Array | None, ...] = ()
    prefix: int = 1
    proportional: bool = True
    around: str | None = None
    prior: Array | None = None

    @property
    def merged(self) -> bool:
        """Whether there are fewer tokens than at first."""
        return self.around is None and any(plan is not None for plan in self.plans)

    def after(self, x: Array, plan: Plan | None, prior: Array | None) -> Stream:
        """The stream behind a block that has left it as long as it was."""
        return self._replace(x=x, plans=(*self.plans, plan), sizes=(*self.sizes, self.size), prior=prior)


def merging_block(adapter: Adapter, block: Any, merger: Merger | None, stream: Stream, **options: Any) -> Stream:
    """One block with its merger where it belongs: ATS in attention, ToMe and LTM after it, PatchMerger at the end."""
    if merger is not None and stream.around == "block":
        return _around_block(adapter, block, merger, stream, **options)
    x, size, mask, prior = stream.x, stream.size, stream.mask, stream.prior
    query, key, value = adapter.heads(block, x, stream.rotary, **options)
    counted = size if stream.proportional else None
    plan: Plan | None = None
    if isinstance(merger, ATS):
        row = attention_weights(query[:, :, :1], key, size=counted, mask=mask)[:, :, 0]
        if merger.max_tokens < x.shape[1] - stream.prefix:
            plan = sample(merger.plan, stream.prefix, row, value, mask)
            query, x = take_queries(query, plan), plan.merge(x)
    attended = blockwise_attention(query, key, value, size=counted, mask=mask)
    flat = jnp.swapaxes(attended, 1, 2).reshape(*x.shape[:2], attended.shape[1] * attended.shape[3])
    x = adapter.after_attention(block, x, flat, **options)
    if isinstance(merger, (ToMe, LTM)):
        plan, prior = _decide(merger, x, jnp.mean(key.astype(working_dtype(key)), axis=1), mask, prior)
    if plan is not None and stream.around == "mlp":
        inner = plan.merge(x, size)
        branch = adapter.after_merging(block, inner, **options) - inner
        return stream.after(x + plan.unmerge(branch), plan, prior)
    old = size
    if plan is not None:
        size = ones(stream.x, working_dtype(x)) if size is None else size
        x = x if isinstance(merger, ATS) else plan.merge(x, size)
        size, mask = (None if old is None and isinstance(merger, ATS) else plan.merge_size(size)), plan.mask
    x = adapter.after_merging(block, x, **options)
    if isinstance(merger, PatchMerger):
        out = merger(x, size=size, mask=mask)
        x, plan, size, mask = out.tokens, out.plan, None, None
    rotary = stream.rotary if plan is None else tuple(plan.merge(table, old) for table in stream.rotary)
    return stream.after(x, plan, prior)._replace(size=size, mask=mask, rotary=rotary)


def _decide(
    merger: ToMe | LTM, x: Array, metric: Array, mask: Array | None, prior: Array | None
) -> tuple[Plan, Array | None]:
    """The plan, and the mask for the next LTM."""
    if isinstance(merger, ToMe):
        return tome.plan(metric, r=merger.r, protected=merger.protected, order=merger.order, mask=mask), None
    patches = x.shape[1] - merger.protected
    repeats = prior is not None and prior.shape[1:] == (patches, ltm_tokens_out(patches, merger.compression_ratio))
    plan = merger.plan(x, prior=prior if repeats else None, mask=mask)
    return plan, chain(plan, merger.protected)


def _around_block(adapter: Adapter, block: Any, merger: Merger, stream: Stream, **options: Any) -> Stream:
    """The whole block on merged tokens: `x + U (b(W x) - W x)`; ToMe compares the tokens themselves."""
    assert isinstance(merger, (ToMe, LTM))
    x, size = stream.x, stream.size
    plan, prior = _decide(merger, x, x, stream.mask, stream.prior)
    tables = tuple(plan.merge(table, size) for table in stream.rotary)
    inner = Stream(plan.merge(x, size), plan.merge_size(size), plan.mask, tables, proportional=stream.proportional)
    after = merging_block(adapter, block, None, inner, **options)
    return stream.after(x + plan.unmerge(after.x - inner.x), plan, prior)
