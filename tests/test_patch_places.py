"""Where plans act: the stream, around a branch, restored; how many tokens go; and where they are at any layer."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
hf = pytest.importorskip("transformers")

from patch_cases import HF, images, near, shaken, vit  # noqa: E402

from tokenmerge.backends.torch import patch, tome  # noqa: E402


def attended(block: Any, x: Any, size: Any) -> tuple[Any, Any]:
    """A timm block's stream after attention, and its keys."""
    attention, normed = block.attn, block.norm1(x)
    q, k, v = attention.qkv(normed).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(2, 3) * attention.scale + size.log()[:, None, None]).softmax(-1)
    return x + attention.proj((weights @ v).transpose(1, 2).flatten(2)), k.mean(1)


def by_hand(model: Any, x: Any, merger: str, place: str) -> Any:
    x = model._pos_embed(model.patch_embed(x))
    prior = None
    for block in model.blocks:
        ones = x.new_ones(x.shape[:2])
        if place == "mlp":
            x, keys = attended(block, x, ones)
        metric = keys if place == "mlp" else x
        if merger == "tome":
            plan = tome.plan(metric, r=3, protected=1)
        else:
            from tokenmerge.backends.torch.ltm import chain

            plan = block.merger.plan(x, prior=prior)
            prior = chain(plan, 1)
        y = plan.merge(x)
        if place == "mlp":
            x = x + plan.unmerge(block.mlp(block.norm2(y)))
        else:
            inner, _ = attended(block, y, plan.merge_size().double() if merger == "tome" else y.new_ones(y.shape[:2]))
            x = x + plan.unmerge(inner + block.mlp(block.norm2(inner)) - y)
    return model.norm(x)


@pytest.mark.parametrize("place", ["mlp", "block"])
@pytest.mark.parametrize("merger", ["tome", "ltm"])
def test_around_a_branch_is_the_formula(merger: str, place: str) -> None:
    model, x = vit(), images()
    options = {"r": 3} if merger == "tome" else {"compression_ratio": 0.6}
    with torch.no_grad(), patch(model, merger, around=place, **options) as handle:
        assert near(model.forward_features(x), by_hand(model, x, merger, place))
        assert handle.size is None and handle.num_tokens == [17, 17, 17]
        assert [plan.num_tokens_in for plan in handle.plans] == [17, 17, 17]
        tokens = torch.zeros(2, 17, 24)
        assert handle.unmerge(tokens) is tokens
        with pytest.raises(RuntimeError, match=r"^patch: `source` must follow .* one whose plans act around a branch$"):
            handle.source()
        logits = model(x)
        assert near(logits, model.forward_head(model.forward_features(x)))


def test_ltm_acts_around_the_mlp_unless_told_otherwise() -> None:
    model, x = vit(), images()
    found = []
    with torch.no_grad():
        for options in ({}, {"around": "mlp"}, {"around": None}):
            with patch(model, "ltm", compression_ratio=0.6, **options):
                found.append(model.forward_features(x))
    assert torch.equal(found[0], found[1]) and found[2].shape[1] < 17


@pytest.mark.parametrize("merger", ["ats", "patch_merger"])
def test_dropped_and_replaced_tokens_have_no_place_around(merger: str) -> None:
    options = {"max_tokens": (4,)} if merger == "ats" else {"num_tokens_out": 4}
    with pytest.raises(ValueError, match=rf"^patch: `around` must be None for '{merger}'"):
        patch(vit(), merger, around="mlp", **options)


@pytest.mark.parametrize("merger", ["tome", "ats", "ltm"])
def test_restored_hidden_states_have_the_plans_up_to_their_block(merger: str) -> None:
    options: dict[str, Any] = {"tome": {"r": 3}, "ats": {"max_tokens": (9, 6)}}.get(merger, {"compression_ratio": 0.6})
    options = options | ({"around": None} if merger == "ltm" else {})
    model, x = shaken(hf.ViTModel(hf.ViTConfig(**HF, intermediate_size=32))), images()
    with torch.no_grad():
        with patch(model, merger, **options) as handle:
            few = model(x, output_hidden_states=True).hidden_states
            expected = [handle.unmerge(state, layer=index) for index, state in enumerate(few)]
            assert [state.shape[1] for state in few[1:-1]] == handle.num_tokens[:-1]
        with patch(model, merger, restore=True, **options):
            found = model(x, output_hidden_states=True).hidden_states
    for index, (got, state) in enumerate(zip(found, expected, strict=True)):
        if merger == "ltm" and index:
            continue  # mixtures: its parameters are new in every patch
        assert got.shape == (2, 17, 24)
        if index < 3:
            assert near(got, state)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax"])
@pytest.mark.parametrize("merger", ["tome", "ats"])
def test_means_of_restored_tokens_are_means_by_size(merger: str, pool: str) -> None:
    model, x = vit(global_pool=pool), images()
    options = {"r": 3} if merger == "tome" else {"max_tokens": (9, 6)}
    with torch.no_grad():
        with patch(model, merger, **options):
            expected = model(x)
        with patch(model, merger, restore=True, **options):
            assert near(model(x), expected)


def test_a_share_of_the_tokens_that_may_merge() -> None:
    model = vit()
    with torch.no_grad(), patch(model, "tome", r=0.2) as handle:
        model(images())
        assert handle.num_tokens == [14, 12, 10] and handle.r == 0.2  # of 16, 13 and 11 patches
        handle.r = 0.5
        model(images())
        assert handle.num_tokens == [9, 5, 3]
        with pytest.raises(ValueError, match=r"^patch: `r` must be a share between 0 and 0.5, .*, got 0.6$"):
            handle.r = 0.6


@pytest.mark.parametrize("tokens_out", [17, 16, 9, 3])
def test_down_to_so_many_tokens(tokens_out: int) -> None:
    model = vit()
    with torch.no_grad(), patch(model, "tome", tokens_out=tokens_out) as handle:
        model(images())
        assert handle.num_tokens[-1] == tokens_out and handle.r is None
        steps = [a - b for a, b in zip([17, *handle.num_tokens], handle.num_tokens, strict=False)]
        assert max(steps) - min(steps) <= (1 if tokens_out > 4 else 8)
        handle.r = 1
        model(images())
        assert handle.num_tokens == [16, 15, 14]


def test_bounds_follow_the_image() -> None:
    model = vit()
    with torch.no_grad(), patch(model, "tome", r=3) as handle:
        with pytest.raises(ValueError, match=r"^patch: `r` must be at most 8, half of the 16 tokens that may merge"):
            handle.r = 30
        model.set_input_size((64, 64))
        handle.r = 30
        model(images(side=64))
        assert handle.num_tokens[0] == 35
    with patch(vit(dynamic_img_size=True), "tome", r=30) as handle:
        assert handle.r == 30  # any size will do


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_tokens_at_any_layer(layer: int) -> None:
    model = vit()
    with torch.no_grad(), patch(model, "tome", r=3) as handle:
        states = model.forward_intermediates(images(), output_fmt="NLC", return_prefix_tokens=True)[1]
        assert handle.num_tokens == [14, 11, 8]
        if layer == 0:
            assert torch.equal(handle.unmerge(torch.ones(2, 17, 3), layer=0), torch.ones(2, 17, 3))
            return
        patches, front = states[layer - 1]
        tokens = torch.cat([front, patches], 1)
        row = handle.source(layer=layer).assignment
        assert torch.equal(handle.unmerge(tokens, layer=layer)[0], tokens[0, row[0]])
        with pytest.raises(ValueError, match=r"^patch: `layer` must be at most 3, the number of blocks, got 4$"):
            handle.source(layer=4)


def test_bad_options_are_one_sentence() -> None:
    for options, sentence in (
        ({"r": 1, "tokens_out": 9}, "patch: `r` must not be given with `tokens_out`, got 1"),
        ({}, "patch: `r` must be given with 'tome', got nothing"),
        ({"r": 1, "restore": 1}, "patch: `restore` must be True or False, got 1"),
    ):
        with pytest.raises(TypeError, match=f"^{sentence}"):
            patch(vit(), "tome", **options)
    for options, sentence in (
        ({"tokens_out": 2}, "patch: `tokens_out` must be at least 3, which 3 blocks can leave of 17 tokens, got 2"),
        ({"tokens_out": 1}, "patch: `tokens_out` must be an integer >= 2, got 1"),
        ({"r": 1, "around": "attention"}, "patch: `around` must be one of 'mlp', 'block', got 'attention'"),
    ):
        with pytest.raises(ValueError, match=f"^{sentence}"):
            patch(vit(), "tome", **options)
