"""Plans around a branch and restored tokens: what `patch` does in a model of timm, our own network does, too."""

from __future__ import annotations

from typing import Any

import pytest

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_vit
from tokenmerge.spec.shared.vit_steps import steps

SMALL: dict[str, Any] = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 3, "heads": 3, "num_classes": 5}
# options of `patch`, and the same in a network of ours
SAME: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ltm": ("ltm", {"compression_ratio": 0.6}, {"merging": LTMMerging(0.6)}),
    "ltm around block": (
        "ltm",
        {"compression_ratio": 0.6, "around": "block"},
        {"merging": LTMMerging(0.6, around="block")},
    ),
    "tome around mlp": ("tome", {"r": 3, "around": "mlp"}, {"merging": ToMeMerging(r=3, around="mlp")}),
    "tome around block": (
        "tome",
        {"r": [3, 5, 2], "around": "block"},
        {"merging": ToMeMerging(r=[3, 5, 2], around="block")},
    ),
    "tome restored": ("tome", {"r": 3, "restore": True}, {"merging": ToMeMerging(r=3), "restore": True}),
    "ltm restored": (
        "ltm",
        {"compression_ratio": 0.6, "around": None, "restore": True},
        {"merging": LTMMerging(0.6, around=None), "restore": True},
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_a_network_is_the_patched_one_with_the_same_weights(case: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("timm")
    from patch_cases import images, near, vit

    from tokenmerge.backends.torch import patch

    name, options, ours = SAME[case]
    model, x = vit(), images()
    handle = patch(model, name, **options)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # the mergers' own ones, too
        network = get_vit(ViTConfig(**SMALL, **ours), backend="torch").double().eval()
        network.load_state_dict(model.state_dict())
        output, tokens = network(x), model.forward_features(x)
        assert near(output.tokens, tokens) and near(output.logits, model(x))
    assert output.tokens.shape == (2, 17, 24) and output.size is None
    for got, expected in zip(handle.plans, output.plans, strict=True):
        assert got.matrix().shape == expected.matrix().shape and (got.matrix() != 0).equal(expected.matrix() != 0)


def test_the_stream_keeps_its_tokens_and_the_branch_has_fewer() -> None:
    config = ViTConfig(**SMALL, merging={0: LTMMerging(0.5), 1: ToMeMerging(r=3, around="block"), 2: LTMMerging(0.5)})
    assert [(step.tokens_in, step.tokens_merged, step.tokens_out) for step in steps(config)] == [
        (17, 9, 17),
        (17, 14, 17),
        (17, 9, 17),
    ]
    assert [step.around for step in steps(config)] == ["mlp", "block", "mlp"]


def test_a_chain_goes_from_branch_to_branch_and_into_the_stream() -> None:
    merging = {0: LTMMerging(0.5), 1: LTMMerging(0.5, around="block"), 2: LTMMerging(0.5, around=None)}
    assert [step.chained for step in steps(ViTConfig(**SMALL, merging=merging))] == [False, True, True]
    padded = {0: ATSMerging((9,)), 1: LTMMerging(0.5), 2: LTMMerging(0.5)}
    assert not any(step.chained for step in steps(ViTConfig(**SMALL, merging=padded)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: ATSMerging(4, around="mlp"),  # type: ignore[arg-type]
            "ATSMerging: `around` must be None, because its tokens are no means of all others, got 'mlp'",
        ),
        (
            lambda: PatchMergerMerging(around="block"),  # type: ignore[arg-type]
            "PatchMergerMerging: `around` must be None, because its tokens are no means of all others, got 'block'",
        ),
        (
            lambda: ToMeMerging(r=1, around="attention"),
            "ToMeMerging: `around` must be one of 'mlp', 'block', got 'attention'",
        ),
        (lambda: LTMMerging(0.5, around=""), "LTMMerging: `around` must be one of 'mlp', 'block', got ''"),
        (lambda: ViTConfig(restore=1), "ViTConfig: `restore` must be True or False, got 1"),  # type: ignore[arg-type]
    ],
)
def test_another_place_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        make()
    assert str(error.value) == sentence
