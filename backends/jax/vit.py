"""The vision transformer of `tokenmerge.spec.vit`, a pure function and a Flax NNX module over it (docs/vit.md).

Shapes depend on the configuration alone, so the network is one compilation per shape of the images. Every product is
float32 at least: all of them come before some decision. Attention goes by blocks of queries; the only row that ATS
needs is the class token's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

from tokenmerge.backends.jax.attention import attention_weights
from tokenmerge.backends.jax.batches import ones, repeat
from tokenmerge.backends.jax.blockwise import blockwise_attention
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.dropout import Dropout
from tokenmerge.backends.jax.mergers import MERGERS
from tokenmerge.backends.jax.named import Named
from tokenmerge.backends.jax.patch_merger import layer_norm
from tokenmerge.backends.jax.plan import PartitionPlan, Plan, SelectionPlan, compose_layers
from tokenmerge.backends.jax.pooling import mean_pool
from tokenmerge.backends.jax.precision import matmul, working_dtype
from tokenmerge.spec.shared.arguments import parameter
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_parameters import check_parameters, initial_parameters, parameter_shapes
from tokenmerge.spec.shared.vit_steps import Step, steps

Array = jax.Array
Params = Mapping[str, Array]


class ViTOutput(NamedTuple):
    """What a network returns; a pytree.

    Attributes:
        logits: `(B, num_classes)`, or the pooled features `(B,C)` where there is no head.
        tokens: `(B,P,C)` after the last norm, if that comes before pooling; a padded slot is zero.
        size: `(B,P)`, patches that a token stands for; None where every token counts one.
        mask: `(B,P)` bool, False for a padded slot; None where all are real.
        plans: for every block its plan, or None where it merges nothing.
        sizes: for every block the sizes of the tokens that its plan takes; None where every token counts one.
    """

    logits: Array
    tokens: Array
    size: Array | None
    mask: Array | None
    plans: tuple[Plan | None, ...]
    sizes: tuple[Array | None, ...]

    @property
    def plan(self) -> Plan:
        """The composed plan, from the tokens that enter the first block to the final ones; made when asked for."""
        made = [(plan, size) for plan, size in zip(self.plans, self.sizes, strict=True) if plan is not None]
        if not made:
            return PartitionPlan(repeat(jnp.arange(self.tokens.shape[1]), self.tokens), self.tokens.shape[1])
        return compose_layers(made)


export.register_namedtuple_serialization(ViTOutput, serialized_name="tokenmerge.ViTOutput")


class Stream(NamedTuple):
    """What flows from block to block."""

    x: Array
    size: Array | None = None
    mask: Array | None = None
    prior: Array | None = None


class ViT(Named):
    """A vision transformer with mergers in its blocks; the semantics are those of `tokenmerge.spec.vit`.

    Args:
        config: the network.
        seed: of the first parameters, which are the same in every backend.
        rngs: where dropout takes its keys from (the stream "dropout"); None for a stream made from `seed`.

    As in timm, dropout and stochastic depth act until `eval()` is called, and again after `train()`. Every parameter
    is an `nnx.Param` at the place that its name in timm says: `model.blocks[0].attn.qkv.weight`.

    Raises:
        ValueError: a configuration that contradicts itself.

    >>> from tokenmerge import ToMeMerging
    >>> small = dict(image_size=32, patch_size=4, dim=16, depth=2, heads=2, num_classes=5)
    >>> out = ViT(ViTConfig(**small, merging=ToMeMerging(r=8)))(jnp.zeros((1, 32, 32, 3)))
    >>> out.logits.shape, out.tokens.shape, out.plan.unmerge(out.tokens).shape
    ((1, 5), (1, 49, 16), (1, 65, 16))
    """

    def __init__(self, config: ViTConfig, seed: int = 0, *, rngs: nnx.Rngs | None = None) -> None:
        steps(config)  # a contradiction shows here, and not in the first call
        super().__init__({name: jnp.asarray(value) for name, value in initial_parameters(config, seed).items()})
        self.config = config
        self.deterministic = False  # what `train()` and `eval()` set
        drops = config.dropout or config.attn_dropout or config.emb_dropout or config.drop_path
        self.rngs = (rngs or nnx.Rngs(dropout=seed))["dropout"].fork() if drops else None

    def params(self) -> dict[str, np.ndarray[Any, Any]]:
        """The parameters by timm's names, as NumPy copies."""
        own = self.named()  # in any order: a transformation of Flax may put the attributes into another
        return {name: np.array(own[name][...]) for name in parameter_shapes(self.config)}

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Take a timm state dict of NumPy arrays or of anything that `numpy.asarray` reads, in its own precision,
        bfloat16 of PyTorch too.

        float64 needs JAX's x64 mode. A learned merger's parameters may all be missing and keep their values then.

        Raises:
            TypeError, ValueError: names that are missing, unexpected or of the wrong shape; nothing is changed then.
        """
        check_parameters(self.config, params)
        own = self.named()
        taken = {name: parameter("vit", name, value) for name, value in params.items()}
        for name, value in taken.items():  # all of them, or none
            half = str(getattr(params[name], "dtype", "")).endswith("bfloat16")  # which NumPy does not have
            own[name].set_value(jnp.array(value, jnp.bfloat16 if half else None))

    def __call__(self, images: Array) -> ViTOutput:
        """Images `(B, height, width, channels)`, taken in the precision of the parameters, see `vit`."""
        check.array("vit", "images", images, "B height width channels", **self.config.image_axes)
        params = {name: value[...] for name, value in self.named().items()}
        key = None if self.deterministic or self.rngs is None else self.rngs()
        return _compiled(images, params, self.config, key)


def vit(images: Array, params: Params, config: ViTConfig, key: Array | None = None) -> ViTOutput:
    """Run the network.

    Args:
        images: `(B, height, width, channels)` floating point, of the configured size, taken in the precision of the
            parameters.
        params: every parameter, as `tokenmerge.spec.shared.vit_parameters.parameter_shapes` names them.
        config: the network, static under `jax.jit`.
        key: a PRNG key, in training: then dropout and stochastic depth act. None for inference.

    Returns:
        `ViTOutput`.

    Raises:
        TypeError, ValueError: images of another type or shape, or a configuration that contradicts itself.

    >>> config = ViTConfig(image_size=8, patch_size=4, dim=8, depth=1, heads=2, num_classes=3)
    >>> params = jax.tree.map(jnp.asarray, initial_parameters(config))
    >>> vit(jnp.ones((2, 8, 8, 3)), params, config).logits.shape
    (2, 3)
    """
    check.array("vit", "images", images, "B height width channels", **config.image_axes)
    drop = Dropout(key)
    stream = Stream(embed(jnp.asarray(images).astype(params["pos_embed"].dtype), params, config, drop))
    plans: list[Plan | None] = []
    sizes: list[Array | None] = []
    for index, step in enumerate(steps(config)):  # not a scan: shapes change from block to block
        sizes.append(stream.size)
        path = config.drop_path_rate(index)
        stream, plan = block(stream, part(params, f"blocks.{index}."), config, step, drop, path)
        plans.append(plan)
    logits, tokens = head(stream, params, config, steps(config)[-1])
    return ViTOutput(logits, tokens, stream.size, stream.mask, tuple(plans), tuple(sizes))


_compiled = jax.jit(vit, static_argnames="config")


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
    stream: Stream, params: Params, config: ViTConfig, step: Step, drop: Dropout, path: float
) -> tuple[Stream, Plan | None]:
    """One block and its merger; `path` is its rate of stochastic depth."""
    x, size, mask, _ = stream
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
    if step.place == "mlp":
        plan, stream = decide(step, stream, params, key)
    hidden = linear(norm(stream.x, params, "norm2", config), params["mlp.fc1.weight"], params["mlp.fc1.bias"])
    hidden = drop(jax.nn.gelu(hidden, approximate=False), config.dropout)
    branch = drop(linear(hidden, params["mlp.fc2.weight"], params["mlp.fc2.bias"]), config.dropout)
    branch = drop.path(scale(branch, params, "ls2.gamma"), path)
    stream = stream._replace(x=stream.x + branch)
    if step.place == "block":
        plan, stream = decide(step, stream, params, key)
    return stream, plan


def decide(step: Step, stream: Stream, params: Params, key: Array) -> tuple[Plan, Stream]:
    """The plan of a block's merger from what it reads, and the merged stream."""
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
    return Stream(plan.merge(x, size), plan.merge_size(size), plan.mask, prior)


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


def head(stream: Stream, params: Params, config: ViTConfig, last: Step) -> tuple[Array, Array]:
    """Last norm, pooling and classifier: logits and tokens."""
    x = stream.x if config.pools_before_norm else norm(stream.x, params, "norm", config)
    x = clear(x, stream.mask)
    if config.pool == "mean":
        first = last.prefix_out
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
    product = matmul(x, weight.T)
    return (product if bias is None else product + bias).astype(x.dtype)


def norm(x: Array, params: Params, name: str, config: ViTConfig) -> Array:
    """LayerNorm over the last axis, in the dtype of `x`."""
    return layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"], eps=config.norm_eps).astype(x.dtype)


def scale(x: Array, params: Params, name: str) -> Array:
    """LayerScale, where the network has it."""
    return x * params[name] if name in params else x


def clear(x: Array, mask: Array | None) -> Array:
    """Tokens with zeros in padded slots."""
    return x if mask is None else jnp.where(mask[:, :, None], x, 0)
