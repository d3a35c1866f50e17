"""The vision transformer of `tokenmerge.spec.vit`, as a pure function (docs/vit.md).

Shapes depend on the configuration alone, so the network is one compilation per shape of the images. Decisions are made
in float32 at least; layers have the dtype and the precision that they are told. Attention goes by blocks of queries;
the only row that ATS needs is the class token's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenmerge.backends.jax.attention import attention_weights
from tokenmerge.backends.jax.batches import ones, repeat
from tokenmerge.backends.jax.blockwise import blockwise_attention
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.dropout import Dropout
from tokenmerge.backends.jax.mergers import MERGERS
from tokenmerge.backends.jax.numerics import floating, precision_name, told
from tokenmerge.backends.jax.patch_merger import layer_norm
from tokenmerge.backends.jax.plan import Plan, SelectionPlan, compose_layers, merge_with_size
from tokenmerge.backends.jax.pooling import mean_pool
from tokenmerge.backends.jax.precision import layer_matmul, working_dtype
from tokenmerge.backends.jax.pytrees import Blocks, Static
from tokenmerge.backends.jax.stream import Stream, ViTOutput, clear, restored, stream_plans
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_parameters import is_merger_parameter
from tokenmerge.spec.shared.vit_steps import Step, drops, steps

Array = jax.Array
Params = Mapping[str, Array]


def vit(
    images: Array,
    params: Params,
    config: ViTConfig,
    key: Array | None = None,
    *,
    dtype: Any = None,
    precision: Any = None,
    remat: bool = False,
) -> ViTOutput:
    """Run the network.

    Args:
        images: `(B, height, width, channels)` floating point, of the configured size, taken in `dtype`.
        params: every parameter, as `tokenmerge.spec.shared.vit_parameters.parameter_shapes` names them.
        config: the network, static under `jax.jit`.
        key: a PRNG key, in training: then dropout and stochastic depth act. None for inference.
        dtype, precision, remat: as in `ViT`.

    Returns:
        `ViTOutput`.

    Raises:
        TypeError, ValueError: images of another type or shape, or a configuration that contradicts itself.

    >>> from tokenmerge.backends.jax.initializers import drawn_parameters
    >>> config = ViTConfig(image_size=8, patch_size=4, dim=8, depth=1, heads=2, num_classes=3)
    >>> params = drawn_parameters(config, lambda: jax.random.key(0))
    >>> vit(jnp.ones((2, 8, 8, 3)), params, config).logits.shape
    (2, 3)
    """
    check.array("vit", "images", images, "B height width channels", **config.image_axes)
    params = in_dtype(params, floating("vit", "dtype", dtype))
    with told(precision_name("vit", precision)):
        return _run(jnp.asarray(images).astype(params["pos_embed"].dtype), params, config, key, remat)


def _run(images: Array, params: Params, config: ViTConfig, key: Array | None, remat: bool) -> ViTOutput:
    stream = Stream(embed(images, params, config, Dropout(None if key is None else jax.random.fold_in(key, 0))))
    plans: list[Plan | None] = []
    sizes: list[Array | None] = []
    for index, step in enumerate(steps(config)):  # not a scan: shapes change from block to block
        sizes.append(stream.size)
        run = partial(block, config=config, step=step, path=config.drop_path_rate(index))
        own = None if key is None else jax.random.fold_in(key, index + 1)
        stream, plan = (jax.checkpoint(run) if remat else run)(stream, part(params, f"blocks.{index}."), own)
        plans.append(plan)
    around = Static(step.around for step in steps(config))
    moves = stream_plans(plans, sizes, around) if config.restore else []
    if moves:
        stream = restored(stream, compose_layers(moves), drops(config))
    logits, tokens = head(stream, params, config)
    return ViTOutput(logits, tokens, stream.size, stream.mask, Blocks(plans), Blocks(sizes), around)


def in_dtype(params: Params, dtype: np.dtype[Any] | None) -> Params:
    """The parameters of layers in a dtype; those of norms and mergers, which work in float32, stay as they are."""
    if dtype is None:
        return params
    kept = {name for name in params if "norm" in name or is_merger_parameter(name)}
    return {name: value if name in kept else value.astype(dtype) for name, value in params.items()}


def embed(images: Array, params: Params, config: ViTConfig, drop: Dropout) -> Array:
    """Patches row by row through one linear map, tokens in front, position embedding: `(B,N,C)`."""
    b, (rows, columns), p = images.shape[0], config.grid, config.patch_size
    # one axis at a time, as a mesh with explicit axes asks for
    split = images.reshape(b, rows, p, columns * p, config.channels).reshape(b, rows, p, columns, p, config.channels)
    weight = params["patch_embed.proj.weight"].reshape(config.dim, -1)  # channel, row, column
    patches = split.transpose(0, 1, 3, 5, 2, 4).reshape(b, rows, columns, weight.shape[1])
    patches = patches.reshape(b, rows * columns, weight.shape[1])
    x = linear(patches, weight, params.get("patch_embed.proj.bias"))
    names = [name for name in ("cls_token", "dist_token", "reg_token") if name in params]
    if config.no_embed_class:
        x = x + params["pos_embed"]
    x = jnp.concatenate([*(repeat(params[name][0], x) for name in names), x], axis=1)
    if not config.no_embed_class:
        x = x + params["pos_embed"]
    x = drop(x, config.emb_dropout)
    return norm(x, params, "norm_pre", config) if config.pre_norm else x


def block(
    stream: Stream, params: Params, rng: Array | None, *, config: ViTConfig, step: Step, path: float
) -> tuple[Stream, Plan | None]:
    """One block and its merger; `rng` is its key in training, `path` its rate of stochastic depth."""
    if step.around == "block":
        return block_of_merged(stream, params, rng, config, step, path)
    x, size, mask, _ = stream
    drop = Dropout(rng)
    plan: Plan | None = None
    query, key, value = heads(norm(x, params, "norm1", config), params, config)
    counted = size if step.proportional else None
    if step.place == "attention":
        row = attention_weights(query[:, :, :1], key, size=counted, mask=mask)[:, :, 0]
        plan = sample(partial(MERGERS[step.merger].FUNCTION, **dict(step.options)), step.prefix, row, value, mask)
        query = take_queries(query, plan)
    rate = config.attn_dropout
    attended = blockwise_attention(query, key, value, size=counted, mask=mask, rate=rate, rng=drop.next_key(rate))
    attended = jnp.swapaxes(attended, 1, 2).reshape(x.shape[0], query.shape[2], config.dim)
    branch = drop(linear(attended, params["attn.proj.weight"], params["attn.proj.bias"]), config.dropout)
    branch = drop.path(scale(branch, params, "ls1.gamma"), path)
    if plan is not None:
        stream = merged(plan, stream)
    stream = stream._replace(x=stream.x + branch)  # of the chosen tokens only, if they are chosen
    inner = stream
    if step.place == "mlp":
        plan, inner = decide(step, stream, params, key)
    hidden = linear(norm(inner.x, params, "norm2", config), params["mlp.fc1.weight"], params["mlp.fc1.bias"])
    hidden = drop(jax.nn.gelu(hidden, approximate=False), config.dropout)
    branch = drop(linear(hidden, params["mlp.fc2.weight"], params["mlp.fc2.bias"]), config.dropout)
    branch = drop.path(scale(branch, params, "ls2.gamma"), path)
    if step.around == "mlp":
        assert plan is not None
        return stream._replace(x=stream.x + plan.unmerge(branch), prior=inner.prior), plan
    stream = inner._replace(x=inner.x + branch)
    if step.place == "block":
        plan, stream = decide(step, stream, params, key)
    return stream, plan


def block_of_merged(
    stream: Stream, params: Params, rng: Array | None, config: ViTConfig, step: Step, path: float
) -> tuple[Stream, Plan]:
    """The whole block on merged tokens: `x + U (b(W x) - W x)`."""
    plan, inner = decide(step, stream, params, stream.x[:, None])  # ToMe reads the tokens as the keys of one head
    after, _ = block(inner, params, rng, config=config, step=step.inside, path=path)
    return stream._replace(x=stream.x + plan.unmerge(after.x - inner.x), prior=inner.prior), plan


def decide(step: Step, stream: Stream, params: Params, key: Array) -> tuple[Plan, Stream]:
    """The plan of a block's merger from what it reads, keys `(B,H,N,d)` or tokens, and the merged stream."""
    assert step.description is not None
    merger, inputs = MERGERS[step.merger], step.description.inputs
    x, size, mask, prior = stream
    if "x" in inputs:
        x = clear(x, mask)
    sources = {"x": lambda: x, "metric": lambda: jnp.mean(key.astype(working_dtype(key)), axis=1)}
    learned = {name: params[f"merger.{name}"] for name in merger.PARAMETERS}
    given = {"prior": prior} if step.chained else {}
    options = dict(step.options)
    plan = merger.FUNCTION(*(sources[name]() for name in inputs), mask=mask, **learned, **options, **given)
    if merger.HAND_ON is not None:
        prior = merger.HAND_ON(plan, options["protected"])
    if merger.VALUES is not None:
        return plan, Stream(plan.merge(merger.VALUES(x, mask, **learned)).astype(x.dtype), None, None, prior)
    return plan, merged(plan, Stream(x, size, mask, prior))


def merged(plan: Plan, stream: Stream) -> Stream:
    """The tokens through a plan, sizes and mask with them."""
    x, size, _, prior = stream
    size = ones(x, working_dtype(x)) if size is None else size
    return Stream(*merge_with_size(plan, x, size), plan.mask, prior)


def sample(
    choose: Callable[..., SelectionPlan], prefix: int, row: Array, value: Array, mask: Array | None
) -> SelectionPlan:
    """ATS on the class token and the patches; the other tokens in front are kept and not scored.

    Args:
        choose: the plan of the class token and the patches; prefix: tokens in front of the patches.
        row: `(B,H,N)`, the class token's attention; value: `(B,H,N,d)`; mask: `(B,N)`.
    """
    if prefix == 1:  # nothing to leave out, nothing to copy
        return choose(row, value, mask=mask)
    n = row.shape[2]
    seen = np.r_[0, prefix:n]
    seen_mask = None if mask is None else mask[:, seen]
    plan = choose(row[:, :, seen], value[:, :, seen], mask=seen_mask)
    assert plan.mask is not None
    patches = jnp.where(plan.mask, plan.indices + prefix - 1, 0)[:, 1:]
    indices = jnp.concatenate([repeat(jnp.arange(prefix), row), patches], axis=1)
    others = repeat(jnp.ones(prefix - 1, bool), row)
    return SelectionPlan(indices, jnp.concatenate([plan.mask[:, :1], others, plan.mask[:, 1:]], axis=1), n)


def take_queries(query: Array, plan: SelectionPlan) -> Array:
    """The chosen queries `(B,H,P,d)` of `(B,H,N,d)`: rows of attention are independent, no other is computed."""
    b, h, n, d = query.shape
    flat = plan.merge(jnp.swapaxes(query, 1, 2).reshape(b, n, h * d))
    return jnp.swapaxes(flat.reshape(b, plan.num_tokens_out, h, d), 1, 2)


def head(stream: Stream, params: Params, config: ViTConfig) -> tuple[Array, Array]:
    """Last norm, pooling and classifier: logits and tokens."""
    x = stream.x if config.pools_before_norm else norm(stream.x, params, "norm", config)
    x = clear(x, stream.mask)
    if config.pool == "mean":
        first = config.prefix_tokens if config.restore else steps(config)[-1].prefix_out
        pooled = mean_pool(
            x[:, first:],
            size=None if stream.size is None else stream.size[:, first:],
            mask=None if stream.mask is None else stream.mask[:, first:],
        )
    else:
        pooled = x[:, 0]
    if config.pools_before_norm:
        pooled = norm(pooled, params, "fc_norm", config)
    if not config.num_classes:
        return pooled, x
    logits = linear(pooled, params["head.weight"], params["head.bias"])
    if config.distillation_token:  # the mean of both classifiers, as in DeiT
        logits = (logits + linear(x[:, 1], params["head_dist.weight"], params["head_dist.bias"])) / 2
    return logits, x


def heads(x: Array, params: Params, config: ViTConfig) -> tuple[Array, Array, Array]:
    """Queries, keys and values `(B,H,N,d)`."""
    # a product for each, so that heads which are spread over devices stay there
    split = (3, config.heads, config.head_dim)
    weight, bias = params["attn.qkv.weight"].reshape(*split, config.dim), params.get("attn.qkv.bias")
    query, key, value = (
        _head(x, weight[part], None if bias is None else bias.reshape(split)[part]) for part in range(3)
    )
    if config.qk_norm:
        query, key = norm(query, params, "attn.q_norm", config), norm(key, params, "attn.k_norm", config)
    return query, key, value


def _head(x: Array, weight: Array, bias: Array | None) -> Array:
    """`x W^T + b` for every head: `(B,H,N,d)` from `x (B,N,C)`, `weight (H,d,C)` and `bias (H,d)`."""
    b, n, c = x.shape
    heads, width, _ = weight.shape
    flat = None if bias is None else bias.reshape(heads * width)
    product = linear(x, weight.reshape(heads * width, c), flat)
    return jnp.swapaxes(product.reshape(b, n, heads, width), 1, 2)


def part(params: Params, prefix: str) -> dict[str, Array]:
    """The parameters below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """`x W^T + b`, in the dtype of `x`."""
    product = layer_matmul(x, weight.T)
    return (product if bias is None else product + bias).astype(x.dtype)


def norm(x: Array, params: Params, name: str, config: ViTConfig) -> Array:
    """LayerNorm over the last axis, in the dtype of `x`."""
    return layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"], eps=config.norm_eps).astype(x.dtype)


def scale(x: Array, params: Params, name: str) -> Array:
    """LayerScale, where the network has it."""
    return x * params[name] if name in params else x
