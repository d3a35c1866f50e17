"""torchvision's `vit_*`, open_clip's own ViT, and vit-pytorch's `ViT` and `SimpleViT`, taken apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.ats import attend
from tokenmerge.backends.torch.patching.families import Attention, Block, CannotPatch, Network, method_name, never
from tokenmerge.backends.torch.patching.pooling import Counts, MeanPool, ProbePool
from tokenmerge.backends.torch.patching.readers import CLASS
from tokenmerge.backends.torch.patching.tome import mean_key
from tokenmerge.backends.torch.patching.towers import Families, Family
from tokenmerge.backends.torch.plan import SelectionPlan

Tensor = torch.Tensor
Heads = tuple[Tensor, Tensor, Tensor]


def no_part(attention: nn.Module, output: Tensor) -> Tensor:
    """No part of it gives the keys: `heads` does."""
    raise NotImplementedError


def multihead_heads(attention: nn.MultiheadAttention, x: Tensor, kwargs: dict[str, Any]) -> Heads:
    """Queries, keys and values `(B,H,N,d)`, from the one weight of all three."""
    made = nn.functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = made.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def attend_multihead(
    attention: nn.MultiheadAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    plan: SelectionPlan | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, None]:
    """The rest of the module, for the chosen queries: `(B,P,C)`. As the module itself does, it takes the weights out of
    the last part, whatever somebody has put around them."""
    seen = attend(q, k, v, kwargs.get("attn_mask"), attention.dropout if attention.training else 0.0, None)
    return nn.functional.linear(seen, attention.out_proj.weight, attention.out_proj.bias), None


def multihead_fits(attention: nn.MultiheadAttention) -> str:
    """What is wrong with an `nn.MultiheadAttention`."""
    if not attention.batch_first:
        return "with batch_first=False"
    if attention.in_proj_weight is None or attention.bias_k is not None or attention.add_zero_attn:
        return "with keys of another width, `add_bias_kv` or `add_zero_attn`"
    return ""


def fused_keys(attention: Any, output: Tensor) -> Tensor:
    """Keys in the middle third of `(B,N,3 H d)`, averaged over heads."""
    return mean_key(output.chunk(3, dim=-1)[1].unflatten(2, (attention.heads, -1)), 2)


def fused_heads(attention: Any, x: Tensor, kwargs: dict[str, Any]) -> Heads:
    """Queries, keys and values `(B,H,N,d)`, of tokens that attention norms by itself."""
    made = attention.to_qkv(attention.norm(x)).chunk(3, dim=-1)
    q, k, v = (each.unflatten(2, (attention.heads, -1)).transpose(1, 2) for each in made)
    return q, k, v


def attend_fused(
    attention: Any, q: Tensor, k: Tensor, v: Tensor, x: Tensor, plan: SelectionPlan | None, kwargs: dict[str, Any]
) -> Tensor:
    """The rest of the module, which writes its softmax out."""
    bias, logits = kwargs.get("mask"), torch.matmul(q, k.transpose(-1, -2)) * attention.scale
    weights = attention.attend(logits if bias is None else logits + bias)
    weights = attention.dropout(weights) if hasattr(attention, "dropout") else weights
    return attention.to_out((weights @ v).transpose(1, 2).flatten(2))


def pair(block: Any, x: Tensor) -> Tensor:
    """What a list of an attention and an MLP stands for."""
    x = block[0](x) + x
    out: Tensor = block[1](x) + x
    return out


ARGUMENTS = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights")
MULTIHEAD = Attention(
    keys="",
    metric=no_part,
    heads=multihead_heads,
    attend=attend_multihead,
    mask="attn_mask",
    mask_position=5,
    arguments=ARGUMENTS,
    written_out=True,
    refused=("key_padding_mask", "need_weights"),
    fits=multihead_fits,
)
FUSED = Attention("to_qkv", fused_keys, fused_heads, attend_fused, "mask", None, ("x",), written_out=True)
PAIR = Block("0", "0", "1.net.0", "1", forward=pair)


def torchvision_patches(module: Any) -> int:
    """Patches, without the class token."""
    return int(module.seq_length) - 1


def grid_patches(module: Any) -> int:
    """Patches of the grid that the positions are for."""
    return int(module.positional_embedding.shape[0]) - 1


TORCHVISION = Family(
    networks=("torchvision.models.vision_transformer.VisionTransformer",),
    block="torchvision.models.vision_transformer.EncoderBlock",
    attention="torch.nn.modules.activation.MultiheadAttention",
    parts=Block("self_attention", "dropout", "ln_2", "mlp"),
    how=MULTIHEAD,
    blocks="encoder.layers",
    norm="encoder.ln",
    patches=torchvision_patches,
)
OPEN_CLIP = replace(
    TORCHVISION,
    networks=("open_clip.transformer.VisionTransformer",),
    block="open_clip.transformer.ResidualAttentionBlock",
    parts=Block("attn", "ls_1", "ln_2", "ls_2"),
    blocks="transformer.resblocks",
    norm="ln_post",
    patches=grid_patches,
    readers={f"open_clip.model.{name}": CLASS for name in ("CLIP", "CustomTextCLIP")},
)


def _vit_pytorch(file: str, name: str, **others: Any) -> Family:
    package = f"vit_pytorch.{file}"
    return Family(
        networks=(f"{package}.{name}",),
        block=f"[{package}.Attention.forward, {package}.FeedForward.forward]",
        attention=f"{package}.Attention",
        parts=PAIR,
        how=FUSED,
        blocks="transformer.layers",
        norm="transformer.norm",
        loop="transformer",
        **others,
    )


MEAN = ("to_latent", "all")
KNOWN = Families(
    (
        TORCHVISION,
        OPEN_CLIP,
        _vit_pytorch("vit", "ViT"),
        _vit_pytorch(
            "simple_vit",
            "SimpleViT",
            prefix=0,
            class_token=False,
            pools={"vit_pytorch.simple_vit.SimpleViT": MEAN},
        ),
    )
)


def is_network(module: nn.Module) -> bool:
    """Whether a module is one that `read` can read."""
    return KNOWN.is_network(module)


def read(model: nn.Module, module: Any, name: str) -> Network:
    """A network of one of these libraries, taken apart.

    Raises:
        CannotPatch: it has a block, an attention or a way to pool that is not known.
    """
    network = KNOWN.read(model, module, name)
    kind = method_name(module)
    if kind == "vit_pytorch.vit.ViT.forward" and module.pool == "mean":
        pooling = [(module.to_latent, partial(MeanPool, skip=0))]
        return replace(network, prefix=0, class_token=False, reads_class="", pooling=pooling)
    if kind == f"{OPEN_CLIP.networks[0]}.forward":
        return _open_clip(network, module, name)
    return network


def maps(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call of `forward_intermediates` gives maps and not tokens."""
    return (args[5] if len(args) > 5 else kwargs.get("output_fmt", "NCHW")) == "NCHW"


def _open_clip(network: Network, module: Any, name: str) -> Network:
    doors: dict[str, Callable[..., bool]] = {"forward": never, "forward_intermediates": maps}
    network = replace(network, doors=doors, pool=global_pool, pool_name="_global_pool")
    if module.attn_pool is None:
        return replace(network, reads_class=network.reads_class if module.pool_type == "tok" else "")
    if module.attn_pool_contrastive is not None and module.attn_pool_type != "parallel":
        raise CannotPatch(f"patch: `model` must not pool what it has pooled, got {name} whose pool is a 'cascade'")
    pools = [each for each in (module.attn_pool, module.attn_pool_contrastive) if each is not None]
    hooked = [(each.attn, ProbePool) for each in pools]
    before = module.attn_pool_contrastive is not None  # whether the norm sees tokens, or what was pooled
    return replace(network, norm=network.norm if before else None, reads_class="", pooling=hooked, pool=None)


def global_pool(module: Any, original: Callable[..., Any], counts: Counts, x: Tensor) -> tuple[Tensor, Tensor]:
    """open_clip's method: the pooled tokens, and the others."""
    if module.pool_type == "avg":
        return counts.mean(x, 1), x if counts.replaced else x[:, 1:]
    if module.pool_type == "tok" and counts.replaced:
        raise RuntimeError("patch: `pool_type` must not be 'tok' after 'patch_merger', which leaves no class token")
    out: tuple[Tensor, Tensor] = original(module, x)
    return out
