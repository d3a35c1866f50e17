"""Attention that adds a bias to pairs of places (BEiT, Data2Vec, relative positions) sees all tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
pytest.importorskip("transformers")

import hf_models  # noqa: E402
import timm_models  # noqa: E402
from check import check, same, shaken  # noqa: E402
from oracle import ToMe, hooked  # noqa: E402

from tokenmerge.backends.torch import patch  # noqa: E402
from tokenmerge.backends.torch.ltm import chain  # noqa: E402
from tokenmerge.backends.torch.patching import CannotPatch  # noqa: E402

EPS = float(torch.finfo(torch.float64).eps)
OF_TIMM = (
    "beit_base_patch16_224",  # a bias in each block, keys from the weights of one projection
    "vit_relpos_base_patch16_cls_224",  # keys through a norm
    "vit_relpos_base_patch16_rpn_224",  # norms behind the branches
    "vit_srelpos_small_patch16_224",  # one bias for all blocks
)


def case_of(name: str) -> tuple[Any, Any, Any, int]:
    """A model, what it is called with, its blocks, and its tokens in front."""
    models: Any = hf_models if name in hf_models.CASES else timm_models
    case = hf_models.CASES[name] if name in hf_models.CASES else timm_models.case(name)
    model = shaken(case.build())
    return model, case.inputs(), models.blocks_of(model), getattr(model, "num_prefix_tokens", case.prefix)


@pytest.mark.parametrize("name", [*OF_TIMM, "BeitForImageClassification", "Data2VecVisionModel"])
def test_around_the_mlp_is_what_is_computed_without_a_patch(name: str) -> None:
    model, inputs, blocks, prefix = case_of(name)
    found = check(model, inputs, blocks, prefix)
    assert found.outcome == "around" and found.compared == ("tome",)
    assert "`around` must be 'mlp' with 'tome' or 'ltm' for " in found.sentence


@pytest.mark.parametrize("separate", [False, True, None])
def test_the_three_ways_in_which_beit_makes_keys(separate: bool | None) -> None:
    model, inputs, blocks, prefix = case_of("beit_base_patch16_224")
    for block in model.blocks:
        block.attn.qkv_bias_separate = bool(separate)
        if separate is None:
            block.attn.q_bias = None
        else:
            block.attn.k_bias.normal_(generator=torch.Generator().manual_seed(3))  # zero, as a model is made
    assert check(model, inputs, blocks, prefix).outcome == "around"


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "BeitModel"])
def test_ltm_around_the_mlp_is_the_formula(name: str) -> None:
    model, inputs, blocks, _ = case_of(name)
    with torch.no_grad(), patch(model, "ltm", compression_ratio=0.6):
        got = model(**inputs)
        mergers = [copy.deepcopy(block.merger) for block, _ in blocks]
    plans: list[Any] = []

    def between(module: Any, args: Any) -> Any:
        merger = mergers[len(plans)]
        prior = chain(plans[-1], merger.protected) if plans else None
        plans.append(merger.plan(args[0], prior=prior))
        return (plans[-1].merge(args[0]),)

    hooks = []
    for block, joints in blocks:
        hooks.append(block.get_submodule(joints.between).register_forward_pre_hook(between))
        hooks.append(block.mlp.register_forward_hook(lambda module, args, out: plans[-1].unmerge(out)))
    with torch.no_grad():
        same(got, model(**inputs), EPS)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "BeitModel"])
@pytest.mark.parametrize(
    ("merger", "options"),
    [
        ("tome", {"r": 2}),
        ("tome", {"r": 2, "restore": True}),
        ("tome", {"r": 2, "around": "block"}),
        ("ltm", {"compression_ratio": 0.6, "around": None}),
        ("ats", {"max_tokens": (4,)}),
    ],
)
def test_everywhere_else_it_is_refused(name: str, merger: str, options: dict[str, Any]) -> None:
    model = case_of(name)[0]
    sentence = r"^patch: `around` must be 'mlp' .* bias to every pair of places and has to see all tokens .*, got '"
    with pytest.raises(CannotPatch, match=f"{sentence}{merger}' with around={options.get('around')!r}$"):
        patch(model, merger, **options)


def test_a_mask_from_outside_is_refused_around_the_mlp() -> None:
    model, inputs, _, _ = case_of("BeitModel")
    mask = torch.ones(2, 17, dtype=torch.long)
    mask[1, 12:] = 0
    with torch.no_grad(), patch(model, "tome", r=2, around="mlp"):
        with pytest.raises(ValueError, match=r"^patch: `attention_mask` must be None in a patched model"):
            model(**inputs, attention_mask=mask)


@pytest.mark.parametrize("name", ["DPTForDepthEstimation", "WhisperModel"])
def test_who_needs_all_tokens_gets_them_around_the_mlp(name: str) -> None:
    model, inputs, blocks, prefix = case_of(name)
    with torch.no_grad():
        with patch(model, "tome", r=3, around="mlp"):
            got = model(**inputs)
        with hooked(ToMe(blocks, 3, prefix, around_mlp=True)):
            same(got, model(**inputs), EPS)
