"""The vision transformer around the mergers: where each one sits, and what sizes and masks do there (docs/vit.md).

A block is `x + LS(attention(norm1(x)))`, then `x + LS(MLP(norm2(x)))`, as in timm.

- ToMe merges between the two, by the keys averaged over heads (after `qk_norm`); from then on attention is proportional
  unless it was switched off (ToMe, section 3).
- ATS sits inside the attention: the class row scores the tokens, only the chosen ones attend, and the residual stream
  keeps the same ones. Distillation and register tokens are always kept and take no part in the sampling.
- LTM merges between the two, by the residual stream; its mask is the next one's prior where the shapes repeat.
- PatchMerger sits between two blocks. Its tokens are answers to queries, not groups of patches: sizes start again at
  one and pooling is their plain mean.

ToMe and LTM can act around a branch instead: only that branch works on merged tokens, and the stream keeps all of them.
With `W` the plan and `U` its share matrix, `f` the MLP's branch with its norm and LayerScale, and `b` the whole block,
its own residual sums included:

Rules:
    VIT-1: Around the MLP a block gives x1 + U f(W x1), with x1 the stream after attention; ToMe plans by the keys of
        the block, LTM by x1.
    VIT-2: Around a block it gives x + U (b(W x) - W x); the plan is made from the input x, by ToMe as well.
    VIT-3: Inside a block that a plan acts around sizes and mask are those of the merged tokens, and attention is
        proportional where that is switched on.
    VIT-4: After a block that a plan acts around, or whose MLP one does, the sizes and the mask of the stream are what
        they were before it.
    VIT-5: LTM's mask is the prior of the next one, in the stream and around branches, where the shapes repeat and no
        token is padding.
    VIT-6: Restored tokens are U x with the composed plan of the stream, made before the last norm; each counts one
        and a token that was dropped is zero.

Inference only: dropout and stochastic depth belong to the frameworks that train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tokenmerge.spec.attention import attention, attention_weights
from tokenmerge.spec.patch_merger import layer_norm
from tokenmerge.spec.plan import Plan, SelectionPlan
from tokenmerge.spec.pooling import mean_pool
from tokenmerge.spec.precision import working_dtype
from tokenmerge.spec.shared.calls import Calls
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_steps import Step, drops, steps
from tokenmerge.spec.stream import Stream, ViTOutput, clear, compose_stream, restored

Array = np.ndarray[Any, Any]
Params = Mapping[str, Array]
check = Calls(np.ndarray, batched=False)


def vit(image: Array, params: Params, config: ViTConfig) -> ViTOutput:
    """Run the network on one image.

    Args:
        image: `(height, width, channels)` floating point, of the configured size.
        params: every parameter, as `tokenmerge.spec.shared.vit_parameters.parameter_shapes` names them.
        config: the network.

    Returns:
        `ViTOutput`.

    Raises:
        TypeError, ValueError: an image of another type or shape, or a configuration that contradicts itself.

    >>> from tokenmerge import ToMeMerging
    >>> from tokenmerge.spec.shared.vit_parameters import initial_parameters
    >>> config = ViTConfig(image_size=16, patch_size=4, dim=8, depth=2, heads=2, merging=ToMeMerging(r=4))
    >>> out = vit(np.ones((16, 16, 3)), initial_parameters(config), config)
    >>> out.logits.shape, out.tokens.shape, float(out.size.sum())
    ((1000,), (9, 8), 17.0)
    """
    check.array("vit", "image", image, "height width channels", **config.image_axes)
    stream = Stream(embed(image, params, config))
    plans, sizes = [], []
    for index, step in enumerate(steps(config)):
        sizes.append(stream.size)
        stream, plan = block(stream, part(params, f"blocks.{index}."), config, step)
        plans.append(plan)
    around = tuple(step.around for step in steps(config))
    composed = compose_stream(plans, sizes, around) if config.restore else None
    if composed is not None:
        stream = restored(stream, composed, drops(config))
    logits, tokens = head(stream, params, config)
    return ViTOutput(logits, tokens, stream.size, stream.mask, tuple(plans), tuple(sizes), around)


def embed(image: Array, params: Params, config: ViTConfig) -> Array:
    """Patches row by row through one linear map, tokens in front, position embedding: `(N,C)`."""
    (rows, columns), p = config.grid, config.patch_size
    patches = image.reshape(rows, p, columns, p, config.channels).transpose(0, 2, 4, 1, 3)  # channel, row, column
    weight = params["patch_embed.proj.weight"].reshape(config.dim, -1)
    x = linear(patches.reshape(rows * columns, -1), weight, params.get("patch_embed.proj.bias"))
    names = [name for name in ("cls_token", "dist_token", "reg_token") if name in params]
    if config.no_embed_class:
        x = x + params["pos_embed"][0]
    x = np.concatenate([*(params[name][0] for name in names), x])
    if not config.no_embed_class:
        x = x + params["pos_embed"][0]
    return norm(x, params, "norm_pre", config) if config.pre_norm else x


def block(stream: Stream, params: Params, config: ViTConfig, step: Step) -> tuple[Stream, Plan | None]:
    """One block and its merger."""
    if step.around == "block":
        return block_of_merged(stream, params, config, step)
    x, size, mask, prior = stream
    plan: Plan | None = None
    query, key, value = heads(norm(x, params, "norm1", config), params, config)
    counted = size if step.proportional else None
    if step.place == "attention":
        row = attention_weights(query[:, :1], key, size=counted, mask=mask)[:, 0]
        plan = sample(step, row, value, mask)
        query = np.stack([plan.merge(one) for one in query])
    attended = attention(query, key, value, size=counted, mask=mask)
    attended = attended.transpose(1, 0, 2).reshape(-1, config.dim)
    branch = scale(linear(attended, params["attn.proj.weight"], params["attn.proj.bias"]), params, "ls1.gamma")
    if plan is not None:
        stream = merged(plan, Stream(x, size, mask, prior))
        stream = stream._replace(x=stream.x + branch)  # of the chosen tokens only
    else:
        stream = Stream(x + branch, size, mask, prior)
    inner = stream
    if step.place == "mlp":
        plan, inner = decide(step, stream, params, key)
    hidden = gelu(linear(norm(inner.x, params, "norm2", config), params["mlp.fc1.weight"], params["mlp.fc1.bias"]))
    branch = scale(linear(hidden, params["mlp.fc2.weight"], params["mlp.fc2.bias"]), params, "ls2.gamma")
    if step.around == "mlp":
        assert plan is not None
        return stream._replace(x=stream.x + plan.unmerge(branch), prior=inner.prior), plan
    stream = inner._replace(x=inner.x + branch)
    if step.place == "block":
        plan, stream = decide(step, stream, params, key)
    return stream, plan


def block_of_merged(stream: Stream, params: Params, config: ViTConfig, step: Step) -> tuple[Stream, Plan]:
    """The whole block on merged tokens: `x + U (b(W x) - W x)`."""
    plan, inner = decide(step, stream, params, stream.x[None])  # ToMe reads the tokens as the keys of one head
    after, _ = block(inner, params, config, step.inside)
    return stream._replace(x=stream.x + plan.unmerge(after.x - inner.x), prior=inner.prior), plan


def decide(step: Step, stream: Stream, params: Params, key: Array) -> tuple[Plan, Stream]:
    """The plan of a block's merger from what it reads, keys `(H,N,d)` or tokens, and the merged stream."""
    merger = step.description
    assert merger is not None
    x, size, mask, prior = stream
    if "x" in merger.inputs:
        x = clear(x, mask)
    sources = {"x": x, "metric": key.astype(working_dtype(key.dtype)).mean(axis=0)}
    learned = {name: params[f"merger.{name}"] for name in merger.parameters}
    given = {"prior": prior} if step.chained else {}
    options = dict(step.options)
    plan = merger.plan(*(sources[name] for name in merger.inputs), mask=mask, **learned, **options, **given)
    if merger.hand_on is not None:
        prior = merger.hand_on(plan, options["protected"])
    if merger.values is not None:
        return plan, Stream(plan.merge(merger.values(x, mask, **learned)).astype(x.dtype), None, None, prior)
    return plan, merged(plan, Stream(x, size, mask, prior))


def merged(plan: Plan, stream: Stream) -> Stream:
    """The tokens through a plan, sizes and mask with them."""
    x, size, _, prior = stream
    size = np.ones(len(x), working_dtype(x.dtype)) if size is None else size  # no coarser than the tokens
    return Stream(plan.merge(x, size), plan.merge_size(size), plan.mask, prior)


def sample(step: Step, row: Array, value: Array, mask: Array | None) -> SelectionPlan:
    """ATS on the class token and the patches; the other tokens in front are kept and not scored.

    Args:
        row: `(H,N)`, the class token's attention; value: `(H,N,d)`; mask: `(N,)`.
    """
    assert step.description is not None
    seen = np.r_[0, step.prefix : row.shape[1]]
    seen_mask = None if mask is None else mask[seen]
    plan = step.description.plan(row[:, seen], value[:, seen], mask=seen_mask, **dict(step.options))
    assert plan.mask is not None
    others = np.arange(1, step.prefix)
    indices = np.concatenate([[0], others, np.where(plan.mask, plan.indices + step.prefix - 1, 0)[1:]])
    filled = np.concatenate([plan.mask[:1], np.ones(len(others), bool), plan.mask[1:]])
    return SelectionPlan(indices.astype(int), filled, row.shape[1])


def head(stream: Stream, params: Params, config: ViTConfig) -> tuple[Array, Array]:
    """Last norm, pooling and classifier: logits and tokens."""
    x = stream.x if config.pools_before_norm else norm(stream.x, params, "norm", config)
    x = clear(x, stream.mask)
    if config.pool == "mean":
        first = config.prefix_tokens if config.restore else steps(config)[-1].prefix_out
        pooled = mean_pool(
            x[first:],
            size=None if stream.size is None else stream.size[first:],
            mask=None if stream.mask is None else stream.mask[first:],
        )
    else:
        pooled = x[0]
    if config.pools_before_norm:
        pooled = norm(pooled[None], params, "fc_norm", config)[0]
    if not config.num_classes:
        return pooled, x
    logits = linear(pooled[None], params["head.weight"], params["head.bias"])[0]
    if config.distillation_token:  # the mean of both classifiers, as in DeiT
        logits = (logits + linear(x[1:2], params["head_dist.weight"], params["head_dist.bias"])[0]) / 2
    return logits, x


def heads(x: Array, params: Params, config: ViTConfig) -> tuple[Array, Array, Array]:
    """Queries, keys and values `(H,N,d)`."""
    qkv = linear(x, params["attn.qkv.weight"], params.get("attn.qkv.bias"))
    query, key, value = qkv.reshape(len(x), 3, config.heads, config.head_dim).transpose(1, 2, 0, 3)
    if config.qk_norm:
        query, key = (
            np.stack([norm(one, params, name, config) for one in each])
            for each, name in ((query, "attn.q_norm"), (key, "attn.k_norm"))
        )
    return query, key, value


def part(params: Params, prefix: str) -> dict[str, Array]:
    """The parameters below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """`x W^T + b`."""
    return x @ weight.T if bias is None else x @ weight.T + bias


def norm(x: Array, params: Params, name: str, config: ViTConfig) -> Array:
    """LayerNorm, in the dtype of `x`."""
    return layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"], eps=config.norm_eps).astype(x.dtype)


def scale(x: Array, params: Params, name: str) -> Array:
    """LayerScale, where the network has it."""
    return x * params[name] if name in params else x


def gelu(x: Array) -> Array:
    """`x Phi(x)` with the exact normal distribution function.

    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    erf = np.vectorize(math.erf, otypes=[x.dtype])
    return x * (erf(x / math.sqrt(2)) + 1) / 2
