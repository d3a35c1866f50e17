"""Hugging Face's vision and audio models whose blocks are known. Many files of the library are copies of a few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.families import Attention, Block
from tokenmerge.backends.torch.patching.hf_attention import (
    FUSED,
    NAMED,
    NORMED,
    PROJECTED,
    TURNED,
    TURNED_TOKENS,
    WRITTEN,
)
from tokenmerge.backends.torch.patching.readers import CLASS, DECODES, GRID, POOLS, READERS, TEXT
from tokenmerge.backends.torch.patching.towers import Families, Family

Tensor = torch.Tensor


def scaled(block: Any, branch: Tensor) -> Tensor:
    """A branch that is scaled by a parameter at its end."""
    out: Tensor = block.lambda_2 * branch
    return out


def scaled_attention(block: Any, branch: Tensor) -> Tensor:
    """The same of attention."""
    out: Tensor = block.lambda_1 * branch
    return out


def dropped(block: Any, branch: Tensor) -> Tensor:
    """A branch that ends in dropout that is no module."""
    return nn.functional.dropout(branch, p=block.dropout, training=block.training)


# One dropout, one drop path: their first run ends attention, their second the MLP.
VIT = Block(attention="attention", attention_end="dropout", norm="layernorm_after", mlp_end="dropout")
PATCHES = "embeddings.patch_embeddings.num_patches"
DINO = Block(attention="attention", attention_end="drop_path", norm="norm2", mlp_end="drop_path")
BEIT = Block("attention", "drop_path", "layernorm_after", "drop_path")
DATA2VEC = Block("attention.attention", "attention.output", "layernorm_after", "drop_path")
CLIP = Block(attention="self_attn", attention_end="self_attn", norm="layer_norm2", mlp_end="mlp")
INTERN = Block("attention", "attention", "layernorm_after", "dropout", scaled_attention, scaled)
# attention is a part of a part, and the last module adds the stream itself
NESTED = Block("attention.attention", "attention.output", "layernorm_after", "output.dropout")
SPEECH = Block("self_attn", "self_attn", "final_layer_norm", "fc2", dropped, dropped)


def family(
    file: str,
    network: str,
    block: str,
    attention: str,
    parts: Block,
    how: Attention = PROJECTED,
    *,
    reads_class: str = "",
    on_grid: str = "",
    in_text: str = "",
    decodes: str = "",
    passes: str = "",
    readers: dict[str, str | Callable[[Any], str]] | None = None,
    pools: dict[str, tuple[str, str]] | None = None,
    **others: Any,
) -> Family:
    """A family of one file of the library, "folder.file" if they are not the same; its classes are given without the
    package, several with spaces between."""
    folder, _, name = file.rpartition(".")
    package = f"transformers.models.{folder or name}.modeling_{name}."
    found: dict[str, str | Callable[[Any], str]] = {}
    for kind, names in ((CLASS, reads_class), (GRID, on_grid), (TEXT, in_text), (DECODES, decodes), ("", passes)):
        found |= {f"{package}{name}": kind for name in names.split()}
    found |= {f"{package}{name}": kind for name, kind in (readers or {}).items()}
    taken = {f"{package}{name}": where for name, where in (pools or {}).items()}
    networks = tuple(f"{package}{name}" for name in network.split())
    attentions = " ".join(f"{package}{name}" for name in attention.split())
    return Family(networks, f"{package}{block}", attentions, parts, how, readers=found, pools=taken, **others)


def vit(file: str, name: str, **others: Any) -> Family:
    """A copy of ViT."""
    patches = {"patches": PATCHES}
    given: dict[str, Any] = {"blocks": "layers", "norm": "layernorm", "mask": "attention_mask", "hands_class": "pooler"}
    given |= patches | {"reads_class": f"{name}ForImageClassification"} | others
    return family(file, f"{name}Model", f"{name}Layer", f"{name}Attention", VIT, **given)


def dino(file: str, name: str, **others: Any) -> Family:
    """A copy of DINOv2."""
    given: dict[str, Any] = {
        "blocks": "encoder.layer",
        "norm": "layernorm",
        "patches": PATCHES,
        "pools": {f"{name}ForImageClassification": ("classifier", "class and mean")},
        "on_grid": f"{name}Backbone",
    }
    networks = f"{name}Model {name}Backbone"
    return family(file, networks, f"{name}Layer", f"{name}Attention", DINO, **given | others)


def clip(file: str, name: str, **others: Any) -> Family:
    """A copy of CLIP's vision half."""
    given: dict[str, Any] = {
        "network": f"{name}VisionModel",
        "block": f"{name}EncoderLayer",
        "attention": f"{name}Attention",
        "parts": CLIP,
        "blocks": "encoder.layers",
        "patches": "embeddings.num_patches",
        "reads_class": f"{name}Model {name}VisionModelWithProjection",
        "pools": {f"{name}ForImageClassification": ("classifier", "mean")},
    }
    return family(file, **given | others)


def speech(file: str, name: str, **others: Any) -> Family:
    """A copy of Whisper's encoder."""
    given: dict[str, Any] = {"blocks": "layers", "norm": "layer_norm", "patches": "config.max_source_positions"}
    given |= {"prefix": 0, "class_token": False}
    return family(file, f"{name}Encoder", f"{name}EncoderLayer", f"{name}Attention", SPEECH, **given | others)


def video_reader(module: Any) -> str:
    """VideoMAE's classifier takes the mean, or the first patch."""
    return POOLS if module.fc_norm is not None else GRID


def layers_reader(module: Any) -> str:
    """Whisper's classifier takes the last layer, or a sum of all."""
    return GRID if module.config.use_weighted_layer_sum else POOLS


NO_CLASS: dict[str, Any] = {"prefix": 0, "class_token": False}
BIASED: dict[str, Any] = {"norm": "layernorm", "patches": PATCHES, "pairs": True}
IMAGE_TEXT = "{0}Model {0}ForConditionalGeneration"

FAMILIES = (
    vit(
        "vit",
        "ViT",
        on_grid="ViTForMaskedImageModeling",
    ),
    vit(
        "deit",
        "DeiT",
        prefix=2,
        reads_class="DeiTForImageClassification DeiTForImageClassificationWithTeacher",
        on_grid="DeiTForMaskedImageModeling",
    ),
    vit("vit_mae", "ViTMAE", patches="", hands_class=False, reads_class="", on_grid="ViTMAEForPreTraining"),
    vit("vit_msn", "ViTMSN", hands_class=False),
    vit("ijepa", "IJepa", reads_class="", pools={"IJepaForImageClassification": ("classifier", "mean")}, **NO_CLASS),
    vit(
        "audio_spectrogram_transformer",
        "AST",
        prefix=2,
        patches="",
        hands_class=True,
        reads_class="ASTForAudioClassification",
    ),
    vit("vivit", "Vivit", reads_class="VivitForVideoClassification"),
    family(
        "videomae",
        "VideoMAEModel",
        "VideoMAELayer",
        "VideoMAESelfAttention",
        NESTED,
        NAMED,
        blocks="encoder.layer",
        patches="embeddings.num_patches",
        readers={"VideoMAEForVideoClassification": video_reader, "VideoMAEForPreTraining": GRID},
        pools={"VideoMAEForVideoClassification": ("fc_norm", "mean")},
        **NO_CLASS,
    ),
    family(
        "dpt",
        "DPTModel",
        "DPTViTLayer",
        "DPTSelfAttention",
        NESTED,
        NAMED,
        blocks="encoder.layer",
        norm="layernorm",
        hands_class="pooler",
        on_grid="DPTForDepthEstimation DPTForSemanticSegmentation",
    ),
    family("beit", "BeitModel", "BeitLayer", "BeitAttention", BEIT, blocks="layers", **BIASED),
    family(
        "data2vec.data2vec_vision",
        "Data2VecVisionModel",
        "Data2VecVisionLayer",
        "Data2VecVisionSelfAttention Data2VecVisionSdpaSelfAttention",
        DATA2VEC,
        NAMED,
        blocks="encoder.layer",
        **BIASED,
    ),
    dino("dinov2", "Dinov2"),
    dino("dinov2_with_registers", "Dinov2WithRegisters"),
    dino(
        "dinov3_vit",
        "DINOv3ViT",
        how=TURNED,
        blocks="model.layer",
        norm="norm",
        patches="",
        rotary=True,
    ),
    clip("clip", "CLIP"),
    clip("metaclip_2", "MetaClip2"),
    clip("altclip", "AltCLIP"),
    clip("chinese_clip", "ChineseCLIP", block="ChineseCLIPVisionLayer", attention="ChineseCLIPVisionAttention"),
    clip("clipseg", "CLIPSeg", on_grid="CLIPSegForImageSegmentation"),
    clip("mlcd", "MLCD", how=TURNED_TOKENS, rotary=True, reads_class="", pools={}),
    clip(
        "git",
        "Git",
        network="GitVisionTransformer",
        block="GitVisionEncoderLayer",
        attention="GitVisionAttention",
        norm="post_layernorm",
        hands_class=False,
        passes="GitVisionModel",
        in_text="GitModel GitForCausalLM",
    ),
    clip(
        "kosmos2",
        "Kosmos2",
        network="Kosmos2VisionTransformer",
        block="Kosmos2VisionEncoderLayer",
        attention="Kosmos2VisionAttention",
        in_text="Kosmos2Model Kosmos2ForConditionalGeneration",
        reads_class="Kosmos2VisionModel",
    ),
    clip(
        "owlvit",
        "OwlViT",
        network="OwlViTVisionTransformer",
        reads_class="OwlViTModel OwlViTVisionModel",
        on_grid="OwlViTForObjectDetection",
    ),
    clip(
        "owlv2",
        "Owlv2",
        network="Owlv2VisionTransformer",
        reads_class="Owlv2Model Owlv2VisionModel",
        on_grid="Owlv2ForObjectDetection",
    ),
    clip("siglip", "Siglip", norm="post_layernorm", probe="head.attention", **NO_CLASS),
    clip(
        "siglip2",
        "Siglip2",
        norm="post_layernorm",
        probe="head.attention",
        masked="head",
        mask="pixel_attention_mask",
        on_grid="Siglip2ForImageClassification",  # it pools by the mask that it was given
        pools={},
        **NO_CLASS,
    ),
    clip("blip", "Blip", how=WRITTEN, norm="post_layernorm", pools={}),
    clip("blip_2", "Blip2", how=FUSED, norm="post_layernorm", pools={}),
    clip("instructblip", "InstructBlip", how=FUSED, norm="post_layernorm", pools={}),
    clip(
        "idefics2",
        "Idefics2",
        network="Idefics2VisionTransformer",
        attention="Idefics2VisionAttention",
        norm="post_layernorm",
        in_text=IMAGE_TEXT.format("Idefics2"),
        patches="",
        mask="patch_attention_mask",
        **NO_CLASS,
    ),
    clip(
        "idefics3",
        "Idefics3",
        network="Idefics3VisionTransformer",
        attention="Idefics3VisionAttention",
        norm="post_layernorm",
        on_grid=IMAGE_TEXT.format("Idefics3"),
        patches="",
        mask="patch_attention_mask",
        **NO_CLASS,
    ),
    clip(
        "smolvlm",
        "SmolVLM",
        network="SmolVLMVisionTransformer",
        attention="SmolVLMVisionAttention",
        norm="post_layernorm",
        on_grid=IMAGE_TEXT.format("SmolVLM"),
        patches="",
        mask="patch_attention_mask",
        **NO_CLASS,
    ),
    family(
        "internvl",
        "InternVLVisionModel",
        "InternVLVisionLayer",
        "InternVLVisionAttention",
        INTERN,
        NORMED,
        blocks="encoder.layer",
        norm="layernorm",
        patches=PATCHES,
        hands_class=False,
        on_grid=IMAGE_TEXT.format("InternVL"),
    ),
    speech(
        "whisper",
        "Whisper",
        decodes="WhisperModel WhisperForConditionalGeneration",
        readers={"WhisperForAudioClassification": layers_reader},
        pools={"WhisperForAudioClassification": ("projector", "tokens")},
    ),
    speech("qwen2_audio", "Qwen2Audio", on_grid="Qwen2AudioEncoder Qwen2AudioForConditionalGeneration"),
)
KNOWN = Families(FAMILIES)


def _all(kind: str, names: str) -> dict[str, str]:
    """Models around towers of other files: "file.Name", with several ends of the name."""
    found = {}
    for each in names.split():
        file, _, name = each.partition(".")
        for end in ("Model", "ForConditionalGeneration", "ForCausalLM"):
            found[f"transformers.models.{file}.modeling_{file}.{name}{end}.forward"] = kind
    return found


READERS |= _all(TEXT, "llava.Llava vipllava.VipLlava paligemma.PaliGemma video_llava.VideoLlava fuyu.Fuyu")
READERS |= _all(
    GRID,
    "llava_next.LlavaNext llava_next_video.LlavaNextVideo llava_onevision.LlavaOnevision mistral3.Mistral3 "
    "gemma3.Gemma3 aya_vision.AyaVision perception_lm.PerceptionLM cohere2_vision.Cohere2Vision",
)
# through a Q-Former, whose cross attention counts no sizes
READERS |= _all(DECODES, "blip_2.Blip2 instructblip.InstructBlip blip.Blip")
READERS["transformers.models.blip.modeling_blip.BlipModel.forward"] = CLASS
for _part_ in ("Patch", "Image", "Fov"):
    READERS[f"transformers.models.depth_pro.modeling_depth_pro.DepthPro{_part_}Encoder.forward"] = GRID
_FILES = "depth_anything.DepthAnything prompt_depth_anything.PromptDepthAnything zoedepth.ZoeDepth depth_pro.DepthPro"
for _file_, _name_ in (each.split(".") for each in _FILES.split()):
    READERS[f"transformers.models.{_file_}.modeling_{_file_}.{_name_}ForDepthEstimation.forward"] = GRID
