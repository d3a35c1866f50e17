"""The families of torchvision, open_clip, vit-pytorch and timm's rarer blocks, small and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from hf_models import Case, noise
from oracle import Joints
from torch import nn

Tensor = torch.Tensor
Heads = tuple[Tensor, Tensor, Tensor]


def split(made: Tensor, heads: int = 3) -> Heads:
    """`(B,N,3 H d)`, of so many heads."""
    q, k, v = made.reshape(*made.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    return q, k, v


def multihead(attention: Any, x: Tensor) -> Heads:
    return split(x @ attention.in_proj_weight.T + attention.in_proj_bias)


def vit_pytorch(attention: Any, x: Tensor) -> Heads:
    return split(attention.norm(x) @ attention.to_qkv.weight.T)


def timm_heads(attention: Any, x: Tensor) -> Heads:
    if attention.qkv is None:
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (part(x).reshape(*x.shape[:2], 3, -1).transpose(1, 2) for part in parts)
        return attention.q_norm(q), attention.k_norm(k), v
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    q, k, v = split(nn.functional.linear(x, attention.qkv.weight, bias), attention.num_heads)
    if not hasattr(attention, "k_norm"):
        return q, k, v
    return attention.q_norm(q), attention.k_norm(k), v


def parallel_heads(block: Any, x: Tensor) -> Heads:
    _, q, k, v = block.in_proj(block.in_norm(x)).split(block.in_split, dim=-1)
    q, k, v = (each.reshape(*x.shape[:2], 3, 8) for each in (q, k, v))
    return block.q_norm(q).transpose(1, 2), block.k_norm(k).transpose(1, 2), v.transpose(1, 2)


def turned(attention: Any, q: Tensor, k: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """timm's rotation: neighbours are a pair, or halves are; sines come first; tokens in front stay."""
    front = q.shape[2] - table.shape[-2]
    sin, cos = table.chunk(2, dim=-1)

    def turn(x: Tensor) -> Tensor:
        if attention.rotate_half:
            left, right = x.chunk(2, dim=-1)
            return x * cos + torch.cat([-right, left], dim=-1) * sin
        pairs = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).reshape(x.shape)
        return x * cos + pairs * sin

    q, k = (torch.cat([each[:, :, :front], turn(each[:, :, front:])], dim=2) for each in (q, k))
    return q, k


BLOCKS = {
    "EncoderBlock": Joints("self_attention", "ln_2", multihead),
    "ResidualAttentionBlock": Joints("attn", "ln_2", multihead),
    "ModuleList": Joints("0", "1.net.0", vit_pytorch, end="1"),
    "Block": Joints("attn", "norm2", timm_heads),
    "ResPostBlock": Joints("attn", "mlp", timm_heads),
    "ParallelScalingBlock": Joints("", "", parallel_heads),
    "RelPosBlock": Joints("attn", "norm2", timm_heads),
    "ResPostRelPosBlock": Joints("attn", "mlp", timm_heads),
    "EvaBlock": Joints("attn", "norm2", timm_heads, "rope", turned),
    "EvaBlockPostNorm": Joints("attn", "mlp", timm_heads, "rope", turned),
}


OTHERS = ("timm.models.vision_transformer_sam",)  # whose `Block` is another one


def blocks_of(model: nn.Module) -> list[tuple[nn.Module, Joints]]:
    """The blocks of a model, in order."""
    for name, module in model.named_modules():
        is_text = isinstance(getattr(model, "visual", None), nn.Module) and not name.startswith("visual")
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1 and not is_text:
            joints = None if type(module[0]).__module__ in OTHERS else BLOCKS.get(type(module[0]).__name__)
            if joints is not None:
                return [(block, joints) for block in module]
    raise LookupError(f"no blocks in {type(model).__name__}")


SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}


def timm_vit(**options: Any) -> nn.Module:
    return timm.models.vision_transformer.VisionTransformer(**SIZES | options)


def timm_eva(**options: Any) -> nn.Module:
    return timm.models.eva.Eva(**SIZES | {"use_rot_pos_emb": True} | options)


def torchvision_vit() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 3, "hidden_dim": 24, "mlp_dim": 32}
    return VisionTransformer(**sizes, num_classes=5)


def open_clip_vit(**options: Any) -> nn.Module:
    from open_clip.transformer import VisionTransformer

    sizes = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "heads": 3, "mlp_ratio": 2, "output_dim": 6}
    return VisionTransformer(**sizes | options)


def open_clip_both() -> nn.Module:
    from open_clip.model import CLIP

    image = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "head_width": 8}
    text = {"context_length": 8, "vocab_size": 20, "width": 24, "heads": 3, "layers": 2}
    return CLIP(embed_dim=6, vision_cfg=image, text_cfg=text)


def lucid(name: str, **options: Any) -> nn.Module:
    import vit_pytorch

    sizes = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 24, "depth": 3, "heads": 3, "mlp_dim": 32}
    return getattr(vit_pytorch, name)(**sizes, dim_head=8, **options)


def images(name: str = "x") -> Callable[[], dict[str, Any]]:
    return lambda: {name: noise(2, 3, 32, 32)}


MEAN = {"class_token": False, "global_pool": "avg"}
timm_models = timm.models
CASES: dict[str, Case] = {
    "torchvision VisionTransformer": Case(torchvision_vit, images()),
    "open_clip VisionTransformer": Case(open_clip_vit, images()),
    "open_clip VisionTransformer, pool_type='avg'": Case(lambda: open_clip_vit(pool_type="avg"), images()),
    "open_clip VisionTransformer, LayerScale, tokens": Case(
        lambda: open_clip_vit(ls_init_value=0.5, output_tokens=True, final_ln_after_pool=True), images()
    ),
    "open_clip VisionTransformer, attentional_pool": Case(
        lambda: open_clip_vit(attentional_pool=True, attn_pooler_heads=3, attn_pooler_queries=4), images()
    ),
    "open_clip VisionTransformer, qk_norm": Case(lambda: open_clip_vit(qk_norm=True), images()),
    "open_clip CLIP": Case(open_clip_both, images("image")),
    "vit_pytorch ViT": Case(lambda: lucid("ViT"), images("img")),
    "vit_pytorch ViT, pool='mean'": Case(lambda: lucid("ViT", pool="mean"), images("img"), prefix=0),
    "vit_pytorch SimpleViT": Case(lambda: lucid("SimpleViT"), images("img"), prefix=0),
    "timm VisionTransformer": Case(timm_vit, images()),
    "timm VisionTransformer, ResPostBlock": Case(
        lambda: timm_vit(block_fn=timm_models.vision_transformer.ResPostBlock, init_values=0.5), images()
    ),
    "timm VisionTransformer, ParallelScalingBlock": Case(
        lambda: timm_vit(block_fn=timm_models.vision_transformer.ParallelScalingBlock, qk_norm=True, **MEAN),
        images(),
        prefix=0,
    ),
    "timm VisionTransformer, ParallelThingsBlock": Case(
        lambda: timm_vit(block_fn=timm_models.vision_transformer.ParallelThingsBlock), images()
    ),
    "timm VisionTransformer, DiffParallelScalingBlock": Case(
        lambda: timm_vit(block_fn=timm_models.vision_transformer.DiffParallelScalingBlock, embed_dim=48), images()
    ),
    "timm Eva": Case(timm_eva, images()),
    "timm Eva, EvaBlockPostNorm": Case(lambda: timm_eva(use_post_norm=True), images()),
}
