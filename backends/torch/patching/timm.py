"""timm's `VisionTransformer` and `Eva`, and all that are built from them: ViT, DeiT, DINOv2, CLIP, SigLIP, EVA.

And its `Beit` and `VisionTransformerRelPos`, whose attention has to see all tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.patching.ats import attend
from tokenmerge.backends.torch.patching.families import (
    Attention,
    Block,
    CannotPatch,
    Network,
    describe,
    method_name,
    never,
)
from tokenmerge.backends.torch.patching.hook import Patch
from tokenmerge.backends.torch.patching.pooling import Counts, TimmPool
from tokenmerge.backends.torch.patching.tome import mean_key
from tokenmerge.backends.torch.plan import SelectionPlan

Tensor = torch.Tensor

BLOCK = Block(attention="attn", attention_end="drop_path1", norm="norm2", mlp_end="drop_path2")
# norms behind the branches: the stream enters the MLP itself
NORM_LAST = Block(attention="attn", attention_end="drop_path1", norm="mlp", mlp_end="drop_path2", width="norm2")

NAFLEX = "timm.models.naflexvit.NaFlexVit"
PAIRS = ("timm.models.beit.Beit", "timm.models.vision_transformer_relpos.VisionTransformerRelPos")
NETWORKS = ("timm.models.vision_transformer.VisionTransformer", "timm.models.eva.Eva", NAFLEX, *PAIRS)
HEADS = (*(f"{name}.forward_head" for name in NETWORKS), "timm.models.deit.VisionTransformerDistilled.forward_head")


def keys(attention: nn.Module, output: Tensor) -> Tensor:
    """Keys `(B,H,N,d)`, normalized and not yet turned, averaged over heads."""
    return mean_key(output, 1)


def mean_of_heads(block: nn.Module, output: Tensor) -> Tensor:
    """Keys `(B,N,H,d)` of a block that computes attention by itself, averaged over heads."""
    return mean_key(output, 2)


def heads(attention: Any, x: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `(B,H,N,d)`, normalized and turned, in the steps of timm's three attentions."""
    b, n, _ = x.shape
    if attention.qkv is None:
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (part(x).reshape(b, n, -1, attention.head_dim).transpose(1, 2) for part in projections)
    else:
        if getattr(attention, "q_bias", None) is None:
            qkv = attention.qkv(x)
        else:
            bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
            if attention.qkv_bias_separate:
                qkv = attention.qkv(x) + bias
            else:
                qkv = nn.functional.linear(x, attention.qkv.weight, bias)
        q, k, v = qkv.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attention.q_norm(q), attention.k_norm(k)
    table = kwargs.get("rope")
    if table is not None:
        q, k = (turn(attention, each, table).type_as(v) for each in (q, k))
    groups = getattr(attention, "num_kv_groups", 1)
    if groups > 1:
        k, v = (each.repeat_interleave(groups, dim=1) for each in (k, v))
    return q, k, v


def turn(attention: Any, x: Tensor, table: Tensor) -> Tensor:
    """Queries or keys `(B,H,N,d)` turned by their positions, except the tokens in front."""
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat  # only here, so that timm is not needed

    front = attention.num_prefix_tokens
    turned = apply_rot_embed_cat(x[:, :, front:], table, half=getattr(attention, "rotate_half", False))
    return torch.cat([x[:, :, :front], turned], dim=2)


def keys_beside(attention: Any, x: Tensor) -> Tensor:
    """Keys `(B,N,d)`, averaged over heads, of BEiT's attention, which takes the weights out of its projection and not
    what that gives: there a product with the mean of the weights."""
    heads = attention.num_heads
    if attention.q_bias is None or attention.qkv_bias_separate:
        keys = attention.qkv(x).chunk(3, dim=-1)[1]
        return mean_key((keys if attention.q_bias is None else keys + attention.k_bias).unflatten(2, (heads, -1)), 2)
    weight, bias = attention.qkv.weight.chunk(3)[1], attention.k_bias
    return nn.functional.linear(x, weight.unflatten(0, (heads, -1)).mean(0), bias.unflatten(0, (heads, -1)).mean(0))


def attend_chosen(
    attention: Any, q: Tensor, k: Tensor, v: Tensor, x: Tensor, plan: SelectionPlan, kwargs: dict[str, Any]
) -> Tensor:
    """The rest of the module, for the chosen queries: `(B,P,C)`."""
    dropout = attention.attn_drop.p if attention.training else 0.0
    seen = attention.norm(attend(q, k, v, kwargs.get("attn_mask"), dropout, None))
    if attention.gate is not None:
        seen = seen * attention.gate(plan.merge(x)).sigmoid()
    return attention.proj_drop(attention.proj(seen))


PLAIN = Attention("k_norm", keys, heads, attend_chosen, "attn_mask", None, ("x", "attn_mask", "is_causal"))
ROTARY = Attention(
    "k_norm", keys, heads, attend_chosen, "attn_mask", None, ("x", "rope", "attn_mask", "is_causal"), "rope"
)
PARALLEL = Attention("k_norm", mean_of_heads, heads, attend_chosen, "attn_mask", None, ("x", "attn_mask", "is_causal"))
PAIR_BIAS = Attention("k_norm", keys, heads, attend_chosen, "shared_rel_pos", None, ("x", "shared_rel_pos"), pairs=True)
BEIT = replace(
    PAIR_BIAS, keys="", mask="shared_rel_pos_bias", arguments=("x", "shared_rel_pos_bias"), beside=keys_beside
)
BLOCKS = {
    "timm.models.vision_transformer.Block.forward": BLOCK,
    "timm.models.eva.EvaBlock.forward": BLOCK,
    "timm.models.vision_transformer.ResPostBlock.forward": NORM_LAST,
    "timm.models.eva.EvaBlockPostNorm.forward": NORM_LAST,
    "timm.models.beit.Block.forward": BLOCK,
    "timm.models.vision_transformer_relpos.RelPosBlock.forward": BLOCK,
    "timm.models.vision_transformer_relpos.ResPostRelPosBlock.forward": NORM_LAST,
    "timm.models.vision_transformer.ParallelScalingBlock.forward": Block("", "", "", "", width="in_norm", own=PARALLEL),
}
ATTENTIONS = {
    "timm.layers.attention.Attention.forward": PLAIN,
    "timm.layers.attention.AttentionRope.forward": ROTARY,
    "timm.models.eva.EvaAttention.forward": ROTARY,
    "timm.models.beit.Attention.forward": BEIT,
    "timm.models.vision_transformer_relpos.RelPosAttention.forward": PAIR_BIAS,
}


def is_network(module: nn.Module) -> bool:
    """Whether a module is one that `read` can read."""
    return hasattr(type(module), "forward_features") and method_name(module, "forward_features") in {
        f"{name}.forward_features" for name in NETWORKS
    }


OWN = {name: tuple(f"{network}.{name}" for network in NETWORKS) for name in ("forward", "pool")}
POOLS = ("token", "", "avg", "avgmax", "max", "map")
LATENT = "timm.layers.attention_pool.AttentionPoolLatent.forward"


def asks_for_grid(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call of `forward_intermediates` or `get_intermediate_layers` gives maps and not tokens."""
    if name == "forward_intermediates":
        return (args[5] if len(args) > 5 else kwargs.get("output_fmt", "NCHW")) == "NCHW"
    return bool(args[2] if len(args) > 2 else kwargs.get("reshape", False))


DOORS = {
    "forward": never,
    "forward_features": never,
    "forward_intermediates": asks_for_grid,
    "get_intermediate_layers": asks_for_grid,
}


def num_patches(module: Any) -> int | None:
    """Patches of an image of the usual size; None if any size will do."""
    if not hasattr(module, "patch_embed"):
        return None
    if getattr(module, "dynamic_img_size", False) or not getattr(module.patch_embed, "strict_img_size", True):
        return None
    return getattr(module.patch_embed, "num_patches", None)


def pool(module: Any, original: Callable[..., Any], counts: Counts, x: Tensor, pool_type: str | None = None) -> Tensor:
    """The method `pool` of a network, as that is now, of tokens that are counted."""
    include = getattr(module, "pool_include_prefix", False)
    skip = 0 if include else module.num_prefix_tokens
    if getattr(module, "attn_pool", None) is not None:
        if not observers.is_compiling():
            check_attention_pool(module, "the network")
        skip = skip if hasattr(module, "pool_include_prefix") else 0
        x = x if counts.replaced else x[:, skip:]
        return module.attn_pool(x, attn_mask=counts.bias(x))
    how = module.global_pool if pool_type is None else pool_type
    if how in ("avg", "avgmax", "max"):
        return counts.pooled(how, x, skip)
    if how not in ("token", ""):
        raise RuntimeError(f"patch: `global_pool` must be one of {', '.join(map(repr, POOLS))}, got {how!r}")
    if how == "token" and counts.replaced:
        raise RuntimeError("patch: `global_pool` must not be 'token' after 'patch_merger', which leaves no class token")
    return original(module, x, pool_type)


def naflex_pool(
    module: Any,
    original: Callable[..., Any],
    counts: Counts,
    x: Tensor,
    pool_type: str | None = None,
    patch_valid: Tensor | None = None,
) -> Tensor:
    """The method `_pool` of a NaFlexVit. A mask of patches has come no further than the first block that merges."""
    return pool(module, original, counts, x, pool_type)


def check_attention_pool(module: Any, name: str) -> None:
    """Raises CannotPatch where attention pooling cannot count sizes."""
    if method_name(module.attn_pool) != LATENT or module.attn_pool.pos_embed is not None:
        raise CannotPatch(f"patch: `model` must pool by AttentionPoolLatent without positions, got another in {name}")


def read(model: nn.Module, module: Any, name: str) -> Network:
    """A timm network, taken apart.

    Raises:
        CannotPatch: it has a block, an attention or a way to pool that is not known.
    """
    blocks = describe(module.blocks, f"{name}.blocks", BLOCKS, ATTENTIONS)
    head = method_name(module, "forward_head")
    if head not in HEADS:
        raise CannotPatch(f"patch: `model` must have a `forward_head` that is known, got {name} with {head}")
    distilled = head == HEADS[-1]
    pool_name = "_pool" if head == f"{NAFLEX}.forward_head" else "pool"
    own_pool = hasattr(type(module), pool_name)
    how = "token" if distilled else module.global_pool
    reads_class = f"{name} (global_pool={how!r})" if how == "token" else ""
    pooling: list[tuple[nn.Module, Callable[[Patch], Callable[..., Any]]]] = []
    if how not in POOLS:
        raise CannotPatch(f"patch: `model` must pool by 'token', 'avg', 'avgmax', 'max', 'map' or '', got {how!r}")
    if how == "map":
        check_attention_pool(module, name)
    elif how in ("avg", "avgmax", "max") and not own_pool:
        pooling.append((module.fc_norm, partial(TimmPool, how=how, skip=module.num_prefix_tokens)))
    return Network(
        module=module,
        name=name,
        blocks=blocks,
        prefix=module.num_prefix_tokens,
        class_token=getattr(module, "cls_token", None) is not None or getattr(module, "has_class_token", False),
        patches=num_patches(module),
        norm=module.norm,
        reads_class=reads_class,
        rotary=getattr(module, "rope", None) is not None,
        pooling=pooling,
        doors={door: grid for door, grid in DOORS.items() if hasattr(type(module), door)},
        pool=(naflex_pool if pool_name == "_pool" else pool) if own_pool else None,
        pool_name=pool_name,
        num_patches=num_patches,
        own=own_functions(module, name),
        pairs=blocks[0][2].pairs,
    )


def own_functions(module: Any, name: str) -> str:
    """A function of a subclass that reads tokens in its own way, for a sentence; "" if there is none."""
    for function, known in OWN.items():
        if hasattr(type(module), function) and method_name(module, function) not in known:
            return f"{name} with {method_name(module, function)}"
    return ""
