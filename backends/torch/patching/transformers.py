"""Hugging Face's ViT, DeiT, DINOv2 (with and without registers), CLIP and SigLIP vision models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.ats import attend
from tokenmerge.backends.torch.patching.families import Attention, Block, Network, describe, method_name
from tokenmerge.backends.torch.patching.hook import Patch
from tokenmerge.backends.torch.patching.pooling import MeanPool, ProbePool
from tokenmerge.backends.torch.patching.readers import CLASS, DECODES, GRID, POOLS, READERS, around, reader
from tokenmerge.backends.torch.patching.tome import mean_key
from tokenmerge.backends.torch.plan import SelectionPlan

Tensor = torch.Tensor


def keys(attention: Any, output: Tensor) -> Tensor:
    """Keys `(B,N,H d)`, averaged over heads."""
    return mean_key(output.unflatten(2, (-1, attention.head_dim)), 2)


def heads(attention: Any, x: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `(B,H,N,d)`."""
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (part(x).unflatten(2, (-1, attention.head_dim)).transpose(1, 2) for part in projections)
    return q, k, v


def attend_chosen(
    attention: Any, q: Tensor, k: Tensor, v: Tensor, x: Tensor, plan: SelectionPlan, kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """The rest of the module, for the chosen queries: `(B,P,C)`, and the weights where its attention gives them."""
    last = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
    rate = attention.attention_dropout if hasattr(attention, "attention_dropout") else attention.dropout
    bias, dropout = kwargs.get("attention_mask"), rate if attention.training else 0.0
    if attention.config._attn_implementation != "eager":
        return last(attend(q, k, v, bias, dropout, None)), None
    logits = (q @ k.transpose(2, 3)) * (attention.scaling if hasattr(attention, "scaling") else attention.scale)
    weights = (logits if bias is None else logits + bias).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    weights = nn.functional.dropout(weights, dropout)
    return last((weights @ v).transpose(1, 2).flatten(2)), weights


ATTENTION = Attention("k_proj", keys, heads, attend_chosen, "attention_mask", 1, ("hidden_states", "attention_mask"))
# One dropout, one drop path: their first run ends attention, their second the MLP.
VIT = Block(attention="attention", attention_end="dropout", norm="layernorm_after", mlp_end="dropout")
DINO = Block(attention="attention", attention_end="drop_path", norm="norm2", mlp_end="drop_path")
CLIP = Block(attention="self_attn", attention_end="self_attn", norm="layer_norm2", mlp_end="mlp")


@dataclass(frozen=True)
class Family:
    """A vision model of one file of the library, and the models around it.

    Attributes:
        network: the class that runs the blocks; block, attention: the classes of these.
        parts: of the block. blocks, norm: where blocks and last norm are. patches: the part that knows their number.
        prefix: class and distillation tokens.
        heads: models around it that pool by themselves: by what they pool.
        on_grid: models that lay the tokens out on a grid.
        backbone: a class that runs the blocks as well, and lays the tokens out on a grid; "" for none.
        readers: models around it that read the class token, or what the network makes of it.
    """

    network: str
    block: str
    attention: str
    parts: Block
    blocks: str
    norm: str | None
    patches: str
    prefix: int
    heads: dict[str, str]
    on_grid: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    backbone: str = ""


def _vit(file: str, name: str, prefix: int) -> Family:
    package = f"transformers.models.{file}.modeling_{file}.{name}"
    network, block, attention = (f"{package}{part}" for part in ("Model", "Layer", "Attention"))
    on_grid = (f"{package}ForMaskedImageModeling",)
    readers = tuple(f"{package}ForImageClassification{end}" for end in ("", "WithTeacher"))
    where = ("layers", "layernorm", "embeddings.patch_embeddings")
    return Family(network, block, attention, VIT, *where, prefix, {}, on_grid, readers)


def _dino(file: str, name: str) -> Family:
    package = f"transformers.models.{file}.modeling_{file}.{name}"
    network, block, attention = (f"{package}{part}" for part in ("Model", "Layer", "Attention"))
    heads = {f"{package}ForImageClassification": "class and mean"}
    backbone = f"{package}Backbone"
    where = ("encoder.layer", "layernorm", "embeddings.patch_embeddings")
    return Family(network, block, attention, DINO, *where, 1, heads, (backbone,), backbone=backbone)


def _clip(file: str, name: str, norm: str | None, prefix: int) -> Family:
    package = f"transformers.models.{file}.modeling_{file}.{name}"
    network, block, attention = (f"{package}{part}" for part in ("VisionModel", "EncoderLayer", "Attention"))
    heads = {f"{package}ForImageClassification": "mean"}
    readers = tuple(f"{package}{end}" for end in ("Model", "VisionModelWithProjection"))
    return Family(network, block, attention, CLIP, "encoder.layers", norm, "embeddings", prefix, heads, (), readers)


FAMILIES = (
    _vit("vit", "ViT", 1),
    _vit("deit", "DeiT", 2),
    _dino("dinov2", "Dinov2"),
    _dino("dinov2_with_registers", "Dinov2WithRegisters"),
    _clip("clip", "CLIP", None, 1),
    _clip("siglip", "Siglip", "post_layernorm", 0),
)
BLOCKS = {f"{family.block}.forward": family.parts for family in FAMILIES}
ATTENTIONS = {f"{family.attention}.forward": ATTENTION for family in FAMILIES}
for _family_ in FAMILIES:
    READERS |= {f"{name}.forward": POOLS for name in _family_.heads}
    READERS |= {f"{name}.forward": GRID for name in _family_.on_grid}
    READERS |= {f"{name}.forward": CLASS for name in _family_.readers}
ENCODER_DECODER = "transformers.models.vision_encoder_decoder.modeling_vision_encoder_decoder"
READERS[f"{ENCODER_DECODER}.VisionEncoderDecoderModel.forward"] = DECODES
BIASED = ("sdpa", "eager")  # attention functions that add a mask of floats to the logits


def is_network(module: nn.Module) -> bool:
    """Whether a module is one that `read` can read."""
    return _family(module) is not None


def num_patches(part: str, module: nn.Module) -> int:
    """Patches of an image of the usual size."""
    return int(module.get_submodule(part).num_patches)  # type: ignore[arg-type]


def read(model: nn.Module, module: Any, name: str) -> Network:
    """A vision model of the library, taken apart; `model` is it, or what is around it.

    Raises:
        CannotPatch: it has a block or an attention that is not known.
    """
    family = _family(module)
    assert family is not None
    blocks = describe(module.get_submodule(family.blocks), f"{name}.{family.blocks}", BLOCKS, ATTENTIONS)
    prefix = family.prefix + getattr(module.config, "num_register_tokens", 0)
    implementation = module.config._attn_implementation
    pooling: list[tuple[nn.Module, Callable[[Patch], Callable[..., Any]]]] = []
    outside = [each for _, each in around(model, module)]
    pools = None
    for outer in outside:
        how = next((how for head, how in family.heads.items() if method_name(outer) == f"{head}.forward"), None)
        if how is not None:
            pools = how
            hook = partial(MeanPool, skip=prefix, with_class=how == "class and mean")
            pooling.append((outer.get_submodule("classifier"), hook))
    if getattr(module, "use_head", False):
        pooling.append((module.head.attention, ProbePool))
    return Network(
        module=module,
        name=name,
        blocks=blocks,
        prefix=prefix,
        class_token=prefix > 0,
        patches=module.get_submodule(family.patches).num_patches,
        norm=None if family.norm is None else getattr(module, family.norm),
        reads_class=_reads_class(outside, module, family, pools),
        rotary=False,
        pooling=pooling,
        makes_mask="attention_mask",
        num_patches=partial(num_patches, family.patches),
        unbiased="" if implementation in BIASED else f"attn_implementation={implementation!r}",
    )


def _reads_class(outside: list[nn.Module], module: Any, family: Family, pools: str | None) -> str:
    """Who reads the class token; a model around the network that is not known may."""
    if family.prefix == 0 or pools == "mean":
        return ""
    if all(reader(outer) == "" for outer in outside) and family.parts is VIT and module.pooler is None:
        return ""
    return type(outside[-1] if outside else module).__name__


def _family(module: nn.Module) -> Family | None:
    name = method_name(module)
    return next(
        (each for each in FAMILIES if name in {f"{kind}.forward" for kind in (each.network, each.backbone)}), None
    )
