"""The vision transformer of `tokenmerge.spec.vit`, vectorized over the batch (docs/vit.md). Inference only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import erf

from tokenmerge.backends.numpy.attention import attention, attention_weights
from tokenmerge.backends.numpy.check import check
from tokenmerge.backends.numpy.mergers import MERGERS
from tokenmerge.backends.numpy.patch_merger import layer_norm
from tokenmerge.backends.numpy.plan import Plan, SelectionPlan, compose_layers
from tokenmerge.backends.numpy.pooling import mean_pool
from tokenmerge.backends.numpy.precision import working_dtype
from tokenmerge.backends.numpy.stream import Stream, ViTOutput, clear, restored, stream_plans
from tokenmerge.spec.shared.arguments import parameter
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_parameters import check_parameters, initial_parameters
from tokenmerge.spec.shared.vit_steps import Step, drops, steps

Array = np.ndarray[Any, Any]
Params = Mapping[str, Array]


class ViT:
    """A vision transformer with mergers in its blocks; the semantics are those of `tokenmerge.spec.vit`.

    Args:
        config: the network.
        seed: of the first parameters, which are the same in every backend.

    Raises:
        ValueError: a configuration that contradicts itself.

    >>> from tokenmerge import ToMeMerging
    >>> small = dict(image_size=32, patch_size=4, dim=16, depth=2, heads=2, num_classes=5)
    >>> out = ViT(ViTConfig(**small, merging=ToMeMerging(r=8)))(np.zeros((1, 32, 32, 3), np.float32))
    >>> out.logits.shape, out.tokens.shape, out.plan.unmerge(out.tokens).shape
    ((1, 5), (1, 49, 16), (1, 65, 16))
    """

    def __init__(self, config: ViTConfig, seed: int = 0) -> None:
        steps(config)  # a contradiction shows here, and not in the first call
        self.config, self._params = config, initial_parameters(config, seed)

    def params(self) -> dict[str, Array]:
        """The parameters by timm's names, as copies."""
        return {name: value.copy() for name, value in self._params.items()}

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Take a timm state dict of NumPy arrays or of anything that `numpy.asarray` reads, in its own precision.

        A learned merger's parameters may all be missing and keep their values then.

        Raises:
            TypeError, ValueError: names that are missing, unexpected or of the wrong shape; nothing is changed then.
        """
        check_parameters(self.config, params)
        self._params |= {name: parameter("vit", name, value) for name, value in params.items()}

    def __call__(self, images: Array) -> ViTOutput:
        """Images `(B, height, width, channels)`, taken in the precision of the parameters, see `vit`."""
        check.array("vit", "images", images, "B height width channels", **self.config.image_axes)
        return vit(images.astype(self._params["pos_embed"].dtype, copy=False), self._params, self.config)


def vit(images: Array, params: Params, config: ViTConfig) -> ViTOutput:
    """Run the network.

    Args:
        images: `(B, height, width, channels)` floating point, of the configured size.
        params: every parameter, as `tokenmerge.spec.shared.vit_parameters.parameter_shapes` names them.
        config: the network.

    Returns:
        `ViTOutput`.

    Raises:
        TypeError, ValueError: images of another type or shape, or a configuration that contradicts itself.

    >>> config = ViTConfig(image_size=8, patch_size=4, dim=8, depth=1, heads=2, num_classes=3)
    >>> vit(np.ones((2, 8, 8, 3)), initial_parameters(config), config).logits.shape
    (2, 3)
    """
    check.array("vit", "images", images, "B height width channels", **config.image_axes)
    stream = Stream(embed(images, params, config))
    plans: list[Plan | None] = []
    sizes: list[Array | None] = []
    for index, step in enumerate(steps(config)):
        sizes.append(stream.size)
        stream, plan = block(stream, part(params, f"blocks.{index}."), config, step)
        plans.append(plan)
    around = tuple(step.around for step in steps(config))
    moves = stream_plans(plans, sizes, around) if config.restore else []
    if moves:
        stream = restored(stream, compose_layers(moves), drops(config))
    logits, tokens = head(stream, params, config)
    return ViTOutput(logits, tokens, stream.size, stream.mask, tuple(plans), tuple(sizes), around)


def embed(images: Array, params: Params, config: ViTConfig) -> Array:
    """Patches row by row through one linear map, tokens in front, position embedding: `(B,N,C)`."""
    b, (rows, columns), p = len(images), config.grid, config.patch_size
    patches = images.reshape(b, rows, p, columns, p, config.channels).transpose(0, 1, 3, 5, 2, 4)
    weight = params["patch_embed.proj.weight"].reshape(config.dim, -1)  # channel, row, column
    x = linear(patches.reshape(b, rows * columns, weight.shape[1]), weight, params.get("patch_embed.proj.bias"))
    names = [name for name in ("cls_token", "dist_token", "reg_token") if name in params]
    if config.no_embed_class:
        x = x + params["pos_embed"]
    x = np.concatenate([*(np.broadcast_to(params[n], (b, *params[n].shape[1:])) for n in names), x], axis=1)
    if not config.no_embed_class:
        x = x + params["pos_embed"]
    return norm(x, params, "norm_pre", config) if config.pre_norm else x


def block(stream: Stream, params: Params, config: ViTConfig, step: Step) -> tuple[Stream, Plan | None]:
    """One block and its merger."""
    if step.around == "block":
        return block_of_merged(stream, params, config, step)
    x, size, mask, _ = stream
    plan: Plan | None = None
    query, key, value = heads(norm(x, params, "norm1", config), params, config)
    counted = size if step.proportional else None
    if step.place == "attention":
        row = attention_weights(query[:, :, :1], key, size=counted, mask=mask)[:, :, 0]
        plan = sample(step, row, value, mask)
        query = take_queries(query, plan)
    attended = attention(query, key, value, size=counted, mask=mask)
    attended = np.swapaxes(attended, 1, 2).reshape(len(x), query.shape[2], config.dim)
    branch = scale(linear(attended, params["attn.proj.weight"], params["attn.proj.bias"]), params, "ls1.gamma")
    if plan is not None:
        stream = merged(plan, stream)
    stream = stream._replace(x=stream.x + branch)  # of the chosen tokens only, if they are chosen
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
    plan, inner = decide(step, stream, params, stream.x[:, None])  # ToMe reads the tokens as the keys of one head
    after, _ = block(inner, params, config, step.inside)
    return stream._replace(x=stream.x + plan.unmerge(after.x - inner.x), prior=inner.prior), plan


def decide(step: Step, stream: Stream, params: Params, key: Array) -> tuple[Plan, Stream]:
    """The plan of a block's merger from what it reads, keys `(B,H,N,d)` or tokens, and the merged stream."""
    assert step.description is not None
    merger, inputs = MERGERS[step.merger], step.description.inputs
    x, size, mask, prior = stream
    if "x" in inputs:
        x = clear(x, mask)
    sources: dict[str, Callable[[], Array]] = {
        "x": lambda: x,
        "metric": lambda: key.astype(working_dtype(key), copy=False).mean(axis=1),
    }
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
    size = np.ones(x.shape[:2], working_dtype(x)) if size is None else size
    return Stream(plan.merge(x, size), plan.merge_size(size), plan.mask, prior)


def sample(step: Step, row: Array, value: Array, mask: Array | None) -> SelectionPlan:
    """ATS on the class token and the patches; the other tokens in front are kept and not scored.

    Args:
        row: `(B,H,N)`, the class token's attention; value: `(B,H,N,d)`; mask: `(B,N)`.
    """
    choose, prefix, options = MERGERS[step.merger].FUNCTION, step.prefix, dict(step.options)
    if prefix == 1:  # nothing to leave out, nothing to copy
        return choose(row, value, mask=mask, **options)
    b, _, n = row.shape
    seen = np.r_[0, prefix:n]
    seen_mask = None if mask is None else mask[:, seen]
    plan = choose(row[:, :, seen], value[:, :, seen], mask=seen_mask, **options)
    assert plan.mask is not None
    patches = np.where(plan.mask, plan.indices + prefix - 1, 0)[:, 1:]
    indices = np.concatenate([np.broadcast_to(np.arange(prefix), (b, prefix)), patches], axis=1)
    others = np.ones((b, prefix - 1), bool)
    return SelectionPlan(indices, np.concatenate([plan.mask[:, :1], others, plan.mask[:, 1:]], axis=1), n)


def take_queries(query: Array, plan: SelectionPlan) -> Array:
    """The chosen queries `(B,H,P,d)` of `(B,H,N,d)`: rows of attention are independent, no other is computed."""
    b, h, n, d = query.shape
    flat = plan.merge(np.swapaxes(query, 1, 2).reshape(b, n, h * d))
    return np.swapaxes(flat.reshape(b, plan.num_tokens_out, h, d), 1, 2)


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
    b, n, _ = x.shape
    qkv = linear(x, params["attn.qkv.weight"], params.get("attn.qkv.bias"))
    query, key, value = qkv.reshape(b, n, 3, config.heads, config.head_dim).transpose(2, 0, 3, 1, 4)
    if config.qk_norm:
        query, key = norm(query, params, "attn.q_norm", config), norm(key, params, "attn.k_norm", config)
    return query, key, value


def part(params: Params, prefix: str) -> dict[str, Array]:
    """The parameters below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """`x W^T + b`."""
    return x @ weight.T if bias is None else x @ weight.T + bias


def norm(x: Array, params: Params, name: str, config: ViTConfig) -> Array:
    """LayerNorm over the last axis, in the dtype of `x`."""
    normalized = layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"], eps=config.norm_eps)
    return normalized.astype(x.dtype, copy=False)


def scale(x: Array, params: Params, name: str) -> Array:
    """LayerScale, where the network has it."""
    return x * params[name] if name in params else x


def gelu(x: Array) -> Array:
    """`x Phi(x)` with the exact normal distribution function.

    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    return x * (erf(x / x.dtype.type(2**0.5)) + 1) / 2
