"""The hooks, in the order in which a block runs them. Each is a function of this module with its first arguments bound,
so that a patched model can be copied and pickled.

A block's own code stays as it is: `x = x + A(x)`, then `x + M(x)`. Between the two, the hook before the second norm
takes `x`, merges it to `y` and hands `y` on. `M(y)` has fewer tokens than the block's `x`, so the hook at the end of
that branch keeps it and gives the block a zero to add; the hook after the block then returns `y + M(y)`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch import tome
from tokenmerge.backends.torch.ats import ATS
from tokenmerge.backends.torch.attention import attention_weights
from tokenmerge.backends.torch.ltm import LTM, chain
from tokenmerge.backends.torch.patch.merging import Merging
from tokenmerge.backends.torch.patch.state import Run, State
from tokenmerge.backends.torch.pooling import mean_pool
from tokenmerge.backends.torch.precision import working_dtype
from tokenmerge.backends.torch.vit import sample
from tokenmerge.spec.schedule import ltm_tokens_out

Tensor = torch.Tensor


def before_first_block(run: Run, module: nn.Module, args: Any) -> None:
    """A forward pass begins."""
    run.begin()


def before_block(run: Run, module: Any, args: Any) -> None:
    """A learned merger is read from the block that runs, which may be a replica."""
    run.state.merger = module.merger


def before_attention(
    run: Run,
    merging: Merging,
    index: int,
    family: str,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Sizes and mask go into the logits; rotary tables follow the tokens; ATS chooses here."""
    state = run.state
    state.in_mlp, state.plan = False, None
    kwargs = dict(kwargs)
    x = kwargs["hidden_states"] if not args else args[0]
    name = "attn_mask" if family == "timm" else "attention_mask"
    given = args[1] if len(args) > 1 else kwargs.get(name)
    rope = kwargs.get("rope")
    if rope is not None and state.source is not None:
        kwargs["rope"] = rope = _follow(rope, state, merging.prefix)
    bias = state.bias(merging.proportional, x.dtype)
    if bias is not None and given is not None:
        raise ValueError(f"patch: `{name}` must be None where tokens have merged, got a mask for all of them")
    budget = merging.budgets[index] if merging.name == "ats" else None
    if budget is not None and x.shape[1] - merging.prefix > budget:
        _attend_chosen(state, merging, budget, _family(family), module, x, rope, bias)
        # the attention's own code only gets the class token to see, and `after_attention` has the result
        args, kwargs = ((x[:, :1],), kwargs) if args else ((), kwargs | {"hidden_states": x[:, :1]})
        return args, {key: None if key in (name, "rope") else value for key, value in kwargs.items()}
    if bias is not None:
        args, kwargs = args[:1], kwargs | {name: bias}
    return args, kwargs


def after_keys(run: Run, family: str, head_dim: int, module: nn.Module, args: Any, output: Tensor) -> None:
    """ToMe compares the keys, averaged over heads, before any rotation."""
    run.state.metric = _family(family).metric(head_dim, output.to(working_dtype(output)))


def after_attention(run: Run, family: str, module: nn.Module, args: Any, output: Any) -> Any:
    """What the chosen queries saw, in place of what the class token saw."""
    seen = run.state.attended
    if seen is None:
        return None
    return (seen, None) if isinstance(output, tuple) else seen


def end_of_branch(run: Run, module: nn.Module, args: Any, output: Any) -> Any:
    """Keep what the branch gives where the block's own `x` has another number of tokens, and give it a zero to add."""
    state = run.state
    first = output[0] if isinstance(output, tuple) else output
    if state.in_mlp and state.merged is not None:
        state.branch = first
    elif not state.in_mlp and state.chosen is not None:
        state.attended = first
    else:
        return None
    zero = first.new_zeros(())
    return (zero, *output[1:]) if isinstance(output, tuple) else zero


def before_second_norm(run: Run, merging: Merging, index: int, module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Between attention and MLP: the residual stream is merged."""
    state = run.state
    state.in_mlp = True
    x = args[0]
    if state.chosen is not None:
        assert state.attended is not None
        plan, size = state.chosen, state.sizes(x)
        merged = plan.merge(x, size) + state.attended
        state.chosen = state.attended = None
    elif merging.name == "tome":
        assert state.metric is not None
        size, r = state.sizes(x), merging.r[index]
        if r == 0 or x.shape[1] - merging.protected < 2:
            return None
        plan = tome.plan(state.metric, r=r, protected=merging.protected, order=merging.config.order, mask=state.mask)
        merged = plan.merge(x, size)
    elif merging.name == "ltm":
        ltm = state.merger
        assert isinstance(ltm, LTM)
        size = state.sizes(x)
        plan = ltm.plan(x, prior=_prior(state, ltm, x), mask=state.mask)
        state.prior = chain(plan, ltm.protected)
        merged = plan.merge(x, size)
    else:
        return None
    state.follow(plan, size)
    state.merged, state.metric = merged, None
    return (merged, *args[1:])


def after_block(run: Run, merging: Merging, index: int, last: bool, module: Any, args: Any, output: Any) -> Any:
    """The block's sum, of the merged tokens; PatchMerger follows its block."""
    state = run.state
    x = output[0] if isinstance(output, tuple) else output
    if state.merged is not None:
        assert state.branch is not None
        x = state.merged + state.branch
        state.merged = state.branch = None
    if merging.name == "patch_merger" and index == merging.layer:
        before = state.sizes(x)
        x, _, _, plan = module.merger(x, mask=state.mask)
        state.follow(plan, before)
        state.size = state.mask = None  # answers to queries, not groups of patches: each counts one
    state.plans.append(state.plan)
    state.plan = None
    if last:
        state.tokens = x
        run.end()
    return (x, *output[1:]) if isinstance(output, tuple) else x


# After the last block


def after_sequence(run: Run, module: nn.Module, args: Any, output: Any) -> None:
    """Remember the tokens that the network averages."""
    if run.last is not None:
        run.last.tokens = output if isinstance(output, Tensor) else output[0]


def before_head(
    run: Run, merging: Merging, after_class: bool, module: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    """The mean that the network took, weighted by size; untouched where every token counts one."""
    state = run.last
    if state is None or state.source is None or state.tokens is None:
        return None
    x = state.tokens
    first = 0 if merging.name == "patch_merger" else merging.prefix
    size = None if state.size is None else state.size[:, first:]
    mask = None if state.mask is None else state.mask[:, first:]
    mean = mean_pool(x[:, first:], size=size, mask=mask).to(args[0].dtype)
    pooled = torch.cat([args[0][:, : x.shape[-1]], mean], dim=-1) if after_class else mean
    state.tokens = None
    return (pooled, *args[1:])


def before_attention_pool(
    run: Run, merging: Merging, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Pooling by attention counts a token as often as it has patches."""
    state = run.last
    if state is None or state.source is None:
        return None
    x = args[0]
    bias = state.bias(True, x.dtype)
    if bias is None:
        return None
    first = bias.shape[-1] - (args[1] if isinstance(module, nn.MultiheadAttention) else x).shape[1]
    bias = bias[..., first:]  # a network may keep the tokens in front from its pooling
    if isinstance(module, nn.MultiheadAttention):  # it wants a row for every head of every sample
        b, heads = bias.shape[0], module.num_heads
        bias = bias.expand(b, heads, x.shape[1], bias.shape[-1]).reshape(b * heads, x.shape[1], -1)
    return args, {**kwargs, "attn_mask": bias}


def _attend_chosen(
    state: State,
    merging: Merging,
    budget: int,
    family: ModuleType,
    module: nn.Module,
    x: Tensor,
    rope: Tensor | None,
    bias: Tensor | None,
) -> None:
    """ATS: score the class row, choose, and attend with the chosen queries only."""
    query, key, value = family.heads(module, x, rope)
    scale = getattr(module, "scale", getattr(module, "scaling", None))
    row = attention_weights(query[:, :, :1], key, mask=state.mask, scale=scale)[:, :, 0]
    plan = sample(ATS(budget, merging.config.score), row, value, merging.prefix, state.mask)
    query = torch.stack([plan.merge(one) for one in query.unbind(1)], dim=1)
    bias = None if bias is None else bias.to(query.dtype)
    seen = nn.functional.scaled_dot_product_attention(
        query, key, value, bias, dropout_p=family.dropout(module), scale=scale
    )
    state.chosen, state.attended = plan, family.project(module, seen, plan.merge(x))


def _prior(state: State, merger: LTM, x: Tensor) -> Tensor | None:
    """The mask of the LTM before, where the shapes repeat."""
    n = x.shape[1] - merger.protected
    if state.prior is None or state.mask is not None or state.prior.shape[1] != n:
        return None
    return state.prior if state.prior.shape[2] == ltm_tokens_out(n, merger.compression_ratio) else None


def _follow(rope: Tensor, state: State, prefix: int) -> Tensor:
    """Rotary tables `(N,2d)` of the patches, merged as their tokens were: `(B,1,P,2d)`."""
    assert state.source is not None
    batch = state.source._batch
    table = rope.reshape(-1, *rope.shape[-2:])[-1] if rope.ndim == 3 and rope.shape[0] == 1 else rope
    if table.ndim != 2:
        raise ValueError(f"patch: `rope` must be one table for all samples and heads, got shape {tuple(rope.shape)}")
    table = torch.cat([table.new_zeros((prefix, table.shape[-1])), table])
    return state.source.merge(table.expand(batch, *table.shape))[:, None, prefix:]


def _family(name: str) -> ModuleType:
    if name == "timm":
        from tokenmerge.backends.torch.patch import timm

        return timm
    from tokenmerge.backends.torch.patch import transformers

    return transformers
