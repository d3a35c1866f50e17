"""Patched timm models: the same as our own network with the same weights, and as before once the patch is removed."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest

from tokenmerge import AtsMerging, LtmMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_vit

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from tokenmerge.backends.torch.patch import Handle, patch  # noqa: E402

SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
OURS: dict[str, Any] = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 3, "heads": 3, "num_classes": 5}
MEAN: dict[str, Any] = {"class_token": False, "global_pool": "avg"}

# how timm builds them, and the same for us; None where we have no such network
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "vit": ("VisionTransformer", {}, {}),
    "deit, distilled": ("VisionTransformerDistilled", {}, {"distillation_token": True}),
    "dinov2, registers": (
        "VisionTransformer",
        {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.2},
        {"register_tokens": 4, "no_embed_class": True, "layer_scale": 0.2},
    ),
    "qk norm": ("VisionTransformer", {"qk_norm": True}, {"qk_norm": True}),
    "clip": ("VisionTransformer", {"pre_norm": True}, {"pre_norm": True}),
    "mean": ("VisionTransformer", MEAN, {"class_token": False, "pool": "mean"}),
    "mean, norm first": (
        "VisionTransformer",
        {"global_pool": "avg", "fc_norm": False},
        {"pool": "mean", "fc_norm": False},
    ),
    "siglip": ("VisionTransformer", {"class_token": False, "global_pool": "map"}, None),
    "eva": ("Eva", {"use_rot_pos_emb": True, "init_values": 0.3, "swiglu_mlp": True}, None),
    "eva, mean": ("Eva", {"use_rot_pos_emb": True, "global_pool": "avg"}, None),
}
MERGINGS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "tome": ("tome", {"r": 3}, ToMeMerging(r=3)),
    "tome, schedule": ("tome", {"r": (3, -1.0), "prop_attn": False}, ToMeMerging(r=(3, -1.0), prop_attn=False)),
    "ats": ("ats", {"max_tokens_per_depth": (9, 6, 4)}, AtsMerging((9, 6, 4))),
    "ltm": ("ltm", {"compression_ratio": 0.6}, LtmMerging(0.6)),
    "patch_merger": ("patch_merger", {"patch_merge_num_tokens": 4}, PatchMergerMerging(patch_merge_num_tokens=4)),
}


def build(family: str, **options: Any) -> Any:
    """A model of a family with random parameters, in float64 and evaluation mode."""
    name, theirs, _ = FAMILIES[family]
    kinds = {
        "VisionTransformer": timm.models.vision_transformer.VisionTransformer,
        "VisionTransformerDistilled": timm.models.deit.VisionTransformerDistilled,
        "Eva": timm.models.eva.Eva,
    }
    torch.manual_seed(0)
    model = kinds[name](**SIZES | theirs | options).double().eval()
    with torch.no_grad():
        for value in model.parameters():  # zeros and ones would hide a part that is left out
            value.add_(0.2 * torch.randn_like(value))
    return model


def images(batch: int = 2) -> Any:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def fits(family: str, merging: str) -> bool:
    mean = "mean" in family or family == "siglip"
    if merging == "ats":
        return family not in ("mean", "siglip")
    return merging != "patch_merger" or (mean and "eva" not in family)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_to_merge_changes_no_bit(family: str) -> None:
    model, x = build(family), images()
    with torch.no_grad():
        before = model(x)
        with patch(model, "tome", r=0) as handle:
            assert torch.equal(model(x), before)
            assert handle.plans == [None, None, None]


@pytest.mark.parametrize("merging", MERGINGS)
@pytest.mark.parametrize("family", [family for family, (_, _, ours) in FAMILIES.items() if ours is not None])
def test_is_our_own_network_with_the_same_weights(family: str, merging: str) -> None:
    if not fits(family, merging):
        pytest.skip("refused, see below")
    name, options, ours = MERGINGS[merging]
    model, x = build(family), images()
    handle = patch(model, name, **options)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # the mergers' own ones, too
        config = ViTConfig(**OURS | (FAMILIES[family][2] or {}), merging=ours)
        network = get_vit(config, backend="torch").double().eval()
        network.load_state_dict(model.state_dict())
        output, logits = network(x), model(x)
    # the same operations in the same order, but for the mean of a network that merges nothing in front of it
    assert (logits - output.logits).abs().max() <= 64 * torch.finfo(torch.float64).eps * output.logits.abs().max()
    for got, expected in zip(handle.plans, output.plans, strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            assert torch.equal(got.matrix(), expected.matrix())
    assert torch.equal(handle.source().matrix(), output.plan.matrix())


@pytest.mark.parametrize("merging", MERGINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_after_removal_the_model_is_what_it_was(family: str, merging: str) -> None:
    name, options, _ = MERGINGS[merging]
    model, x = build(family), images()
    keys, modules = list(model.state_dict()), len(list(model.modules()))
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    with torch.no_grad():
        before = model(x)
        if fits(family, merging):
            with patch(model, name, **options):
                patched = model(x)
                assert patched.shape == before.shape and torch.isfinite(patched).all()
                assert not torch.equal(patched, before)
        else:
            with pytest.raises(ValueError, match=r"^patch: `model` must .*, got .*$"):
                patch(model, name, **options)
        assert torch.equal(model(x), before)
    assert list(model.state_dict()) == keys and len(list(model.modules())) == modules
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


def by_hand(model: Any, x: Any, r: int) -> Any:
    """EVA with ToMe, block by block, from the model's parts and the functions of the backend."""
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat

    from tokenmerge.backends.torch import tome

    x = model.patch_embed(x)
    x, rope = model._pos_embed(x)
    rope = torch.cat([rope.new_zeros(1, rope.shape[-1]), rope]).expand(len(x), -1, -1)
    size = torch.ones(x.shape[:2], dtype=x.dtype)
    for block in model.blocks:
        attention = block.attn
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        qkv = torch.nn.functional.linear(block.norm1(x), attention.qkv.weight, bias)
        query, key, value = qkv.reshape(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        turned = [
            torch.cat([each[:, :, :1], apply_rot_embed_cat(each[:, :, 1:], rope[:, None, 1:])], 2)
            for each in (query, key)
        ]
        logits = turned[0] @ turned[1].transpose(2, 3) * attention.scale + size.log()[:, None, None]
        seen = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        branch = attention.proj(attention.norm(seen))
        x = x + (branch if block.gamma_1 is None else block.gamma_1 * branch)
        plan = tome.plan(key.mean(1), r=r, protected=1)
        x, rope, size = plan.merge(x, size), plan.merge(rope, size), plan.merge_size(size)
        branch = block.mlp(block.norm2(x))
        x = x + (branch if block.gamma_2 is None else block.gamma_2 * branch)
    x = model.norm(x)
    pooled = (
        x[:, 0] if model.global_pool == "token" else (size[:, 1:, None] * x[:, 1:]).sum(1) / size[:, 1:].sum(1)[:, None]
    )
    return model.head(model.fc_norm(pooled))


@pytest.mark.parametrize("family", ["eva", "eva, mean"])
def test_rotary_tables_follow_the_tokens(family: str) -> None:
    model, x = build(family), images()
    with torch.no_grad():
        expected = by_hand(model, x, 3)
        with patch(model, "tome", r=3):
            got = model(x)
    # explicit softmax and sums against fused ones: thousands of roundings, none of them amplified much
    assert (got - expected).abs().max() <= 2**12 * torch.finfo(torch.float64).eps * expected.abs().max()


def test_pooling_by_attention_counts_patches() -> None:
    """Every patch twice: attention pooling over the merged pairs sees what it saw over all of them."""
    model = build("siglip", depth=1)
    with torch.no_grad():
        model.pos_embed.zero_()
        model.pos_embed.view(1, 4, 2, 2, 24)[:, :, :, 1:] = 0
        x = images()
        pixels = x.reshape(2, 3, 4, 8, 2, 2, 8)
        pixels[:, :, :, :, :, 1] = pixels[:, :, :, :, :, 0]  # patches 2i and 2i + 1 are alike
        before = model(x)
        with patch(model, "tome", r=8) as handle:
            after = model(x)
    assert (handle.size == 2).all()
    assert (after - before).abs().max() <= 2**10 * torch.finfo(torch.float64).eps * before.abs().max()


def test_handle_traces_sets_and_unmerges() -> None:
    model, x = build("dinov2, registers"), images()
    with torch.no_grad(), patch(model, "tome", r=3) as handle:
        assert isinstance(handle, Handle) and handle.r == 3
        tokens = model.forward_features(x)
        assert handle.source().assignment.shape == (2, 21)
        assert torch.equal(handle.source().assignment[:, :5], torch.arange(5).expand(2, 5))  # class and registers
        grid = handle.unmerge(tokens)
        assert grid.shape == (2, 21, 24)
        row = handle.source().assignment[0]
        assert all(torch.equal(grid[0, n], tokens[0, row[n]]) for n in range(21))
        assert (handle.size.sum(dim=1) == 21).all()
        handle.r = [4, 0, 1]
        model(x)
        assert [plan and plan.num_tokens_out for plan in handle.plans] == [17, None, 16]


def test_threads_do_not_see_each_other() -> None:
    model, given = build("vit"), [images(1), images(2)[1:]]
    with torch.no_grad(), patch(model, "tome", r=3) as handle:
        alone = []
        for x in given:
            model(x)
            alone.append(handle.source().assignment)
        found: dict[int, bool] = {}

        def work(i: int) -> None:
            with torch.no_grad():
                found[i] = all(
                    torch.equal(model(given[i]), model(given[i])) and torch.equal(handle.source().assignment, alone[i])
                    for _ in range(20)
                )

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {0: True, 1: True}


def test_an_exception_leaves_nothing_behind() -> None:
    model, x = build("vit"), images()
    with torch.no_grad(), patch(model, "tome", r=3):
        expected = model(x)
        stop = model.blocks[1].mlp.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError, match="division"):
            model(x)
        stop.remove()
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("merging", ["tome", "ltm"])
def test_copies_and_pickles_merge_on_their_own(again: Any, merging: str) -> None:
    name, options, _ = MERGINGS[merging]
    model, x = build("vit"), images()
    with torch.no_grad():
        handle = patch(model, name, **options)
        expected = model(x)
        other = again(model)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(other(x), expected)
        handle.remove()
        assert torch.equal(other(x), expected)


def test_learned_mergers_train_with_the_model() -> None:
    for merging in ("ltm", "patch_merger", "tome", "ats"):
        name, options, _ = MERGINGS[merging]
        model = build("mean" if merging == "patch_merger" else "vit", drop_path_rate=0.1).train()
        handle = patch(model, name, **options)
        labels, x = torch.arange(10) % 5, images(10)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        torch.manual_seed(0)
        losses = []
        for _ in range(25):
            loss = torch.nn.functional.cross_entropy(model(x), labels)
            optimizer.zero_grad()
            loss.backward()
            assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 2, merging
        names = {key for key in model.state_dict() if ".merger." in key}
        assert bool(names) == (name in ("ltm", "patch_merger"))
        handle.remove()
        assert not any(".merger." in key for key in model.state_dict())


@pytest.mark.parametrize("merging", ["tome", "ats"])
def test_compiles_to_one_graph(merging: str) -> None:
    name, options, _ = MERGINGS[merging]
    model, x = build("vit"), images()
    with torch.no_grad(), patch(model, name, **options):
        expected = model(x)
        torch.compiler.reset()
        assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(x), expected)


def test_autocast_and_functional_call() -> None:
    model, x = build("vit").float(), images().float()
    with torch.no_grad(), patch(model, "tome", r=3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.isfinite(model(x)).all()
        params = {name: value + 1e-3 for name, value in model.named_parameters()}
        assert not torch.equal(torch.func.functional_call(model, params, (x,)), model(x))


# Models and options that cannot be patched


class Reversed(timm.models.vision_transformer.Block):  # type: ignore[misc, name-defined]
    def forward(self, x: Any, attn_mask: Any = None, is_causal: bool = False) -> Any:
        x = x + self.mlp(self.norm2(x))
        return x + self.attn(self.norm1(x))


def test_a_block_with_a_forward_of_its_own_is_refused_by_name() -> None:
    model = build("vit")
    model.blocks[1] = Reversed(24, 3)
    with pytest.raises(ValueError, match=r"^patch: `model` must have known blocks .*, got block 1, a Reversed$"):
        patch(model, "tome", r=1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("model", "name", "options", "sentence"),
    [
        ("vit", "tome", {"r": 9}, "patch: `r` must be at most 8, half of the 16 tokens that may merge, got 9"),
        ("vit", "tome", {"r": [1] * 4}, "merge_schedule: `r` must have at most depth = 3 entries, got 4"),
        ("vit", "tome", {"r": -1}, r"merge_schedule: `r` must be an integer >= 0, got -1"),
        ("vit", "ats", {"max_tokens_per_depth": (4,) * 4}, "patch: `max_tokens_per_depth` must have at most 3 entries"),
        ("mean", "ats", {"max_tokens_per_depth": (4,)}, "patch: `model` must have a class token for 'ats'"),
        ("vit", "patch_merger", {}, "patch: `model` must pool by mean or attention for 'patch_merger'"),
        ("vit", "tomme", {"r": 1}, "patch: `name` must be one of 'tome', 'ats', 'patch_merger', 'ltm', got 'tomme'"),
        (
            torch.nn.Linear(2, 2),
            "tome",
            {"r": 1},
            "patch: `model` must hold one stack of blocks of a vision transformer",
        ),
        (torch.nn.Sequential(torch.nn.Linear(2, 2)), "tome", {"r": 1}, ".*block 0 being a Linear"),
    ],
)
def test_bad_input_is_one_sentence(model: Any, name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        patch(build(model) if isinstance(model, str) else model, name, **options)


def test_unknown_missing_and_doubled() -> None:
    model = build("vit")
    with pytest.raises(TypeError, match=r"^patch: `k` must be an option of .*"):
        patch(model, "tome", r=1, k=2)
    with pytest.raises(TypeError, match=r"^patch: `r` must be given with 'tome', got nothing$"):
        patch(model, "tome")
    with patch(model, "tome", r=1), pytest.raises(ValueError, match=r"^patch: `model` must not be patched already"):
        patch(model, "tome", r=1)
