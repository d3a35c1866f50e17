"""The vision transformer of `tokenmerge.spec.vit` as a `torch.nn.Module`, with the names of timm (docs/vit.md).

Attention is always PyTorch's fused one; the only row of the attention matrix that is ever written out is the class
token's, where ATS needs it. Shapes depend on the configuration alone, so the whole network is one graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tokenmerge.backends.torch import exported, kernels
from tokenmerge.backends.torch.ats import ATS, exported_plan
from tokenmerge.backends.torch.attention import attention, class_row
from tokenmerge.backends.torch.check import check
from tokenmerge.backends.torch.ltm import chain
from tokenmerge.backends.torch.merger import Merger, NumpyArray, as_numpy, as_tensor
from tokenmerge.backends.torch.mergers import MERGERS
from tokenmerge.backends.torch.plan import DensePlan, PartitionPlan, Plan, SelectionPlan, compose_layers
from tokenmerge.backends.torch.pooling import mean_pool
from tokenmerge.backends.torch.precision import exporting, working_dtype
from tokenmerge.backends.torch.pytrees import Static
from tokenmerge.backends.torch.stream import Stream, ViTOutput, clear, restored, stream_plans
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_parameters import check_parameters, initial_parameters
from tokenmerge.spec.shared.vit_steps import Step, drops, steps

Tensor = torch.Tensor


class ViT(nn.Module):
    """A vision transformer with mergers in its blocks; the semantics are those of `tokenmerge.spec.vit`.

    Args:
        config: the network.
        seed: of the first parameters, which are the same in every backend.

    In training mode dropout and stochastic depth act as in timm. A state dict of timm's `VisionTransformer` loads with
    `load_state_dict` or `load_params`.

    Raises:
        ValueError: a configuration that contradicts itself.

    >>> from tokenmerge import ToMeMerging
    >>> small = dict(image_size=32, patch_size=4, dim=16, depth=2, heads=2, num_classes=5)
    >>> out = ViT(ViTConfig(**small, merging=ToMeMerging(r=8)))(torch.zeros(1, 3, 32, 32))
    >>> out.logits.shape, out.tokens.shape, out.plan.unmerge(out.tokens).shape
    (torch.Size([1, 5]), torch.Size([1, 49, 16]), torch.Size([1, 65, 16]))
    """

    def __init__(self, config: ViTConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        if config.class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        if config.register_tokens:
            self.reg_token = nn.Parameter(torch.empty(1, config.register_tokens, dim))
        if config.distillation_token:
            self.dist_token = nn.Parameter(torch.empty(1, 1, dim))
        embedded = config.num_tokens - (config.prefix_tokens if config.no_embed_class else 0)
        self.pos_embed = nn.Parameter(torch.empty(1, embedded, dim))
        self.patch_embed = PatchEmbed(config)
        self.pos_drop = nn.Dropout(config.emb_dropout)
        self.norm_pre = nn.LayerNorm(dim, config.norm_eps) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, step, index) for index, step in enumerate(steps(config)))
        self.around, self.drops = Static(step.around for step in steps(config)), drops(config)
        front = config.prefix_tokens if config.restore else steps(config)[-1].prefix_out
        self.pooled = slice(front, None)  # the tokens that are averaged
        self.norm = nn.Identity() if config.pools_before_norm else nn.LayerNorm(dim, config.norm_eps)
        self.fc_norm = nn.LayerNorm(dim, config.norm_eps) if config.pools_before_norm else nn.Identity()
        if config.num_classes:
            self.head = nn.Linear(dim, config.num_classes)
            if config.distillation_token:
                self.head_dist = nn.Linear(dim, config.num_classes)
        self.load_params(initial_parameters(config, seed))

    def params(self) -> dict[str, NumpyArray]:
        """The parameters by timm's names, as NumPy copies (bfloat16 as float32)."""
        return {name: as_numpy(value).copy() for name, value in self.state_dict().items()}

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Take a timm state dict of NumPy arrays or tensors.

        A learned merger's parameters may all be missing and keep their values then.

        Raises:
            TypeError, ValueError: names that are missing, unexpected or of the wrong shape; nothing is changed then.
        """
        check_parameters(self.config, params)
        own = self.state_dict()
        taken = {name: as_tensor("vit", name, value, own[name]) for name, value in params.items()}
        with torch.no_grad():
            for name, value in taken.items():  # all of them, or none
                own[name].copy_(value)

    def forward(self, images: Tensor) -> ViTOutput:
        """Images `(B, channels, height, width)` to logits, tokens, and the plan of every block."""
        check.array("vit", "images", images, "B channels height width", **self.config.image_axes)
        stream = Stream(self._embed(images.to(self.pos_embed.dtype)))
        plans: list[Plan | None] = []
        sizes: list[Tensor | None] = []
        for block in self.blocks:
            sizes.append(stream.size)
            stream, plan = block(stream)
            plans.append(plan)
        moves = stream_plans(plans, sizes, self.around) if self.config.restore else []
        if moves:
            stream = restored(stream, compose_layers(moves), self.drops)
        logits, tokens = self._head(stream)
        return ViTOutput(logits, tokens, stream.size, stream.mask, tuple(plans), tuple(sizes), self.around)

    def _embed(self, images: Tensor) -> Tensor:
        """Patches row by row, tokens in front, position embedding: `(B,N,C)`."""
        x = self.patch_embed(images)
        names = ("cls_token", "dist_token", "reg_token")
        first = [getattr(self, name).expand(x.shape[0], -1, -1) for name in names if hasattr(self, name)]
        if self.config.no_embed_class:
            x = x + self.pos_embed
        x = torch.cat([*first, x], dim=1) if first else x
        if not self.config.no_embed_class:
            x = x + self.pos_embed
        return self.norm_pre(self.pos_drop(x))

    def _head(self, stream: Stream) -> tuple[Tensor, Tensor]:
        """Last norm, pooling and classifier: logits and tokens."""
        x = clear(self.norm(stream.x), stream.mask)
        if self.config.pool == "class":
            pooled = x[:, 0]
        else:
            size, mask = (None if each is None else each[:, self.pooled] for each in (stream.size, stream.mask))
            pooled = x[:, self.pooled]
            pooled = pooled.mean(dim=1) if size is mask is None else mean_pool(pooled, size=size, mask=mask)
        pooled = self.fc_norm(pooled)
        if not self.config.num_classes:
            return pooled, x
        logits = self.head(pooled)
        if self.config.distillation_token:  # the mean of both classifiers, as in DeiT
            logits = (logits + self.head_dist(x[:, 1])) / 2
        return logits, x


class PatchEmbed(nn.Module):
    """Patches row by row through one linear map: `(B, channels, height, width)` to `(B,N,C)`."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        patch = config.patch_size
        self.proj = nn.Conv2d(config.channels, config.dim, patch, patch, bias=not config.pre_norm)

    def forward(self, images: Tensor) -> Tensor:
        return self.product(images) if images.is_cuda else self.proj(images).flatten(2).transpose(1, 2)

    def product(self, images: Tensor) -> Tensor:
        """The same as a product of matrices.

        On a GPU that is ten times as fast in bfloat16, and in float32 no TF32, which PyTorch lets convolutions have.
        """
        patch, weight = self.proj.kernel_size[0], self.proj.weight
        rows = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).permute(0, 2, 4, 1, 3, 5)
        return functional.linear(rows.flatten(3).flatten(1, 2), weight.flatten(1), self.proj.bias)


class Block(nn.Module):
    """`x + LS(attention(norm1(x)))`, a merger, `x + LS(MLP(norm2(x)))`; PatchMerger comes after both."""

    def __init__(self, config: ViTConfig, step: Step, index: int) -> None:
        super().__init__()
        self.step = step
        self.inputs = step.description.inputs if step.description else {}
        self.norm1 = nn.LayerNorm(config.dim, config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, config.norm_eps)
        self.mlp = Mlp(config)
        self.inside = step.inside
        scaled = config.layer_scale is not None
        self.ls1 = LayerScale(config.dim) if scaled else nn.Identity()
        self.ls2 = LayerScale(config.dim) if scaled else nn.Identity()
        self.drop_path = DropPath(config.drop_path_rate(index))
        self.merger = _merger(config, step)

    def forward(self, stream: Stream) -> tuple[Stream, Plan | None]:
        if self.step.around != "block":
            return self._run(stream, self.step)
        x, size, mask, _ = stream
        plan, prior = self._plan(stream, x)
        merged, sizes = plan.merge_both(clear(x, mask), _ones(x) if size is None else size)
        after, _ = self._run(Stream(merged, sizes, plan.mask), self.inside)
        return stream._replace(x=x + plan.unmerge_cleared(after.x - merged), prior=prior), plan

    def _run(self, stream: Stream, step: Step) -> tuple[Stream, Plan | None]:
        x, size, mask, prior = stream
        plan: Plan | None = None
        merger: Any = self.merger
        place = step.place
        if size is None and step.around is None and place in ("attention", "mlp"):
            size = _ones(x)
        query, key, value = self.attn.heads(self.norm1(x))
        counted, hidden = hide(size if step.proportional else None, mask, key)  # never where all sizes are one
        if place == "attention":
            row = class_row(query, key, size=counted, mask=hidden)
            plan = sample(merger, row, value, step.prefix, mask)
            query = take_queries(query, plan)
        branch = self.drop_path(self.ls1(self.attn(query, key, value, counted, hidden)))
        if step.around == "mlp":
            stream = stream._replace(x=x + branch)
            plan, prior = self._plan(stream, key)
            merged = plan.merge_cleared(clear(stream.x, mask), size)
            return stream._replace(
                x=stream.x + plan.unmerge_cleared(self._branch(self.norm2(merged))), prior=prior
            ), plan
        normalized = None
        if place == "mlp" and "metric" in self.inputs:
            plan, _ = self._plan(stream, key)
            assert isinstance(plan, PartitionPlan) and size is not None
            x, size, normalized = merge_sum(plan, x, branch, size, self.norm2)
        else:
            if plan is not None:
                x, size = plan.merge_both(x, size)
            x = x + branch  # which has the chosen tokens only, if they are chosen
            if place == "mlp":
                x = clear(x, mask)
                plan, prior = self._plan(stream._replace(x=x), key)
                x, size = plan.merge_both(x, size)
        if plan is not None:
            mask = plan.mask
        x = x + self._branch(self.norm2(x) if normalized is None else normalized)
        if place == "block":
            x, _, mask, plan = merger(x, mask=mask)
            size = None  # its tokens are answers to queries, not groups of patches: each counts one
        return Stream(x, size, mask, prior), plan

    def _plan(self, stream: Stream, metric: Tensor) -> tuple[Plan, Tensor | None]:
        """The merger's plan, by keys `(B,H,N,d)` or tokens `(B,N,C)` if it reads a metric; and the next prior."""
        merger: Any = self.merger
        if "metric" in self.inputs:
            each = metric.to(working_dtype(metric)) if metric.ndim == 3 else metric.mean(1, dtype=working_dtype(metric))
            return merger.plan(each, mask=stream.mask), stream.prior
        given = {"prior": stream.prior} if self.step.chained else {}
        plan = merger.plan(clear(stream.x, stream.mask), mask=stream.mask, **given)
        hands_on = self.step.chains and isinstance(plan, DensePlan)
        return plan, chain(plan, merger.protected) if hands_on else stream.prior

    def _branch(self, normalized: Tensor) -> Tensor:
        """What the MLP adds."""
        return self.drop_path(self.ls2(self.mlp(normalized)))


class Attention(nn.Module):
    """Multi-head attention in two halves, so that a merger can choose the queries in between."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim, width = config.dim, config.head_dim
        self.num_heads, self.attn_dropout = config.heads, config.attn_dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=config.qkv_bias)
        self.q_norm = nn.LayerNorm(width, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width, config.norm_eps) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(config.dropout)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `(B,H,N,d)`."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.q_norm(query), self.k_norm(key), value

    def forward(self, query: Tensor, key: Tensor, value: Tensor, size: Tensor | None, mask: Tensor | None) -> Tensor:
        """What the queries `(B,H,M,d)` see, projected: `(B,M,C)`."""
        dropped = self.attn_dropout if self.training else 0.0
        if exporting():
            seen = exported.attention(query, key, value, size, mask, dropped)
        else:
            seen = attention(query, key, value, size=size, mask=mask, dropout=dropped)
        return self.proj_drop(self.proj(seen.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """Two linear maps around a GELU."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.hidden_dim)
        self.fc2 = nn.Linear(config.hidden_dim, config.dim)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(functional.gelu(self.fc1(x)))))


class LayerScale(nn.Module):
    """`gamma * x` per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: in training a sample's branch is zero with probability `rate`, else divided by `1 - rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1 - self.rate
        return x * x.new_empty((x.shape[0], 1, 1)).bernoulli_(keep) / keep


def merge_sum(
    plan: PartitionPlan, x: Tensor, branch: Tensor, size: Tensor, norm: nn.LayerNorm
) -> tuple[Tensor, Tensor, Tensor]:
    """`x + branch` merged, the sizes afterwards, and `norm` of what is merged: in one pass where a kernel can."""
    if kernels.usable(x):
        made = kernels.merge_normalized(x, size, plan.assignment, plan.num_tokens_out, branch, norm)
        if made is not None:
            return made
    positive = plan.mask is None  # sizes began as ones
    x, size = plan.merge_checked(x + branch, size, complete=positive, positive=positive)
    return x, size, norm(x)


def hide(size: Tensor | None, mask: Tensor | None, key: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Sizes and mask for attention among tokens whose padded slots are finite.

    On a CPU size 0 hides them. A mask would, and clear keys and values besides, in a quarter of attention's own time.
    """
    if mask is None or key.is_cuda or key.dtype != working_dtype(key) or exporting():
        return size, mask
    return mask.to(key.dtype) if size is None else size, None


def sample(merger: ATS, row: Tensor, value: Tensor, prefix: int, mask: Tensor | None) -> SelectionPlan:
    """ATS on the class token and the patches; the other tokens in front are kept and not scored.

    Args:
        row: `(B,H,N)`, the class token's attention; value: `(B,H,N,d)`; prefix: tokens in front of the patches.
    """
    if prefix == 1:
        return merger.plan(row, value, mask=mask)
    if exporting() and merger.sampling == "inverse_transform" and row.shape[2] > prefix:  # in few operators
        return exported_plan(row, value, merger.max_tokens, merger.score, mask, front=prefix)
    plan = merger.plan(*(_without(each, 2, prefix) for each in (row, value)), mask=_without(mask, 1, prefix))
    assert plan.mask is not None
    b, n = row.shape[0], row.shape[2]
    first = torch.arange(prefix, device=row.device).expand(b, prefix)
    others = plan.mask.new_ones((b, prefix - 1))
    patches = torch.where(plan.mask, plan.indices + prefix - 1, 0)[:, 1:]
    return SelectionPlan(
        torch.cat([first, patches], dim=1), torch.cat([plan.mask[:, :1], others, plan.mask[:, 1:]], dim=1), n
    )


def take_queries(query: Tensor, plan: SelectionPlan) -> Tensor:
    """The chosen queries `(B,H,P,d)` of `(B,H,N,d)`: rows of attention are independent, no other is computed."""
    return query.gather(2, plan.indices[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3]))


def _without(tensor: Any, dim: int, prefix: int) -> Any:
    """The class token and the patches."""
    if tensor is None:
        return None
    return torch.cat([tensor.narrow(dim, 0, 1), tensor.narrow(dim, prefix, tensor.shape[dim] - prefix)], dim=dim)


def _merger(config: ViTConfig, step: Step) -> Merger | None:
    """The merger of a block, with what the shapes say of its options."""
    if step.description is None:
        return None
    known = {"dim": config.dim, "num_tokens_out": step.tokens_out}
    wanted = {name: value for name, value in known.items() if name in step.description.options}
    return MERGERS[step.merger](**wanted, **dict(step.options))


def _ones(x: Tensor) -> Tensor:
    """Sizes of tokens that count one each, no coarser than the tokens."""
    return x.new_ones(x.shape[:2], dtype=working_dtype(x))
