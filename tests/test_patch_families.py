"""Patched models of many families give what is computed without a patch, with all tokens (tools/patching/oracle.py)."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
pytest.importorskip("transformers")

import hf_models  # noqa: E402
import other_models  # noqa: E402
from check import Wrong, check, same, shaken  # noqa: E402
from oracle import ToMe, hooked  # noqa: E402

from tokenmerge.backends.torch import patch  # noqa: E402
from tokenmerge.backends.torch.patching import handle  # noqa: E402

# one of each kind of block and of reader; the command `tools/patching/table.py` tries all of them
HANDFUL = {
    "ViTMAEModel": "accepted",  # a copy of ViT
    "IJepaForImageClassification": "accepted",  # a mean over all tokens
    "VideoMAEForVideoClassification": "accepted",  # attention that takes no mask, in a part of a part
    "DINOv3ViTModel": "accepted",  # rotary tables
    "MLCDVisionModel": "accepted",  # the same, where the library computes in float32
    "BlipModel": "accepted",  # one projection for queries, keys and values
    "InternVLVisionModel": "accepted",  # a parameter at the end of each branch
    "CLIPSegForImageSegmentation": "restored",  # reads hidden states
    "WhisperForAudioClassification": "accepted",  # a mean after a projection
    "WhisperModel": "restored",  # a decoder
    "torchvision VisionTransformer": "accepted",  # `nn.MultiheadAttention`
    "open_clip VisionTransformer, pool_type='avg'": "accepted",
    "open_clip VisionTransformer, attentional_pool": "accepted",
    "vit_pytorch ViT": "accepted",  # lists in place of blocks
    "timm VisionTransformer, ResPostBlock": "accepted",  # norms behind the branches
    "timm VisionTransformer, ParallelScalingBlock": "accepted",  # attention and MLP at once
}
WITHOUT_ATS = ("vit_pytorch ViT", "timm VisionTransformer, ParallelScalingBlock")
NEEDS = {"torchvision": "torchvision", "open_clip": "open_clip", "vit_pytorch": "vit_pytorch"}


@pytest.mark.parametrize("name", HANDFUL)
def test_is_what_is_computed_without_a_patch(name: str) -> None:
    models = hf_models if name in hf_models.CASES else other_models
    pytest.importorskip(NEEDS.get(name.split()[0], "timm"))
    case = models.CASES[name]
    model = shaken(case.build())
    found = check(model, case.inputs(), models.blocks_of(model), case.prefix, case.float32)
    assert found.outcome == HANDFUL[name]
    ats = found.outcome == "accepted" and case.prefix > 0 and name not in WITHOUT_ATS
    assert found.compared == (("tome", "ats") if ats else ("tome",))


def test_the_comparison_can_fail(monkeypatch: Any) -> None:
    case = hf_models.CASES["ViTModel"]
    model = shaken(case.build())
    values = hf_models.heads_of(("q_proj", "v_proj", "v_proj"))
    monkeypatch.setitem(hf_models.BLOCKS, "ViT", hf_models.Joints("attention", "layernorm_after", values))
    with pytest.raises(Wrong, match="off by"):
        check(model, case.inputs(), hf_models.blocks_of(model), case.prefix)


def test_dropout_that_is_no_module_is_applied() -> None:
    """Whisper's: with all branches dropped, a merged token is the mean of what came in."""
    case = hf_models.CASES["WhisperForAudioClassification"]
    encoder, x = shaken(case.build()).encoder, case.inputs()["input_features"]
    for block in encoder.layers:
        block.train()
        block.dropout = 1.0
    with torch.no_grad(), patch(encoder, "tome", r=2) as handle:
        got = encoder(x).last_hidden_state
        wanted = encoder.layer_norm(handle.source().merge(_embedded(encoder, x)))
    same(got, wanted, float(torch.finfo(torch.float64).eps))


def _embedded(encoder: Any, x: Any) -> Any:
    x = torch.nn.functional.gelu(encoder.conv2(torch.nn.functional.gelu(encoder.conv1(x)))).permute(0, 2, 1)
    return x + encoder.embed_positions.weight


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_lists_that_are_blocks_are_copied_and_taken_off(again: Any) -> None:
    pytest.importorskip("vit_pytorch")
    case = other_models.CASES["vit_pytorch ViT"]
    model, x = shaken(case.build()), case.inputs()["img"]
    with torch.no_grad():
        before = model(x)
        patched = patch(model, "tome", r=3)
        got, other = model(x), again(model)
        assert torch.equal(other(x), got) and not torch.equal(got, before)
        patched.remove()
        handle(other).remove()
        assert torch.equal(other(x), before)
        assert type(model.transformer.layers[0]) is torch.nn.ModuleList


class Adapter(torch.nn.Module):
    """What PEFT puts in the place of a linear layer: whoever takes the weights out of it leaves the rest out."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base_layer, self.more = base, torch.nn.Linear(base.in_features, base.out_features, bias=False).double()
        self.weight, self.bias = base.weight, base.bias

    def forward(self, x: Any) -> Any:
        return self.base_layer(x) + self.more(x)


def test_an_adapter_that_the_model_does_not_run_is_not_run() -> None:
    pytest.importorskip("torchvision")
    case = other_models.CASES["torchvision VisionTransformer"]
    model, x = shaken(case.build()), case.inputs()["x"]
    for block in model.encoder.layers:
        block.self_attention.out_proj = Adapter(block.self_attention.out_proj)
    with torch.no_grad():
        with patch(model, "tome", r=3):
            got = model(x)
        with hooked(ToMe(other_models.blocks_of(model), 3, 1)):
            same(got, model(x), float(torch.finfo(torch.float64).eps))
