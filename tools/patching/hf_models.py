"""Every vision and audio class of Hugging Face that the table knows, small and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import transformers as hf
from oracle import Joints
from torch import nn

Tensor = torch.Tensor
SIDE = 32
VIT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "image_size": SIDE,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}


@dataclass(frozen=True)
class Case:
    """A class to be tried.

    Attributes:
        build: makes the model. inputs: what it is called with.
        prefix: tokens in front of the patches.
        float32: whether something in the library is computed in float32, whatever the model's precision.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    prefix: int = 1
    float32: bool = False


def heads_of(names: tuple[str, str, str]) -> Callable[[Any, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values of three projections to three heads of eight."""

    def heads(attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = [nn.functional.linear(x, (part := getattr(attention, name)).weight, part.bias) for name in names]
        q, k, v = (each.reshape(*x.shape[:2], 3, 8).transpose(1, 2) for each in made)
        return q, k, v

    return heads


def fused(attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of one projection."""
    made = nn.functional.linear(x, attention.qkv.weight, attention.qkv.bias)
    q, k, v = made.reshape(*x.shape[:2], 3, 3, 8).permute(2, 0, 3, 1, 4)
    return q, k, v


def turned(attention: Any, q: Tensor, k: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Queries and keys `(B,H,N,d)` turned, but for those in front that have no position."""
    cos, sin = table
    front = q.shape[2] - cos.shape[-2]

    def turn(x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-right, left], dim=-1) * sin

    q, k = (torch.cat([each[:, :, :front], turn(each[:, :, front:])], dim=2) for each in (q, k))
    return q, k


PROJECTED, NAMED = heads_of(("q_proj", "k_proj", "v_proj")), heads_of(("query", "key", "value"))
VIT_BLOCK = Joints("attention", "layernorm_after", PROJECTED)
NESTED = Joints("attention.attention", "layernorm_after", NAMED)
DINO_BLOCK = Joints("attention", "norm2", PROJECTED)
CLIP_BLOCK = Joints("self_attn", "layer_norm2", PROJECTED)
BLOCKS: dict[str, Joints] = {
    **dict.fromkeys(("ViT", "DeiT", "ViTMAE", "ViTMSN", "IJepa", "AST", "Vivit", "InternVLVision"), VIT_BLOCK),
    "Beit": VIT_BLOCK,
    **dict.fromkeys(("VideoMAE", "DPTViT", "Data2VecVision"), NESTED),
    **dict.fromkeys(("Dinov2", "Dinov2WithRegisters"), DINO_BLOCK),
    "DINOv3ViT": Joints("attention", "norm2", PROJECTED, "position_embeddings", turned),
    "MLCD": Joints("self_attn", "layer_norm2", PROJECTED, "position_embeddings", turned),
    **dict.fromkeys(("Blip", "Blip2", "InstructBlip"), Joints("self_attn", "layer_norm2", fused)),
    **dict.fromkeys(("Whisper", "Qwen2Audio"), Joints("self_attn", "final_layer_norm", PROJECTED)),
}
OTHER_HALVES = ("text", "decoder", "language", "qformer", "git.encoder")


def blocks_of(model: nn.Module) -> list[tuple[nn.Module, Joints]]:
    """The blocks of the vision or audio half of a model, in order."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and not any(part in name for part in OTHER_HALVES):
            kind = type(module[0]).__name__.removesuffix("Layer").removesuffix("Encoder")
            if kind in BLOCKS or kind.removesuffix("Vision") in CLIPS:
                return [(block, BLOCKS.get(kind, CLIP_BLOCK)) for block in module]
    raise LookupError(f"no blocks in {type(model).__name__}")


CLIPS = {
    *("CLIP", "MetaClip2", "AltCLIP", "ChineseCLIP", "CLIPSeg", "Git", "Kosmos2", "OwlViT", "Owlv2"),
    *("Siglip", "Siglip2", "Idefics2", "Idefics3", "SmolVLM"),
}


def noise(*shape: int) -> Tensor:
    """Inputs, the same in every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def pixels() -> dict[str, Any]:
    return {"pixel_values": noise(2, 3, SIDE, SIDE)}


def one_image() -> dict[str, Any]:
    return {"pixel_values": noise(1, 3, SIDE, SIDE)}


def with_text() -> dict[str, Any]:
    return pixels() | {"input_ids": torch.tensor([[0, 3, 4, 2], [0, 5, 3, 2]])}


def frames() -> dict[str, Any]:
    return {"pixel_values": noise(2, 4, 3, 16, 16)}


def masked_pixels() -> dict[str, Any]:
    return pixels() | {"bool_masked_pos": torch.arange(16).remainder(3).eq(0).expand(2, 16)}


def mae_pixels() -> dict[str, Any]:
    return pixels() | {"noise": noise(2, 16)}


def placeholders(count: int, extra: dict[str, Any] | None = None) -> Callable[[], dict[str, Any]]:
    """An image and a text with so many image tokens, number 39."""
    ids = torch.tensor([[0, *(39,) * count, 3, 2]]).expand(2, -1)
    return lambda: pixels() | {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | (extra or {})


INSIDE = {
    "Idefics2VisionTransformer": "transformers.models.idefics2.modeling_idefics2",
    "Kosmos2VisionModel": "transformers.models.kosmos2.modeling_kosmos2",
}


def class_of(name: str) -> Any:
    """A class of the library, some of which are only in a file of it."""
    return getattr(import_module(INSIDE[name]) if name in INSIDE else hf, name)


def vision(name: str, config: str = "", **options: Any) -> Callable[[], nn.Module]:
    """A class whose configuration is that of a vision model."""
    kind = config or next(each for cut in range(len(name), 2, -1) if hasattr(hf, each := f"{name[:cut]}Config"))
    return lambda: class_of(name)(getattr(hf, kind)(**VIT | options))


def two_halves(name: str, text: dict[str, Any] | None = None, **options: Any) -> Callable[[], nn.Module]:
    """A class whose configuration has a text half as well."""
    kind = next(each for cut in range(len(name), 2, -1) if hasattr(hf, each := f"{name[:cut]}Config"))

    def build() -> nn.Module:
        config = getattr(hf, kind)
        given = {
            "vision_config": VIT | {"num_patches": 16},
            "text_config": TEXT | (text or {}),
            "projection_dim": 24,
        } | options
        return getattr(hf, name)(config(**given))

    return build


def speech(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Whisper."""
    sizes = {"d_model": 24, "encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 3}
    sizes |= {"decoder_attention_heads": 3, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_mel_bins": 8}
    sizes |= {"max_source_positions": 20, "max_target_positions": 16, "classifier_proj_size": 12}
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0, "vocab_size": 40}
    return lambda: getattr(hf, name)(hf.WhisperConfig(**sizes | special | options))


LLAMA = {"model_type": "llama", "num_key_value_heads": 3, "head_dim": 8} | TEXT


def language(name: str, vision_type: str, **options: Any) -> Callable[[], nn.Module]:
    """A language model that is shown an image, of a tower of the library's and a small Llama."""
    kind = next(each for cut in range(len(name), 2, -1) if hasattr(hf, each := f"{name[:cut]}Config"))
    halves = {"vision_config": VIT | {"model_type": vision_type}, "text_config": LLAMA, "image_token_id": 39}
    return lambda: class_of(name)(getattr(hf, kind)(**halves | options))


def depth(name: str) -> Callable[[], nn.Module]:
    """A depth model on DINOv2."""
    backbone = hf.Dinov2Config(**VIT, **DINO, out_indices=[1, 2, 3], reshape_hidden_states=False)
    sizes = {"reassemble_hidden_size": 24, "neck_hidden_sizes": [8, 8, 8], "fusion_hidden_size": 8}
    sizes |= {"reassemble_factors": [2, 1, 1], "head_hidden_size": 8, "patch_size": 8}
    return lambda: class_of(name)(hf.DepthAnythingConfig(backbone_config=backbone, **sizes))


def mel(decoder: bool = False) -> Callable[[], dict[str, Any]]:
    ids = {"decoder_input_ids": torch.tensor([[0, 3, 4], [0, 5, 6]])} if decoder else {}
    return lambda: {"input_features": noise(2, 8, 40)} | ids


def packed() -> dict[str, Any]:
    """Patches of two images, the second of which has fewer: SigLIP 2."""
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[1, 12:] = 0
    return {
        "pixel_values": noise(2, 16, 192),
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([[4, 4], [3, 4]]),
    }


def packed_whole() -> dict[str, Any]:
    """The same without padding."""
    return packed() | {"pixel_attention_mask": torch.ones(2, 16), "spatial_shapes": torch.tensor([[4, 4], [2, 8]])}


def qwen_audio(name: str) -> Callable[[], nn.Module]:
    sizes = {"d_model": 24, "encoder_layers": 3, "encoder_attention_heads": 3, "encoder_ffn_dim": 32}
    return lambda: class_of(name)(hf.Qwen2AudioEncoderConfig(**sizes, num_mel_bins=8, max_source_positions=20))


PAIRS = {"use_relative_position_bias": True, "use_shared_relative_position_bias": True, "use_mask_token": True}
DINO = {"mlp_ratio": 2, "layerscale_value": 0.5}
MAE = {"decoder_hidden_size": 24, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 3}
MAE |= {"decoder_intermediate_size": 32, "mask_ratio": 0.25}
VIDEO = {"image_size": 16, "num_frames": 4, "tubelet_size": 2}
VIVIT = VIDEO | {"tubelet_size": [2, 8, 8]}
SPECTRUM = {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 32}


def spectrum() -> dict[str, Any]:
    return {"input_values": noise(2, 32, 32)}


CASES: dict[str, Case] = {}


def add(names: str, make: Callable[..., Callable[[], nn.Module]], inputs: Any = pixels, **options: Any) -> None:
    """Cases of several classes that are built in one way."""
    own = {name: options.pop(name) for name in ("prefix", "float32") if name in options}
    for name in names.split():
        CASES[name] = Case(make(name, **options), inputs, **own)


add("ViTModel ViTForImageClassification", vision)
add("ViTForMaskedImageModeling", vision, masked_pixels, encoder_stride=8)
add("DeiTModel DeiTForImageClassification DeiTForImageClassificationWithTeacher", vision, prefix=2)
add("DeiTForMaskedImageModeling", vision, masked_pixels, encoder_stride=8, prefix=2)
add("ViTMAEModel ViTMAEForPreTraining", vision, mae_pixels, **MAE)
add("ViTMSNModel ViTMSNForImageClassification", vision)
add("IJepaModel IJepaForImageClassification", vision, prefix=0)
add("ASTModel ASTForAudioClassification", vision, spectrum, prefix=2, **SPECTRUM)
add("VivitModel VivitForVideoClassification", vision, frames, **VIVIT)
add("VideoMAEModel VideoMAEForVideoClassification", vision, frames, prefix=0, **VIDEO)
add("Dinov2Model Dinov2ForImageClassification Dinov2Backbone", vision, **DINO)
add(
    "Dinov2WithRegistersModel Dinov2WithRegistersForImageClassification Dinov2WithRegistersBackbone",
    vision,
    prefix=5,
    **DINO,
)
add("DINOv3ViTModel DINOv3ViTBackbone", vision, prefix=3, num_register_tokens=2, layerscale_value=0.5)
add("CLIPVisionModel CLIPVisionModelWithProjection", vision, config="CLIPVisionConfig")
add("CLIPModel", two_halves, with_text)
add("CLIPForImageClassification", two_halves)
add("MetaClip2VisionModel MetaClip2VisionModelWithProjection", vision, config="MetaClip2VisionConfig")
add("MetaClip2Model", two_halves, with_text)
add("MetaClip2ForImageClassification", two_halves)
add("AltCLIPVisionModel", vision, config="AltCLIPVisionConfig")
add("AltCLIPModel", two_halves, with_text, text={"project_dim": 24})
add("ChineseCLIPVisionModel", vision, config="ChineseCLIPVisionConfig")
add("ChineseCLIPModel", two_halves, with_text)
add("CLIPSegVisionModel", vision, config="CLIPSegVisionConfig")
add("CLIPSegModel", two_halves, with_text)
add(
    "CLIPSegForImageSegmentation",
    two_halves,
    with_text,
    extract_layers=[0, 1, 2],
    reduce_dim=12,
    decoder_num_attention_heads=3,
    decoder_intermediate_size=16,
)
add("MLCDVisionModel", vision, one_image, config="MLCDVisionConfig", float32=True)
add("SiglipVisionModel", vision, config="SiglipVisionConfig", prefix=0)
add("SiglipModel", two_halves, with_text, prefix=0)
add("SiglipForImageClassification", two_halves, prefix=0)
add("GitVisionModel", vision, config="GitVisionConfig", float32=True)
add("OwlViTVisionModel", vision, config="OwlViTVisionConfig")
add("Owlv2VisionModel", vision, config="Owlv2VisionConfig")
add("OwlViTModel OwlViTForObjectDetection", two_halves, with_text)
add("Owlv2Model Owlv2ForObjectDetection", two_halves, with_text)
add("BlipVisionModel", vision, config="BlipVisionConfig")
add("BlipModel", two_halves, with_text, text={"projection_dim": 24, "sep_token_id": 2})
add("Blip2VisionModel", vision, config="Blip2VisionConfig")
add("InstructBlipVisionModel", vision, config="InstructBlipVisionConfig")
add("Idefics3VisionTransformer", vision, config="Idefics3VisionConfig", prefix=0)
add("SmolVLMVisionTransformer", vision, config="SmolVLMVisionConfig", prefix=0)
add("InternVLVisionModel", vision, config="InternVLVisionConfig", layer_scale_init_value=0.5)
add("WhisperModel WhisperForConditionalGeneration", speech, mel(decoder=True), prefix=0)
add("WhisperForAudioClassification", speech, mel(), prefix=0)
add("DPTModel", vision)
add(
    "DPTForDepthEstimation DPTForSemanticSegmentation",
    vision,
    backbone_out_indices=[0, 1, 2],
    reassemble_factors=[2, 1, 1],
    neck_hidden_sizes=[8, 8, 8],
    fusion_hidden_size=8,
)

add("Qwen2AudioEncoder", qwen_audio, mel(), prefix=0)
add("Idefics2VisionTransformer", vision, config="Idefics2VisionConfig", prefix=0)
add("Kosmos2VisionModel", vision, config="Kosmos2VisionConfig")
add("LlavaForConditionalGeneration LlavaModel", language, placeholders(16), vision_type="clip_vision_model")
add("InternVLForConditionalGeneration", language, placeholders(4), vision_type="internvl_vision")
add("DepthAnythingForDepthEstimation", depth)
add("Siglip2VisionModel", vision, packed_whole, config="Siglip2VisionConfig", prefix=0, num_patches=16)
add("Siglip2ForImageClassification", two_halves, packed_whole, prefix=0)
add("BeitModel BeitForImageClassification BeitBackbone", vision, **PAIRS)
add("BeitForMaskedImageModeling", vision, masked_pixels, **PAIRS)
add("Data2VecVisionModel Data2VecVisionForImageClassification", vision, **PAIRS)
