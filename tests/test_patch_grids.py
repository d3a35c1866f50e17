"""ToMe and LTM around the branches of Swin, MobileViT and EfficientViT: the map stays, and a plan that is the identity
leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from patch_cases import near, shaken  # noqa: E402

from tokenmerge.backends.torch import patch  # noqa: E402
from tokenmerge.backends.torch.ltm import plan as ltm_plan  # noqa: E402
from tokenmerge.backends.torch.patching.grids import in_windows  # noqa: E402
from tokenmerge.backends.torch.tome import plan as tome_plan  # noqa: E402

SWIN: dict[str, Any] = {"img_size": 32, "embed_dim": 8, "depths": (3, 2), "num_heads": (2, 2), "window_size": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "swin": ("swin_tiny_patch4_window7_224", SWIN | {"patch_size": 2}),
    "swin v2": ("swinv2_tiny_window8_256", SWIN | {"patch_size": 2}),
    "mobilevit": ("mobilevit_xxs", {}),
    "mobilevit v2": ("mobilevitv2_050", {}),
    "efficientvit": ("efficientvit_b0", {}),
}


def build(kind: str, **options: Any) -> Any:
    name, small = MODELS[kind]
    torch.manual_seed(0)
    return shaken(timm.create_model(name, num_classes=0, **small | options))


def images(side: int = 32) -> Any:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64)


def side_of(kind: str) -> int:
    return 32 if kind.startswith("swin") else 64


def places(kind: str) -> list[str]:
    return ["mlp", "block"] if kind.startswith("mobilevit") else ["mlp"]


CASES = [(kind, place) for kind in MODELS for place in places(kind)]


@pytest.mark.parametrize(("kind", "place"), CASES)
def test_the_identity_leaves_the_model_and_a_ratio_changes_it(kind: str, place: str) -> None:
    model, x = build(kind), images(side_of(kind))
    names = list(model.state_dict())
    with torch.no_grad():
        expected = model.forward_features(x)
        for prior in ({}, {"prior": "grid"}):
            with patch(model, "ltm", compression_ratio=1.0, prior_smoothing=0.0, around=place, **prior):
                assert near(model.forward_features(x), expected)
        with patch(model, "ltm", compression_ratio=0.4, around=place) as handle:
            merged = model.forward_features(x)
            assert merged.shape == expected.shape and not near(merged, expected)
            assert any(plan.num_tokens_out < plan.num_tokens_in for plan in handle.plans)
            assert len(handle.plans) == sum(name.endswith(".merger.weight") for name in model.state_dict())
        assert torch.equal(model.forward_features(x), expected)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "efficientvit"])
def test_tome_around_the_mlp_keeps_the_map(kind: str) -> None:
    model, x = build(kind), images(side_of(kind))
    with torch.no_grad():
        expected = model.forward_features(x)
        with patch(model, "tome", r=1, around="mlp") as handle:
            found = model.forward_features(x)
        assert found.shape == expected.shape and not near(found, expected)
        assert all(plan.num_tokens_out == plan.num_tokens_in - 1 for plan in handle.plans if plan.num_tokens_in > 1)


def swin_by_hand(model: Any, x: Any, plan_of: Callable[..., Any]) -> Any:
    """The first stage of Swin v1, window by window."""
    stage = model.layers[0]
    x = stage.downsample(model.patch_embed(x))
    chains: dict[Any, Any] = {}
    for block in stage.blocks:
        between = x + block._attn(block.norm1(x))
        keys: list[Any] = []
        hook = block.attn.qkv.register_forward_hook(lambda module, args, out, keys=keys: keys.append(out))
        block._attn(block.norm1(x))
        hook.remove()
        heads = block.attn.num_heads
        metric = keys[0].unflatten(2, (3, heads, -1))[:, :, 1].mean(dim=2)
        windows, mask, back = in_windows(between, block)
        plan = plan_of(block, windows, metric, mask, chains)
        x = between + back(plan.unmerge(block.mlp(block.norm2(plan.merge(windows)))))
    return x


@pytest.mark.parametrize("side", [32, 36])  # with and without padding in the windows
def test_swin_is_what_windows_say_one_by_one(side: int) -> None:
    model, x = build("swin", img_size=side), images(side)

    given: Any

    def of_ltm(block: Any, windows: Any, metric: Any, mask: Any, chains: dict[Any, Any]) -> Any:
        prior = None if mask is not None else chains.get(tuple(block.shift_size))
        made = ltm_plan(windows, weight=next(given), compression_ratio=0.6, prior=prior, mask=mask)
        chains[tuple(block.shift_size)] = made.weights.transpose(1, 2)
        return made

    def of_tome(block: Any, windows: Any, metric: Any, mask: Any, chains: dict[Any, Any]) -> Any:
        return tome_plan(metric, r=4, mask=mask)

    with torch.no_grad():
        with patch(model, "ltm", compression_ratio=0.6):
            for block in model.layers[0].blocks:
                torch.nn.init.normal_(block.merger.weight)
            found = model.layers[0](model.patch_embed(x))
            weights = [block.merger.weight.clone() for block in model.layers[0].blocks]
        given = iter(weights)
        assert near(found, swin_by_hand(model, x, of_ltm))
        with patch(model, "tome", r=4, around="mlp"):
            found = model.layers[0](model.patch_embed(x))
        assert near(found, swin_by_hand(model, x, of_tome))


def test_features_only_and_gradients() -> None:
    model = shaken(timm.create_model("swin_tiny_patch4_window7_224", features_only=True, **SWIN | {"patch_size": 2}))
    x = images()
    shapes = [feature.shape for feature in model(x)]
    with patch(model, "ltm", compression_ratio=0.6, prior="grid"):
        features = model(x)
        assert [feature.shape for feature in features] == shapes
        sum(feature.square().sum() for feature in features).backward()
        for name, value in model.named_parameters():
            if ".merger." in name:
                assert torch.isfinite(value.grad).all() and value.grad.any(), name


@pytest.mark.parametrize(
    ("kind", "merger", "options", "sentence"),
    [
        ("swin", "ats", {"max_tokens": 4}, "patch: `name` must be 'tome' or 'ltm' for Swin, .*, got 'ats'"),
        ("swin", "ltm", {"compression_ratio": 0.5, "around": None}, "patch: `around` must be 'mlp' or 'block' in Swin"),
        ("swin", "ltm", {"compression_ratio": 0.5, "around": "block"}, "patch: `around` must be one of 'mlp', got"),
        ("swin", "tome", {"r": -1}, "patch: `r` must be an integer >= 0, got -1"),
        ("efficientvit", "tome", {"r": 1}, "patch: `name` must be 'ltm' for EfficientViT, .* got 'tome'"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, merger: str, options: dict[str, Any], sentence: str) -> None:
    model = build(kind)
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=f"^{sentence}"):
        patch(model, merger, **options)
    assert list(model.state_dict()) == before


def test_checkpointing_and_a_prior_without_a_grid_are_refused() -> None:
    from patch_cases import vit

    with pytest.raises(ValueError, match=r"^patch: `prior` must be left out for a model whose"):
        patch(vit(), "ltm", compression_ratio=0.5, prior="grid")
    model = build("swin")
    model.set_grad_checkpointing()
    with (
        patch(model, "ltm", compression_ratio=0.5),
        pytest.raises(RuntimeError, match=r"^patch: gradient checkpointing"),
    ):
        model(images())


def test_one_graph_and_a_copy() -> None:
    import copy

    model, x = build("swin", depths=(3,), num_heads=(2,)), images()
    with torch.no_grad(), patch(model, "ltm", compression_ratio=0.6):
        expected = model(x)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        torch.compiler.reset()
        assert near(torch.compile(model, fullgraph=True, backend="eager")(x), expected)
