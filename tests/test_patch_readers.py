"""Whoever reads the tokens of a patched network gets what it takes them for, or says so."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
hf = pytest.importorskip("transformers")

from patch_cases import HF, VIT, images, near, shaken, vit  # noqa: E402

from tokenmerge.backends.torch import patch  # noqa: E402
from tokenmerge.backends.torch.patching import CannotPatch  # noqa: E402

DINO = {"mlp_ratio": 2, "num_labels": 5}
TEXT = {"num_hidden_layers": 1, "vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def vision(kind: str) -> Any:
    sizes = HF | {"intermediate_size": 32}
    return getattr(hf, f"{kind}Config")(vision_config=sizes, text_config=sizes | TEXT, num_labels=5)


HEADS: dict[str, Any] = {
    "dinov2": lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**HF, **DINO)),
    "registers": lambda: hf.Dinov2WithRegistersForImageClassification(hf.Dinov2WithRegistersConfig(**HF, **DINO)),
    "clip": lambda: hf.CLIPForImageClassification(vision("CLIP")),
    "siglip": lambda: hf.SiglipForImageClassification(vision("Siglip")),
}


class Outer(torch.nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *given: Any, **named: Any) -> Any:
        return self.inner(*given, **named)


WRAPPERS = {"DataParallel": torch.nn.DataParallel, "own": Outer, "twice": lambda model: Outer(Outer(model))}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_counts_patches_behind_any_wrapper(head: str, wrapper: str) -> None:
    model, x = shaken(HEADS[head]()), images()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        with patch(model, "tome", r=3):
            expected = model(x).logits
        with patch(wrapped := WRAPPERS[wrapper](model), "tome", r=3):
            assert torch.equal(wrapped(pixel_values=x).logits, expected)
        assert not near(model(x).logits, expected)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_is_replaced_counts_patches_too(head: str) -> None:
    model, x = shaken(HEADS[head]()), images()
    new = torch.nn.Linear(model.classifier.in_features, 7).double()
    with torch.no_grad():
        with patch(model, "tome", r=3):
            model.classifier = new
            late = model(x).logits
        with patch(model, "tome", r=3):
            assert torch.equal(model(x).logits, late)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_around_a_patched_network_is_refused(head: str) -> None:
    model = shaken(HEADS[head]())
    inner = next(part for part in model.modules() if hasattr(part, "embeddings"))
    with torch.no_grad(), patch(inner, "tome", r=3):
        with pytest.raises(RuntimeError, match=r"^patch: .*ForImageClassification averages tokens by itself"):
            model(images())


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_grid_behind_any_wrapper_is_refused_or_restored(wrapper: str) -> None:
    config = hf.ViTConfig(**HF, intermediate_size=32, encoder_stride=8)
    inner = shaken(hf.ViTForMaskedImageModeling(config))
    model = WRAPPERS[wrapper](inner)
    with pytest.raises(CannotPatch, match=r"^patch: `model` must not need its tokens on the grid"):
        patch(model, "tome", r=[9, 0, 0])
    with torch.no_grad():
        with patch(model, "tome", r=[8, 0, 0], restore=True):
            got = model(pixel_values=images()).reconstruction
        with patch(inner.vit, "tome", r=[8, 0, 0]) as handle:
            with pytest.raises(RuntimeError, match=r"^patch: ViTForMaskedImageModeling lays tokens out on a grid"):
                model(pixel_values=images())
            tokens = handle.unmerge(inner.vit(images()).last_hidden_state)
        expected = inner.decoder(tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
    assert near(got, expected)


@pytest.mark.parametrize("door", ["forward_intermediates", "get_intermediate_layers", "features_only"])
@pytest.mark.parametrize("merger", ["tome", "ats"])
def test_maps_of_timm_are_refused_or_restored(door: str, merger: str) -> None:
    options = {"r": 3} if merger == "tome" else {"max_tokens": (9, 6)}
    model, x = vit(), images()

    def maps() -> Any:
        if door == "get_intermediate_layers":
            return model.get_intermediate_layers(x, 3, reshape=True)
        if door == "features_only":
            return timm.models._features.FeatureGetterNet(model, out_indices=(0, 1, 2), prune=False)(x)
        return model.forward_intermediates(x, intermediates_only=True)

    with torch.no_grad():
        with patch(model, merger, **options) as handle:
            with pytest.raises(RuntimeError, match=r"^patch: VisionTransformer\..* lays tokens out on a grid"):
                maps()
            states = model.forward_intermediates(
                x, output_fmt="NLC", intermediates_only=True, return_prefix_tokens=True
            )
            states = [torch.cat([front, patches], 1) for patches, front in states]
            expected = [handle.unmerge(state, layer=index + 1) for index, state in enumerate(states)]
        with patch(model, merger, **options, restore=True):
            found = maps()
    for got, state in zip(found, expected, strict=True):
        grid = state[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        assert torch.equal(got, grid) or merger == "ats"  # whose last block leaves zeros where it pads
        assert got.shape == (2, 24, 4, 4)


def test_a_backbone_and_its_decoder_work_restored() -> None:
    config = hf.Dinov2Config(**HF, mlp_ratio=2, out_features=["stage1", "stage3"], reshape_hidden_states=True)
    model, x = shaken(hf.Dinov2Backbone(config)), images()
    with pytest.raises(CannotPatch, match=r"^patch: `model` must not need its tokens on the grid, got Dinov2Backbone"):
        patch(model, "tome", r=3)
    with torch.no_grad(), patch(model, "tome", r=3, restore=True) as handle:
        assert [tuple(found.shape) for found in model(x).feature_maps] == [(2, 24, 4, 4)] * 2
        assert handle.num_tokens == [14, 11, 8]


class Own(timm.models.vision_transformer.VisionTransformer):  # type: ignore[misc, name-defined]
    def pool(self, x: Any, pool_type: Any = None) -> Any:
        return x[:, 1:].clamp(min=1e-6).log().mean(1).exp()


class Last(timm.models.vision_transformer.VisionTransformer):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        return self.head(self.forward_features(x)[:, 1:].mean(1))


@pytest.mark.parametrize("kind", [Own, Last])
def test_a_function_of_a_subclass_is_refused_or_given_all_tokens(kind: Any) -> None:
    model, x = shaken(kind(**VIT, global_pool="avg")), images()
    with pytest.raises(CannotPatch, match=r"^patch: `model` must read its tokens in a way that is known, got .*"):
        patch(model, "tome", r=3)
    with torch.no_grad(), patch(model, "tome", r=3, restore=True):
        tokens = model.forward_features(x)
        assert tokens.shape[1] == 17
        expected = model.head(model.fc_norm(model.pool(tokens))) if kind is Own else model.head(tokens[:, 1:].mean(1))
        assert near(model(x), expected)


@pytest.mark.parametrize("pool", ["token", "avg", "max", "avgmax", ""])
def test_a_pool_that_changes_later_counts_patches(pool: str) -> None:
    model, x = vit(), images()
    with torch.no_grad(), patch(model, "tome", r=3):
        model.reset_classifier(0, pool)
        late = model(x)
    with torch.no_grad(), patch(model, "tome", r=3):
        assert torch.equal(model(x), late)


def test_unknown_surroundings_are_told_once() -> None:
    reader = torch.nn.Sequential(vit(num_classes=0, global_pool=""), torch.nn.Linear(24, 2).double())
    with torch.no_grad(), patch(reader, "tome", r=3):
        with pytest.warns(UserWarning, match=r"^patch: Sequential receives 8 tokens in place of 17: tokens of differ"):
            reader(images())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reader(images())


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "DeiTForImageClassification"])
def test_patch_merger_in_front_of_a_class_token_is_refused(kind: str) -> None:
    config = getattr(hf, f"{kind[: kind.index('For')]}Config")(**HF, intermediate_size=32)
    model = shaken(getattr(hf, kind)(config))
    with pytest.raises(CannotPatch, match=r"^patch: `model` must pool all of its tokens"):
        patch(torch.nn.DataParallel(model), "patch_merger", num_tokens_out=4)
    with torch.no_grad(), patch(model.base_model, "patch_merger", num_tokens_out=4):
        with pytest.raises(RuntimeError, match=f"^patch: {kind} reads a class token"):
            model(images())


def encoder_decoder() -> Any:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = hf.BertConfig(**sizes, vocab_size=50, is_decoder=True, add_cross_attention=True)
    encoder = hf.ViTModel(hf.ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False)
    model = shaken(hf.VisionEncoderDecoderModel(encoder=encoder, decoder=hf.BertLMHeadModel(config)))
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.attention.q_proj.weight.mul_(6)  # attention that has found something
    return model


@pytest.mark.parametrize("wrapper", [lambda model: model, *WRAPPERS.values()])
def test_a_decoder_does_not_attend_to_padding(wrapper: Any) -> None:
    inner = encoder_decoder()
    model, ids = wrapper(inner), torch.randint(3, 50, (2, 5))
    with torch.no_grad(), patch(model, "ats", max_tokens=(12, 8)) as handle:
        got = model(pixel_values=images(), decoder_input_ids=ids)
        assert not handle.mask.all()
        states = {"encoder_hidden_states": got.encoder_last_hidden_state, "encoder_attention_mask": handle.mask.long()}
        assert torch.equal(got.logits, inner.decoder(input_ids=ids, **states).logits)
        assert not got.encoder_last_hidden_state[~handle.mask].any()
    with torch.no_grad(), patch(inner.encoder, "ats", max_tokens=(12, 8)):
        with pytest.raises(RuntimeError, match=r"^patch: VisionEncoderDecoderModel attends to all tokens"):
            model(pixel_values=images(), decoder_input_ids=ids)


def depth_pro() -> Any:
    """Two or three networks, each with a reader that takes the root of the number of tokens for a side."""
    tower = hf.Dinov2Config(**HF, mlp_ratio=2)
    sizes = {"patch_size": 32, "fusion_hidden_size": 8, "intermediate_hook_ids": [2, 1], "merge_padding_value": 1}
    sizes |= {"intermediate_feature_dims": [8, 8], "scaled_images_feature_dims": [8, 8], "num_fov_head_layers": 0}
    sizes |= {"scaled_images_ratios": [0.5, 1], "scaled_images_overlap_ratios": [0.0, 0.5], "use_fov_model": True}
    towers = {f"{name}_model_config": tower for name in ("image", "patch", "fov")}
    return shaken(hf.DepthProForDepthEstimation(hf.DepthProConfig(**sizes, **towers)))


def test_every_part_of_depth_pro_lays_tokens_out_on_a_grid() -> None:
    from hf_models import blocks_of
    from oracle import ToMe

    model, x = depth_pro(), images(1, 64)
    encoder = model.depth_pro.encoder
    parts = [encoder.patch_encoder, encoder.image_encoder, model.fov_model.fov_encoder]
    with pytest.raises(CannotPatch, match=r"exactly one network .*, got 3 \(.*\): patch each of them$"):
        patch(model, "tome", r=3, restore=True)
    for part in parts:
        with pytest.raises(CannotPatch, match=rf"not need its tokens on the grid, got {type(part).__name__}"):
            patch(part, "tome", r=3)
        said = pytest.raises(RuntimeError, match=r"^patch: DepthPro\w+Encoder lays tokens out on a grid")
        with torch.no_grad(), patch(part.model, "tome", r=3), said:
            part(x)
    with torch.no_grad():
        handles = [patch(part, "tome", r=3, restore=True) for part in parts]
        got = model(x).predicted_depth
        for handle in handles:
            handle.remove()
        for part in parts:
            ToMe(blocks_of(part), 3, 1)
        assert near(got, model(x).predicted_depth, model)
