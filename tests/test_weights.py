"""Other people's checkpoints in our networks, against the networks that they are from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vit_cases import SLACK, Array, Reference, images, random_params

from tokenmerge import ViTConfig, get_vit
from tokenmerge.weights import convert_params
from tokenmerge.weights.positions import resize_positions

SIZES: dict[str, Any] = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 2, "heads": 2}
THEIRS = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def randomized(model: Any) -> Any:
    """A model of PyTorch in float64 with random parameters that float32 holds."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            drawn = torch.randn(value.shape, generator=generator) / (2 if value.ndim < 2 else value.shape[-1] ** 0.5)
            value.copy_(drawn + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model.double().eval()


def check(config: ViTConfig, model: Any, part: str) -> None:
    """Their output is ours, as far as two backends may differ."""
    import torch

    given = images(config)
    with torch.no_grad():
        out = model(pixel_values=torch.tensor(given.transpose(0, 3, 1, 2)))
    theirs = (out.logits if part == "logits" else out.last_hidden_state).numpy()
    params = convert_params(model.state_dict(), config)
    reference = Reference(config, params, given)
    mine = reference.parts[part]
    distance = np.abs(mine - theirs)
    assert (distance <= reference.budget[part]).all(), (distance / reference.budget[part]).max()


@pytest.mark.parametrize("name", ["ViTForImageClassification", "ViTModel", "Dinov2Model", "Dinov2WithRegistersModel"])
def test_hugging_face(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    kind = name.removesuffix("ForImageClassification").removesuffix("Model")
    options: dict[str, Any] = {"intermediate_size": 64, "mlp_ratio": 4, "num_labels": 5}
    configuration = getattr(transformers, f"{kind}Config")(**THEIRS, **options)
    model = randomized(getattr(transformers, name)(configuration))
    classes = 5 if name.endswith("Classification") else 0
    extra: dict[str, Any] = {}
    if kind != "ViT":
        extra["layer_scale"] = 1.0
    if "Registers" in kind:
        extra |= {"register_tokens": 4, "no_embed_class": True}
    config = ViTConfig(**SIZES, num_classes=classes, norm_eps=configuration.layer_norm_eps, **extra)
    check(config, model, "logits" if classes else "tokens")


def test_names_before_transformers_5() -> None:
    config = ViTConfig(**SIZES, num_classes=5)
    params = random_params(config)
    old = {}
    names = {
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    for name, value in params.items():
        place, _, last = name.rpartition(".")
        inside = place.split(".", 2)
        if name in names:
            old[names[name]] = value
        elif place in names:
            old[f"{names[place]}.{last}"] = value
        elif place.endswith("qkv"):
            for part, each in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                old[f"vit.encoder.layer.{inside[1]}.attention.attention.{part}.{last}"] = each
        elif place.startswith("blocks"):
            old[f"vit.encoder.layer.{inside[1]}.{names[inside[2]]}.{last}"] = value
        else:
            old[{"norm": "vit.layernorm", "head": "classifier"}[place] + f".{last}"] = value
    got = convert_params(old, config)
    assert got.keys() == params.keys()
    assert all((got[name] == params[name]).all() for name in params)


def as_npz(params: dict[str, Array], heads: int, stacked: bool) -> dict[str, Array]:
    """A state dict of timm as Flax's own ViT keeps it."""
    out: dict[str, Array] = {}
    numbers = ("0", "1", "0", "0") if stacked else ("0", "2", "1", "3")
    first, second, attention, mlp = numbers
    places = {
        "norm1": f"LayerNorm_{first}",
        "norm2": f"LayerNorm_{second}",
        "attn.proj": f"MultiHeadDotProductAttention_{attention}/out",
        "mlp.fc1": f"MlpBlock_{mlp}/Dense_0",
        "mlp.fc2": f"MlpBlock_{mlp}/Dense_1",
    }
    for name, value in params.items():
        place, _, last = name.rpartition(".")
        inside = place.split(".", 2)
        kind = "bias" if last == "bias" else "scale" if "norm" in name else "kernel"
        if name in ("cls_token", "pos_embed"):
            at = {"cls_token": "cls", "pos_embed": "Transformer/posembed_input/pos_embedding"}[name]
            out["pos_embedding" if stacked and name == "pos_embed" else at] = value
        elif place == "patch_embed.proj":
            out[f"embedding/{kind}"] = value.transpose(2, 3, 1, 0) if kind == "kernel" else value
        elif place.endswith("qkv"):
            for part, each in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                shaped = each.T.reshape(each.shape[1], heads, -1) if kind == "kernel" else each.reshape(heads, -1)
                at = f"Transformer/encoderblock_{inside[1]}/MultiHeadDotProductAttention_{attention}/{part}/{kind}"
                out[at] = shaped
        elif place.startswith("blocks"):
            shaped = value.T if kind == "kernel" else value
            shaped = (
                shaped.reshape(heads, -1, shaped.shape[1]) if place.endswith("proj") and kind == "kernel" else shaped
            )
            out[f"Transformer/encoderblock_{inside[1]}/{places[inside[2]]}/{kind}"] = shaped
        else:
            at = {"norm": "Transformer/encoder_norm", "head": "head"}[place]
            out[f"{at}/{kind}"] = value.T if kind == "kernel" else value
    if stacked:
        blocks = [name for name in out if "encoderblock_0/" in name]
        for name in blocks:
            whole = [out.pop(name.replace("block_0/", f"block_{index}/")) for index in range(2)]
            out[name.replace("block_0/", "block/")] = np.stack(whole)
        out = {f"params/{name}": value for name, value in out.items()} | {"opt/0/mu": np.zeros(3)}
    return out


@pytest.mark.parametrize("stacked", [False, True])
def test_big_vision(stacked: bool, tmp_path: Path) -> None:
    config = ViTConfig(**SIZES, num_classes=5)
    params = random_params(config)
    np.savez(tmp_path / "vit.npz", **as_npz(params, 2, stacked))
    got = convert_params(tmp_path / "vit.npz", config)
    assert got.keys() == params.keys()
    assert all((got[name] == params[name]).all() for name in params)


def test_big_vision_is_read_as_timm_reads_it(tmp_path: Path) -> None:
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    config = ViTConfig(**SIZES, num_classes=5)
    file = tmp_path / "vit.npz"
    np.savez(file, **as_npz(random_params(config), 2, stacked=False))
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    model = timm.models.vision_transformer.VisionTransformer(**sizes)
    with torch.no_grad():
        model.load_pretrained(str(file))
    got = convert_params(file, config)
    assert all((value.numpy() == got[name]).all() for name, value in model.state_dict().items())


# Positions


@pytest.mark.parametrize("new", [(4, 4), (8, 8), (3, 3), (7, 2), (2, 9)])
def test_positions_are_resized_as_in_timm(new: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    resample = pytest.importorskip("timm.layers").resample_abs_pos_embed
    position = np.random.default_rng(0).standard_normal((1, 16, 8), np.float32)
    grid = torch.tensor(position, dtype=torch.float64).reshape(1, 4, 4, 8).permute(0, 3, 1, 2)
    exact = torch.nn.functional.interpolate(grid, size=new, mode="bicubic", antialias=True)
    exact = exact.permute(0, 2, 3, 1).reshape(1, -1, 8).numpy()
    timms = resample(torch.tensor(position), list(new), [4, 4], 0).numpy()
    rounding = np.abs(timms - exact).max() / np.finfo(np.float32).eps  # how much the sums amplify it
    ours = resize_positions(position.astype(float), (4, 4), new)
    assert np.abs(ours - exact).max() <= np.finfo(float).eps * (SLACK * rounding + np.abs(exact).max())


def test_tokens_in_front_keep_their_positions() -> None:
    config, larger = (ViTConfig(**SIZES | {"image_size": size}, num_classes=5) for size in (16, 32))
    params = random_params(config)
    got = convert_params(params, larger)
    assert (got["pos_embed"][:, :1] == params["pos_embed"][:, :1]).all()
    assert got["pos_embed"].shape == (1, 65, 16)
    get_vit(larger).load_params(got)
    apart = ViTConfig(**SIZES, num_classes=5, no_embed_class=True)
    got = convert_params(params, apart)
    assert (got["cls_token"] == params["cls_token"] + params["pos_embed"][:, :1]).all()
    assert (got["pos_embed"] == params["pos_embed"][:, 1:]).all()
    assert (convert_params({"pos_embed": got["pos_embed"]}, config)["pos_embed"][:, 0] == 0).all()


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    config = ViTConfig(**SIZES)
    (tmp_path / "no.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"^convert_params: `source` must be a file of arrays, got .*no\.npz"):
        convert_params(tmp_path / "no.npz", config)
    with pytest.raises(TypeError, match=r"^convert_params: `source` must be a mapping or the path of a file, got 3"):
        convert_params(3, config)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^convert_params: `pos_embed` must be of a square grid"):
        convert_params({"pos_embed": np.zeros((1, 12, 16))}, config)
