"""What is said where no network is known: which class it is, what has been changed, and why some blocks cannot be."""

from __future__ import annotations

import inspect

from torch import nn

from tokenmerge.backends.torch.patching.families import method_name

PACKED = (
    "puts the tokens of all images into one sequence without a batch, in 2 x 2 groups that are joined behind its "
    "blocks: for fewer image tokens give it smaller images"
)
ONE = "puts the tokens of all images into one sequence, with a mask between them"
WINDOWS = "attends in windows of a map, where merged tokens have no place"
BEHIND = "has tokens that it reads behind the patches, where they would merge"
IN_TURN = "attends over time and space in turn, so tokens have to keep their places"
PLACES = "computes the places of its tokens from how many there are, inside attention"
MIXED = "has the tokens of a text and of an image in one sequence"
MAPS = "lays its tokens out on a map inside or between its blocks"
PAIRS = "adds a bias to every pair of places to its logits, and merged tokens have no place"
NORMS = "norms the stream itself and not its branches, which `patch` has no way to describe"
BLOCKS = {
    PACKED: (
        "qwen2_vl.Qwen2VLVisionBlock qwen2_5_vl.Qwen2_5_VLVisionBlock qwen3_vl.Qwen3VLVisionBlock "
        "qwen3_vl_moe.Qwen3VLMoeVisionBlock qwen2_5_omni.Qwen2_5OmniVisionBlock glm4v.Glm4vVisionBlock "
        "glm4v_moe.Glm4vMoeVisionBlock ernie4_5_vl_moe.Ernie4_5_VLMoeVisionBlock"
    ),
    ONE: "pixtral.PixtralAttentionLayer",
    WINDOWS: (
        "swin.SwinLayer swinv2.Swinv2Layer donut_swin.DonutSwinLayer maskformer_swin.MaskFormerSwinLayer "
        "clap.ClapAudioLayer swin2sr.Swin2SRLayer vitdet.VitDetLayer sam.SamVisionLayer sam_hq.SamHQVisionLayer "
        "got_ocr2.GotOcr2VisionLayer sam2.Sam2MultiScaleBlock sam3.Sam3ViTLayer lw_detr.LwDetrViTLayer "
        "rf_detr.RfDetrDinov2Layer hiera.HieraLayer"
    ),
    BEHIND: (
        "yolos.YolosLayer eomt.EomtLayer eomt_dinov3.EomtDinov3Layer x_clip.XCLIPVisionEncoderLayer "
        "groupvit.GroupViTEncoderLayer"
    ),
    IN_TURN: "timesformer.TimesformerLayer",
    PLACES: "vjepa2.VJEPA2Layer",
    MIXED: "vilt.ViltLayer layoutlmv3.LayoutLMv3Layer",
    MAPS: (
        "segformer.SegformerLayer pvt.PvtLayer pvt_v2.PvtV2BlockLayer cvt.CvtLayer mobilevit.MobileViTTransformerLayer "
        "glpn.GLPNLayer dinat.DinatLayer poolformer.PoolFormerLayer"
    ),
    PAIRS: "wavlm.WavLMEncoderLayer seggpt.SegGptLayer",
    NORMS: (
        "wav2vec2.Wav2Vec2EncoderLayer hubert.HubertEncoderLayer data2vec_audio.Data2VecAudioEncoderLayer "
        "sew.SEWEncoderLayer unispeech.UniSpeechEncoderLayer unispeech_sat.UniSpeechSatEncoderLayer"
    ),
}
REASONS = {
    f"transformers.models.{file}.modeling_{file}.{name}.forward": reason
    for reason, blocks in BLOCKS.items()
    for file, name in (each.split(".") for each in blocks.split())
} | {
    "timm.models.vision_transformer_sam.Block.forward": WINDOWS,
}


def what_is_there(model: nn.Module, known: set[str]) -> str:
    """The class of a model in which no network is known, and what may be the matter.

    Args:
        known: the full names of the functions by which networks are known.
    """
    kind = type(model)
    name = f"none in {kind.__module__}.{kind.__qualname__}"
    for path, module in model.named_modules():
        changed = _changed(module, known)
        if changed:
            where = f"`{path}`" if path else "it"
            return (
                f"{name} ({where} is a {type(module).__name__}, which is known, with a `{changed}` of its own on the "
                "instance, which is not: take that off, or patch first)"
            )
    for path, module in model.named_modules():
        reason = REASONS.get(method_name(module))
        if reason is not None:
            return f"{name} (whose {path} ({type(module).__name__}) {reason})"
    lists = [(path, part) for path, part in model.named_modules() if isinstance(part, nn.ModuleList | nn.Sequential)]
    path, longest = max(lists, key=lambda each: len(each[1]), default=("", None))
    return f"{name} (whose {path}[0] runs {method_name(longest[0])})" if longest and path else name


def _changed(module: nn.Module, known: set[str]) -> str:
    """The function of an instance that hides one which is known; "" if there is none."""
    for method in ("forward", "forward_features"):
        if method in module.__dict__ and hasattr(type(module), method):
            function = inspect.unwrap(getattr(type(module), method))
            if f"{function.__module__}.{function.__qualname__}" in known:
                return method
    return ""
