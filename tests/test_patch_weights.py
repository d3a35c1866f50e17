"""Patched Hugging Face models give what our own network gives with the same weights, under timm's names."""

from __future__ import annotations

import re
from typing import Any

import pytest
from patch_cases import MERGINGS, near

from tokenmerge import ViTConfig, get_vit

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from tokenmerge.backends.torch.patching import patch  # noqa: E402

WIDTHS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
OURS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "dim": 24,
    "depth": 3,
    "heads": 3,
    "mlp_dim": 48,
    "num_classes": 0,
}

# configuration, model, and the same for us
FAMILIES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTModel", {}, {}),
    "deit": ("DeiTConfig", "DeiTModel", {}, {"distillation_token": True}),
    "dinov2": ("Dinov2Config", "Dinov2Model", {"mlp_ratio": 2}, {"layer_scale": 1.0}),
    "dinov2, registers": (
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersModel",
        {"mlp_ratio": 2, "num_register_tokens": 4},
        {"layer_scale": 1.0, "register_tokens": 4, "no_embed_class": True},
    ),
    "clip": ("CLIPVisionConfig", "CLIPVisionModel", {}, {"pre_norm": True}),
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel", {}, {"class_token": False, "pool": "mean", "fc_norm": False}),
}

# their names, and timm's, which are ours
NAMES = (
    (r"embeddings\.(cls_token|class_embedding)", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embeddings|embeddings\.position_embedding\.weight", "pos_embed"),
    (r"embeddings\.(patch_embeddings\.projection|patch_embedding)\.", "patch_embed.proj."),
    (r"pre_layrnorm\.", "norm_pre."),
    (r"(encoder\.)?(layers|layer)\.(\d+)\.", r"blocks.\3."),
    (r"layernorm_before|layer_norm1", "norm1"),
    (r"layernorm_after|layer_norm2", "norm2"),
    (r"(attention|self_attn)\.(o_proj|out_proj)", "attn.proj"),
    (r"(attention|self_attn)\.([qkv])_proj", r"attn.\2"),
    (r"layer_scale([12])\.lambda1", r"ls\1.gamma"),
    (r"^(layernorm|post_layernorm)\.", "norm."),
)


def build(family: str, kind: str | None = None, **options: Any) -> Any:
    """A model with random parameters, in float64 and evaluation mode; nothing is downloaded."""
    configuration, model, theirs, _ = FAMILIES[family]
    torch.manual_seed(0)
    made = getattr(hf, kind or model)(getattr(hf, configuration)(**WIDTHS | theirs | options)).double().eval()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.2 * torch.randn_like(value))
    return made


def our_names(state: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Their state dict under timm's names; queries, keys and values in one."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        for pattern, ours in NAMES:
            name = re.sub(pattern, ours, name)
        found[name] = value
    for name in [name for name in found if ".attn.q." in name]:
        parts = [found.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        found[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    found = {name: value for name, value in found.items() if name in wanted}
    if "reg_token" in found:  # they have a position for the class token and none for the registers; ours is added to it
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return {name: value.reshape(wanted[name].shape) for name, value in found.items()}


def images(batch: int = 2) -> Any:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("merging", ["tome", "ats", "ltm"])
@pytest.mark.parametrize("family", FAMILIES)
def test_is_our_own_network_with_the_same_weights(family: str, merging: str) -> None:
    name, options, ours = MERGINGS[merging]
    model, x = build(family), images()
    keys, before = list(model.state_dict()), model(x).last_hidden_state.detach()
    if family == "siglip" and merging == "ats":
        with pytest.raises(ValueError, match=r"^patch: `model` must have a class token for 'ats'"):
            patch(model, name, **options)
        return
    network = get_vit(ViTConfig(**OURS | FAMILIES[family][3], merging=ours), backend="torch").double().eval()
    with patch(model, name, **options) as handle, torch.no_grad():
        weights = our_names(model.state_dict(), network.state_dict())
        assert weights.keys() == network.state_dict().keys()
        network.load_state_dict(weights)
        got, expected = model(x), network(x)
        tokens = got.last_hidden_state
        if family == "clip":  # they give the tokens before the last norm, and a normed class token
            tokens = model.post_layernorm(tokens)
            assert torch.equal(got.pooler_output, tokens[:, 0])
        if handle.mask is not None:
            tokens = torch.where(handle.mask[..., None], tokens, 0)
        assert near(tokens, expected.tokens, model)
        assert torch.equal(handle.source().matrix(), expected.plan.matrix())
    assert torch.equal(model(x).last_hidden_state, before)
    assert list(model.state_dict()) == keys
