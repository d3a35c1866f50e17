"""Patched timm models: the same as our own network with the same weights, and as before once the patch is removed."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
from patch_cases import MERGINGS, near

from tokenmerge import ViTConfig, get_vit

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from tokenmerge.backends.torch import SelectionPlan, patch  # noqa: E402
from tokenmerge.backends.torch.patching import CannotPatch, Handle, handle  # noqa: E402

SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
OURS: dict[str, Any] = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 3, "heads": 3, "num_classes": 5}
MEAN: dict[str, Any] = {"class_token": False, "global_pool": "avg"}

# how timm builds them, and the same for us; None where we have no such network
BLOCKS = {
    "vit, parallel": timm.models.vision_transformer.ParallelScalingBlock,
    "vit, parallel things": timm.models.vision_transformer.ParallelThingsBlock,
}
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
    "eva, mixed": ("Eva", {"use_rot_pos_emb": True, "rope_type": "mixed", "global_pool": "token"}, None),
    "eva, mean": ("Eva", {"use_rot_pos_emb": True, "global_pool": "avg"}, None),
}


def build(family: str, **options: Any) -> Any:
    """A model of a family with random parameters, in float64 and evaluation mode."""
    name, theirs, _ = FAMILIES.get(family) or ("VisionTransformer", {"block_fn": BLOCKS[family]}, None)
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
    assert near(logits, output.logits, model)
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
    keys, seen = list(model.state_dict()), [(module, inside(module)) for module in model.modules()]
    with torch.no_grad():
        before = model(x)
        if fits(family, merging):
            with patch(model, name, **options):
                patched = model(x)
                assert patched.shape == before.shape and torch.isfinite(patched).all()
                assert not torch.equal(patched, before)
        else:
            with pytest.raises(CannotPatch, match=r"^patch: `model` must .*, got .*$"):
                patch(model, name, **options)
        assert torch.equal(model(x), before)
    assert list(model.state_dict()) == keys
    assert [(module, inside(module)) for module in model.modules()] == seen


def inside(module: Any) -> dict[str, Any]:
    """Everything in a module, with what is in its dictionaries."""
    return {name: list(value) if isinstance(value, dict) else id(value) for name, value in vars(module).items()}


def by_hand(model: Any, x: Any, r: int) -> Any:
    """EVA with ToMe, block by block, from the model's parts and the functions of the backend."""
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat

    from tokenmerge.backends.torch import tome

    x = model.patch_embed(x)
    x, tables = model._pos_embed(x)
    size, made = torch.ones(x.shape[:2], dtype=x.dtype), []
    for index, block in enumerate(model.blocks):
        rope = tables[index] if model.rope_mixed else tables[None]  # (H,N,2d), or one for all heads
        rope = torch.cat([rope.new_zeros(len(rope), 1, rope.shape[-1]), rope], 1).expand(len(x), -1, -1, -1)
        for plan, sizes in made:
            rope = torch.stack([plan.merge(each, sizes) for each in rope.unbind(1)], 1)
        attention = block.attn
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        qkv = torch.nn.functional.linear(block.norm1(x), attention.qkv.weight, bias)
        query, key, value = qkv.reshape(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        turned = [
            torch.cat([each[:, :, :1], apply_rot_embed_cat(each[:, :, 1:], rope[:, :, 1:])], 2) for each in (query, key)
        ]
        logits = turned[0] @ turned[1].transpose(2, 3) * attention.scale + size.log()[:, None, None]
        seen = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        branch = attention.proj(attention.norm(seen))
        x = x + (branch if block.gamma_1 is None else block.gamma_1 * branch)
        plan = tome.plan(key.mean(1), r=r, protected=1)
        made.append((plan, size))
        x, size = plan.merge(x, size), plan.merge_size(size)
        branch = block.mlp(block.norm2(x))
        x = x + (branch if block.gamma_2 is None else block.gamma_2 * branch)
    x = model.norm(x)
    pooled = (
        x[:, 0] if model.global_pool == "token" else (size[:, 1:, None] * x[:, 1:]).sum(1) / size[:, 1:].sum(1)[:, None]
    )
    return model.head(model.fc_norm(pooled))


@pytest.mark.parametrize("family", ["eva", "eva, mean", "eva, mixed"])
def test_rotary_tables_follow_the_tokens(family: str) -> None:
    model, x = build(family), images()
    with torch.no_grad():
        expected = by_hand(model, x, 3)
        with patch(model, "tome", r=3):
            got = model(x)
    assert near(got, expected, model)


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
    assert near(after, before, model)


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
        assert handle(model)._patch.thread.stack == []
        assert torch.equal(model(x), expected)


def test_calls_inside_calls_do_not_see_each_other() -> None:
    model, x = build("mean"), images()
    with torch.no_grad(), patch(model, "tome", r=3) as patched:
        expected, inner = model(x), []

        def again(module: Any, args: Any, output: Any) -> None:
            hook.remove()
            inner.append(model(x[:1]))

        hook = model.blocks[1].mlp.register_forward_hook(again)
        assert torch.equal(model(x), expected)
        assert near(inner[0], expected[:1], model)
        assert patched.plans[0].assignment.shape[0] == 2  # the outer call finished last


def replica(module: Any) -> Any:
    """What `DataParallel` gives to one of its threads, without a second device."""
    copied = module._replicate_for_data_parallel()
    for name, child in module.named_children():
        setattr(copied, name, replica(child))
    for name, value in module.named_parameters(recurse=False):
        setattr(copied, name, value.clone())
    for name, value in module.named_buffers(recurse=False):
        setattr(copied, name, value.clone())
    return copied


@pytest.mark.parametrize("merging", ["tome", "ats", "ltm"])
def test_replicas_in_threads_share_hooks_and_nothing_else(merging: str) -> None:
    name, options, _ = MERGINGS[merging]
    model, x = build("vit"), images()
    with patch(model, name, **options) as patched:
        expected = [model(one) for one in x.split(1)]
        found: dict[int, Any] = {}

        def work(index: int, module: Any) -> None:
            found[index] = module(x[index : index + 1])

        threads = [threading.Thread(target=work, args=(index, replica(model))) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(found[index], expected[index]) for index in range(2))
        assert patched.plans[0].num_tokens_in == 17


def test_parts_of_a_call() -> None:
    """Features alone, a slice of the blocks, a block alone, the head alone."""
    model, x = build("mean"), images()
    with torch.no_grad(), patch(model, "tome", r=3) as patched:
        model(x)
        features = model.forward_features(x)
        assert features.shape[1] == 7 and patched.unmerge(features).shape[1] == 16
        assert torch.equal(model.forward_head(features), model(x))  # the tokens of the last call, whose sizes are known
        model.forward_features(x)
        with pytest.raises(RuntimeError, match=r"^patch: the head of a patched model must be given the tokens of the "):
            model.forward_head(features.clone())
        tokens = torch.zeros(1, 16, 24, dtype=torch.float64)
        assert model.blocks[2](tokens).shape == (1, 16, 24)
        assert model.blocks[1:](model.blocks[:1](tokens)).shape == (1, 7, 24)
        assert handle(model)._patch.thread.stack == []


def test_hooks_of_others_see_what_the_block_gives() -> None:
    model, seen = build("vit"), []
    model.blocks[0].register_forward_hook(lambda *given: seen.append(given[2].shape[1]))
    with torch.no_grad(), patch(model, "tome", r=3):
        model.blocks[0].register_forward_hook(lambda *given: seen.append(given[2].shape[1]))
        model(images())
    assert seen == [14, 14]


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax"])
@pytest.mark.parametrize("merging", ["tome", "ats", "ltm"])
def test_pools_count_patches_and_leave_padding_out(pool: str, merging: str) -> None:
    name, options, _ = MERGINGS[merging]
    model, x = build("vit", global_pool=pool), images()
    with torch.no_grad():
        with patch(model, name, **options) as patched:
            got, tokens = model(x), model.forward_features(x)
        size = patched.size[:, 1:, None]
        mean = (size * tokens[:, 1:]).sum(1) / size.sum(1)
        largest = tokens[:, 1:].masked_fill(size == 0, -torch.inf).amax(1)
        pooled = {"avg": mean, "max": largest, "avgmax": (mean + largest) / 2}[pool]
        expected = model.head(model.fc_norm(pooled))
    assert near(got, expected, model)


def test_ats_never_makes_a_query_that_is_not_chosen(monkeypatch: Any) -> None:
    model, shapes, fused = build("vit"), [], torch.nn.functional.scaled_dot_product_attention

    def spy(query: Any, key: Any, *rest: Any, **options: Any) -> Any:
        shapes.append((query.shape[2], key.shape[2]))
        return fused(query, key, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    with torch.no_grad(), patch(model, "ats", max_tokens=(9, 6)):
        model(images())
    assert shapes == [(10, 17), (7, 10), (7, 7)]


ATTENTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("Attention", {"qk_norm": True, "scale_norm": True, "gated": True}),
    "rotary": ("AttentionRope", {"qk_norm": True, "rotate_half": True}),
    "rotary, fewer keys": ("AttentionRope", {"qkv_fused": False, "num_kv_heads": 2, "gated": True}),
    "eva": ("EvaAttention", {"qk_norm": True}),
    "eva, bias apart": ("EvaAttention", {"qkv_bias_separate": True, "scale_norm": False}),
    "eva, no bias": ("EvaAttention", {"qkv_bias": False, "gated": True, "rotate_half": True}),
    "eva, apart": ("EvaAttention", {"qkv_fused": False}),
}


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_for_all_queries_is_the_modules_own(kind: str) -> None:
    from tokenmerge.backends.torch.patching.timm import attend_chosen, heads

    name, options = ATTENTIONS[kind]
    torch.manual_seed(0)
    made = getattr(timm.layers if hasattr(timm.layers, name) else timm.models.eva, name)
    attention = made(24, num_heads=4, norm_layer=timm.layers.LayerNorm, **options).double().eval()
    with torch.no_grad():
        for value in attention.parameters():
            value.add_(0.2 * torch.randn_like(value))
        x = torch.randn(2, 9, 24, dtype=torch.float64)
        given = {} if kind == "plain" else {"rope": torch.randn(8, 12, dtype=torch.float64)}
        every = SelectionPlan(torch.arange(9).expand(2, -1), num_tokens_in=9)
        got, expected = attend_chosen(attention, *heads(attention, x, given), x, every, given), attention(x, **given)
    assert near(got, expected, attention)


def test_a_mask_over_merged_tokens_is_refused() -> None:
    model, x = build("vit"), images()
    with torch.no_grad(), patch(model, "tome", r=3):
        with pytest.raises(ValueError, match=r"^patch: `attn_mask` must be None .*, got a mask$"):
            model(x, attn_mask=torch.zeros(17, 17, dtype=x.dtype))
        assert handle(model)._patch.thread.stack == []


def test_gradient_checkpointing_needs_masks_that_stay_in_their_block() -> None:
    model, x = build("vit"), images()
    model.set_grad_checkpointing()
    with patch(model, "ltm", compression_ratio=0.6):
        with pytest.raises(RuntimeError, match=r"^patch: gradient checkpointing must be off"):
            model(x).sum().backward()
        with torch.no_grad():
            model(x)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("merging", ["tome", "ats", "ltm"])
def test_copies_and_pickles_merge_on_their_own(again: Any, merging: str) -> None:
    name, options, _ = MERGINGS[merging]
    model, x = build("vit"), images()
    with torch.no_grad():
        patched = patch(model, name, **options)
        expected = model(x)
        other = again(model)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(other(x), expected)
        patched.remove()
        assert torch.equal(other(x), expected)
        handle(other).remove()
        assert torch.equal(other(x), build("vit")(x))


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


@pytest.mark.parametrize(
    ("family", "merging"), [("vit", "tome"), ("vit", "ats"), ("eva", "ltm"), ("siglip", "patch_merger")]
)
def test_compiles_to_one_graph(family: str, merging: str) -> None:
    name, options, _ = MERGINGS[merging]
    model, x = build(family), images()
    with torch.no_grad(), patch(model, name, **options) as patched:
        expected, plans = model(x), patched.plans
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        got = compiled(x)
        assert near(got, expected, model)
        assert [plan and plan.num_tokens_out for plan in patched.plans] == [
            plan and plan.num_tokens_out for plan in plans
        ]
        if merging == "tome":
            patched.r = 2
            assert near(compiled(x), model(x), model)
            assert patched.plans[2].num_tokens_out == 11
    if merging == "tome":
        with torch.no_grad():
            assert torch.equal(compiled(x), model(x))


def test_exports_as_one_graph() -> None:
    model, x = build("mean"), images()
    with torch.no_grad(), patch(model, "tome", r=3):
        program = torch.export.export(model, (x,))
        assert near(program.module()(x), model(x), model)


def test_sees_no_gradient_in_what_is_kept() -> None:
    model = build("mean")
    with patch(model, "ltm", compression_ratio=0.5) as patched:
        model(images())
        kept = [patched.size, *patched.sizes, *(plan.weights for plan in patched.plans)]
    assert not any(value is not None and value.requires_grad for value in kept)


def test_autocast_and_functional_call() -> None:
    model, x = build("vit").float(), images().float()
    with torch.no_grad(), patch(model, "tome", r=3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.isfinite(model(x)).all()
        params = {name: value + 1e-3 for name, value in model.named_parameters()}
        assert not torch.equal(torch.func.functional_call(model, params, (x,)), model(x))


def test_the_backend_loads_neither_library() -> None:
    code = "import sys, tokenmerge.backends.torch; print({'timm', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# Models and options that cannot be patched


class Reversed(timm.models.vision_transformer.Block):  # type: ignore[misc, name-defined]
    def forward(self, x: Any, attn_mask: Any = None, is_causal: bool = False) -> Any:
        x = x + self.mlp(self.norm2(x))
        return x + self.attn(self.norm1(x))


def test_a_block_with_a_forward_of_its_own_is_refused_by_name() -> None:
    model = build("vit")
    model.blocks[1] = Reversed(24, 3)
    with pytest.raises(
        ValueError, match=r"^patch: `model` must .*, got VisionTransformer\.blocks\[1\] \(Reversed\) with .*"
    ):
        patch(model, "tome", r=1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("model", "name", "options", "sentence"),
    [
        ("vit", "tome", {"r": 9}, "patch: `r` must be at most 8, half of the 16 tokens that may merge, got 9"),
        ("vit", "tome", {"r": [1] * 4}, "merge_schedule: `r` must have at most depth = 3 entries, got 4"),
        ("vit", "tome", {"r": -1}, r"merge_schedule: `r` must be an integer >= 0, got -1"),
        ("vit", "ats", {"max_tokens": (4,) * 4}, "patch: `max_tokens` must have at most 3 entries"),
        ("mean", "ats", {"max_tokens": (4,)}, "patch: `model` must have a class token for 'ats'"),
        ("vit", "patch_merger", {}, "patch: `model` must pool all of its tokens for 'patch_merger'"),
        ("vit", "tomme", {"r": 1}, "patch: `name` must be one of 'tome', 'ats', 'patch_merger', 'ltm', got 'tomme'"),
        (
            timm.create_model("beit_base_patch16_224", embed_dim=24, depth=2, num_heads=2),
            "tome",
            {"r": 1},
            r"patch: `around` must be 'mlp' with 'tome' or 'ltm' for Beit, whose attention adds a bias to every pair ",
        ),
        (
            torch.nn.Linear(2, 2),
            "tome",
            {"r": 1},
            r"patch: `model` must hold exactly one network that is known .*, got none in torch\..*\.Linear$",
        ),
        (
            "vit",
            "tome",
            {"r": 1, "protected": 0},
            r"patch: `protected` must be an integer >= 1, got 0 \(the tokens in fr",
        ),
        ("vit", "tome", {"r": 1, "order": "groupd"}, r"patch: `order` must be one of .*, got 'groupd' \(did you mean"),
        ("vit", "ltm", {"compression_ratio": 0}, r"ltm: `compression_ratio` must be a number in \(0, 1\], got 0"),
        (
            "mean",
            "patch_merger",
            {"layer": 4},
            "patch: `layer` must be at most depth = 3, got 4",
        ),
        ("eva, mean", "patch_merger", {}, "patch: `model` must have no rotary positions for 'patch_merger'"),
        ("vit, parallel things", "tome", {"r": 1}, r"patch: .* VisionTransformer\.blocks\[0\] \(ParallelThingsBlock\)"),
        (
            "vit, parallel",
            "ats",
            {"max_tokens": (4,)},
            r"patch: `model` must have blocks with an attention and then",
        ),
        (
            "vit, parallel",
            "tome",
            {"r": 1, "around": "mlp"},
            r"patch: `model` must have .* acts around the MLP, got",
        ),
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
