"""Padding that a model is told of: no token of it merges, counts or is pooled."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

import hf_models  # noqa: E402
from check import same, shaken  # noqa: E402
from oracle import ToMe, hooked  # noqa: E402

from tokenmerge.backends.torch import patch  # noqa: E402

EPS = float(torch.finfo(torch.float64).eps)


def first(inputs: dict[str, Any], image: int, real: int) -> dict[str, Any]:
    """One image, without its padding."""
    given = {name: value[image : image + 1] for name, value in inputs.items()}
    for name in ("pixel_values", "pixel_attention_mask"):
        given[name] = given[name][:, :real]
    return given


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("positional", [False, True])
def test_each_image_is_as_if_it_were_alone(restore: bool, positional: bool) -> None:
    case = hf_models.CASES["Siglip2VisionModel"]
    model, inputs = shaken(case.build()), hf_models.packed()
    with torch.no_grad(), patch(model, "tome", r=3, restore=restore):
        got = model(*inputs.values()) if positional else model(**inputs)
    for image, real in enumerate((16, 12)):
        with torch.no_grad(), hooked(ToMe(hf_models.blocks_of(model), 3, 0)):
            alone = model(**first(inputs, image, real))
        same(got.pooler_output[image], alone.pooler_output[0], EPS)
        if restore:
            same(got.last_hidden_state[image, :real], alone.last_hidden_state[0], EPS)


@pytest.mark.parametrize("merger", ["ltm", "patch_merger"])
def test_padding_changes_nothing(merger: str) -> None:
    options: dict[str, Any] = {"ltm": {"compression_ratio": 0.5, "around": None}, "patch_merger": {"num_tokens_out": 4}}
    case = hf_models.CASES["Siglip2VisionModel"]
    model, inputs = shaken(case.build()), hf_models.packed()
    with torch.no_grad(), patch(model, merger, **options[merger]):
        wanted = model(**inputs).pooler_output
        inputs["pixel_values"][1, 12:] = 7.0
        same(model(**inputs).pooler_output, wanted, EPS)


def test_nothing_to_merge_is_what_it_was() -> None:
    case = hf_models.CASES["Siglip2VisionModel"]
    model, inputs = shaken(case.build()), hf_models.packed()
    with torch.no_grad():
        before = model(**inputs)
        with patch(model, "tome", r=0):
            after = model(**inputs)
    assert torch.equal(after.pooler_output, before.pooler_output)
    assert torch.equal(after.last_hidden_state, before.last_hidden_state)


def test_a_head_that_pools_by_the_mask_needs_all_tokens() -> None:
    case = hf_models.CASES["Siglip2ForImageClassification"]
    model, inputs = shaken(case.build()), hf_models.packed()
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"^patch: `model` must not need its tokens on the grid, got Siglip2For"):
            patch(model, "tome", r=3)
        with patch(model, "tome", r=3, restore=True):
            got = model(**inputs).logits
        for image, real in enumerate((16, 12)):
            with hooked(ToMe(hf_models.blocks_of(model), 3, 0)):
                same(got[image], model(**first(inputs, image, real)).logits[0], EPS)


@pytest.mark.parametrize("around", ["mlp", "block"])
def test_around_a_branch_it_is_refused(around: str) -> None:
    model = shaken(hf_models.CASES["Siglip2VisionModel"].build())
    with (
        patch(model, "tome", r=3, around=around),
        pytest.raises(ValueError, match=r"^patch: `pixel_attention_mask` m"),
    ):
        model(**hf_models.packed())


def test_a_mask_of_tokens_and_not_of_pairs() -> None:
    """ViT's `attention_mask`: padding is used, a mask of four axes is refused in the block that merges."""
    model, x = shaken(hf_models.CASES["ViTModel"].build()), hf_models.pixels()["pixel_values"]
    mask = torch.ones(2, 17)
    mask[1, 9:] = 0
    with torch.no_grad(), patch(model, "tome", r=3) as handle:
        tokens = model(x, attention_mask=mask).last_hidden_state
        assert handle.mask.sum(1).tolist() == [8, 3] and not tokens[1, 3:].any()
        assert handle.size.sum(1).tolist() == [17, 9]
        with pytest.raises(ValueError, match=r"^patch: `attention_mask` must be None"):
            model(x, attention_mask=torch.zeros(2, 1, 17, 17, dtype=x.dtype))
        with pytest.raises(ValueError, match=r"^patch: a mask must have an entry for each of 17 tokens, got 3 more$"):
            model(x, attention_mask=torch.ones(2, 20))


def test_naflex_takes_images_and_refuses_padding_where_it_merges() -> None:
    timm = pytest.importorskip("timm")
    sizes: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    model = shaken(timm.create_model("naflexvit_base_patch16_gap", **sizes))
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    given = {
        "patches": hf_models.noise(2, 16, 768),
        "patch_coord": torch.stack([rows.flatten(), columns.flatten()], 1).expand(2, -1, -1),
        "patch_valid": torch.arange(16).lt(12).expand(2, -1),
    }
    with torch.no_grad(), patch(model, "tome", r=3):
        assert model(hf_models.noise(2, 3, 64, 64)).shape == (2, 5)
        with pytest.raises(ValueError, match=r"^patch: `attn_mask` must be None"):
            model(given)


@pytest.mark.parametrize("named", [False, True])
def test_the_format_of_maps_is_found_by_its_place(named: bool) -> None:
    timm = pytest.importorskip("timm")
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    model = shaken(timm.models.vision_transformer.VisionTransformer(**sizes))
    x = hf_models.noise(2, 3, 32, 32)

    def maps(layout: str) -> Any:
        if named:
            return model.forward_intermediates(x, output_fmt=layout, intermediates_only=True)
        return model.forward_intermediates(x, None, False, False, False, layout, True)

    with torch.no_grad(), patch(model, "tome", r=3):
        assert [each.shape[1] for each in maps("NLC")] == [13, 10]
        with pytest.raises(RuntimeError, match=r"^patch: VisionTransformer\.forward_intermediates lays tokens out"):
            maps("NCHW")
