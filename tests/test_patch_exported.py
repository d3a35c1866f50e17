"""torch.export and jit.trace of patched models; attention weights; parameters that come too late for a wrapper."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
hf = pytest.importorskip("transformers")

from patch_cases import HF, images, near, shaken, vit  # noqa: E402

from tokenmerge.backends.torch import patch  # noqa: E402

MERGERS: dict[str, dict[str, Any]] = {"tome": {"r": 3}, "ats": {"max_tokens": (9, 6)}}
KINDS: dict[str, Any] = {
    "ViTForImageClassification": (hf.ViTConfig, {"intermediate_size": 32}),
    "DeiTForImageClassification": (hf.DeiTConfig, {"intermediate_size": 32}),
    "Dinov2ForImageClassification": (hf.Dinov2Config, {"mlp_ratio": 2}),
    "Dinov2WithRegistersForImageClassification": (hf.Dinov2WithRegistersConfig, {"mlp_ratio": 2}),
}


@pytest.mark.parametrize("merger", MERGERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_that_the_library_makes_is_not_the_users(kind: str, merger: str) -> None:
    config, sizes = KINDS[kind]
    model, x = shaken(getattr(hf, kind)(config(**HF, **sizes, num_labels=5))), images()
    with torch.no_grad(), patch(model, merger, **MERGERS[merger]):
        program = torch.export.export(model, (x,))
        assert near(program.module()(x).logits, model(x).logits)


def test_a_mask_of_pairs_that_is_the_users_is_refused() -> None:
    model = shaken(hf.ViTModel(hf.ViTConfig(**HF, intermediate_size=32)))
    mask = torch.ones(2, 17, dtype=torch.bool)
    mask[0, 9:] = False
    with torch.no_grad(), patch(model, "tome", r=3):
        with pytest.raises(ValueError, match=r"^patch: `attention_mask` must be None in a patched model"):
            model(images(), attention_mask=mask[:, None, None].expand(2, 1, 17, 17))


@pytest.mark.parametrize("merger", MERGERS)
def test_a_trace(merger: str) -> None:
    model, x = vit(), images()
    with torch.no_grad(), patch(model, merger, **MERGERS[merger]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers of tokens become constants, as they should
        assert near(torch.jit.trace(model, x, check_trace=False)(x), model(x))


@pytest.mark.parametrize("merger", MERGERS)
@pytest.mark.parametrize("kind", ["ViTModel", "CLIPVisionModel", "DeiTModel"])
def test_one_entry_of_attention_weights_for_each_layer(kind: str, merger: str) -> None:
    config = {"ViTModel": hf.ViTConfig, "CLIPVisionModel": hf.CLIPVisionConfig, "DeiTModel": hf.DeiTConfig}[kind]
    model = shaken(getattr(hf, kind)(config(**HF, intermediate_size=32)))
    model.set_attn_implementation("eager")
    with torch.no_grad(), patch(model, merger, **MERGERS[merger]) as handle:
        weights = model(images(), output_attentions=True).attentions
        assert len(weights) == 3
        left = [18 if kind == "DeiTModel" else 17, *handle.num_tokens]
        assert [row.shape[3] for row in weights] == left[:3]
        queries = handle.num_tokens if merger == "ats" else left[:3]
        assert [row.shape[2] for row in weights] == queries
        assert all(torch.is_tensor(row) and (row >= 0).all() for row in weights)


def test_parameters_that_ddp_will_not_average() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(vit())
        with pytest.warns(UserWarning, match=r"^patch: the parameters of 'ltm' will not be averaged between processes"):
            patch(model, "ltm", compression_ratio=0.6).remove()
        with torch.no_grad(), patch(model, "tome", r=3) as handle:
            model(images())
            assert handle.num_tokens == [14, 11, 8]
        with (
            patch(model.module, "ltm", compression_ratio=0.6),
            pytest.warns(UserWarning, match=r"will not be averaged"),
        ):
            model(images())
        inside = vit()
        with patch(inside, "ltm", compression_ratio=0.6), warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.nn.parallel.DistributedDataParallel(inside)(images())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("merger", ["ltm", "tome"])
def test_adapters_around_a_patched_model_do_not_save_its_parameters(merger: str) -> None:
    class PeftModel(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.base_model, self.peft_config = model.requires_grad_(False), {}

        def forward(self, x: Any) -> Any:
            return self.base_model(x)

    PeftModel.__module__ = "peft.peft_model"
    model, options = vit(), {"ltm": {"compression_ratio": 0.6}, "tome": {"r": 3}}
    with patch(model, merger, **options[merger]), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wrapped = PeftModel(model)
        wrapped(images())
        wrapped(images())
    said = [str(each.message) for each in caught if str(each.message).startswith("patch:")]
    assert len(said) == (merger == "ltm")
    assert all("of 'ltm' are frozen and will not be saved by `save_pretrained`" in each for each in said)
