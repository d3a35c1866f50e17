"""Blocks that do not run as they were patched: right, or an error or a warning in that call."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
hf = pytest.importorskip("transformers")

from patch_cases import HF, images, near, shaken, vit  # noqa: E402

from tokenmerge.backends.torch import patch  # noqa: E402


class Parts(torch.nn.Module):
    def __init__(self, whole: int = 0) -> None:
        super().__init__()
        self.vit, self.whole = vit(), whole

    def forward(self, x: Any) -> Any:
        network = self.vit
        x = network._pos_embed(network.patch_embed(x))
        for index, block in enumerate(network.blocks):
            if index < self.whole:
                x = block(x)
            else:
                x = x + block.attn(block.norm1(x))
                x = x + block.mlp(block.norm2(x))
        return network.norm(x)


@pytest.mark.parametrize("merger", ["tome", "ltm"])
@pytest.mark.parametrize("whole", [0, 1])
def test_a_wrapper_that_runs_parts_of_blocks(whole: int, merger: str) -> None:
    model = Parts(whole)
    with patch(model, merger, **({"r": 3} if merger == "tome" else {"compression_ratio": 0.6})):
        with pytest.warns(
            UserWarning, match=rf"^patch: the attention of block {whole} of vit ran outside of its block"
        ):
            model(images())


def test_blocks_that_are_replaced_or_left_out() -> None:
    model, x = vit(), images()
    with torch.no_grad(), patch(model, "tome", r=3):
        model.blocks[1] = vit().blocks[1]
        with pytest.warns(UserWarning, match=r"^patch: block 1 of VisionTransformer did not run as it was patched"):
            model(x)
        model.blocks = torch.nn.Sequential(*vit().blocks)
        with pytest.warns(UserWarning, match=r"^patch: 0 of 3 blocks of VisionTransformer ran as they were patched"):
            model(x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(x)  # once


def test_a_norm_or_a_drop_path_that_is_replaced_is_found_again() -> None:
    model, x, norm = vit(), images(), torch.nn.LayerNorm(24).double()
    with torch.no_grad():
        with patch(model, "tome", r=3) as handle:
            model.blocks[1].norm2, model.blocks[2].drop_path2 = norm, torch.nn.Identity()
            late = model(x)
            assert handle.num_tokens == [14, 11, 8]
        with patch(model, "tome", r=3):
            assert torch.equal(model(x), late)
        assert not norm._forward_pre_hooks


def test_an_attention_that_is_replaced_is_refused() -> None:
    model = vit()
    with patch(model, "tome", r=3):
        model.blocks[1].attn = vit().blocks[1].attn
        with pytest.raises(RuntimeError, match=r"^patch: `model` must be patched again, got block 1 .*\.attn"):
            model(images())


class Adapter(torch.nn.Module):
    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base_layer, self.delta = base, torch.nn.Linear(24, 24, bias=False).double()

    def forward(self, x: Any) -> Any:
        return self.base_layer(x) + 5 * self.delta(x)


@pytest.mark.parametrize("kind", ["ViTModel", "CLIPVisionModel", "SiglipVisionModel"])
def test_an_adapter_on_the_keys_is_what_tokens_are_compared_by(kind: str) -> None:
    torch.manual_seed(0)
    config = getattr(hf, {"ViTModel": "ViTConfig"}.get(kind, kind.replace("Model", "Config")))
    model, x = shaken(getattr(hf, kind)(config(**HF, intermediate_size=32))), images()
    attentions = [part for part in model.modules() if hasattr(part, "k_proj")]
    with torch.no_grad():
        with patch(model, "tome", r=3) as handle:
            for attention in attentions:
                attention.k_proj = Adapter(attention.k_proj)
            model(x)
            late = [plan.assignment for plan in handle.plans]
        with patch(model, "tome", r=3) as handle:
            model(x)
            for got, plan in zip(late, handle.plans, strict=True):
                assert torch.equal(got, plan.assignment)


@pytest.mark.parametrize("change", [lambda x: x[:, :10], lambda x: torch.cat([x, x[:, :2]], 1), lambda x: x[:1]])
def test_tokens_that_others_drop_or_insert_between_blocks(change: Any) -> None:
    model = vit()
    with torch.no_grad(), patch(model, "tome", r=[3, 0, 0]):
        hook = model.blocks[1].register_forward_hook(lambda module, args, output: change(output))
        with pytest.raises(RuntimeError, match=r"^patch: block 2 of VisionTransformer must be given the"):
            model(images())
        hook.remove()
        model(images())


def test_calls_that_take_turns_block_by_block() -> None:
    model = vit()
    a, b = torch.randn(2, 1, 17, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), patch(model, "tome", r=3) as handle:
        alone = model.blocks(a), model.blocks(b)
        first, second = a, b
        for block in model.blocks:
            first, second = block(first), block(second)
        assert torch.equal(first, alone[0]) and torch.equal(second, alone[1])
        assert handle._patch.thread.stack == []
        with pytest.raises(RuntimeError, match=r"^patch: calls of a patched model must not take turns"):
            for block in model.blocks:
                a, b = block(a) + 0, block(b) + 0


def test_a_call_that_stops_early_leaves_nothing_behind() -> None:
    model, x = vit(), images()
    with torch.no_grad(), patch(model, "tome", r=3) as handle:
        expected = model(x)
        model.forward_intermediates(x, indices=[0], stop_early=True, output_fmt="NLC")
        assert handle.num_tokens == [14] and handle._patch.thread.stack == []
        model.blocks[:2](torch.zeros(1, 17, 24, dtype=torch.float64))
        assert torch.equal(model(x), expected)
        assert handle._patch.thread.stack == [] and near(handle.size.sum(1), torch.full((2,), 17.0))


def test_a_block_without_those_before_it_says_so() -> None:
    model = vit()
    with patch(model, "tome", r=3), pytest.warns(UserWarning, match=r"^patch: block 2 of .* ran without the blocks"):
        assert model.blocks[2](torch.zeros(1, 16, 24, dtype=torch.float64)).shape == (1, 16, 24)


@pytest.mark.parametrize("merger", ["tome", "ats"])
def test_a_mask_in_the_block_that_merges_first_is_refused(merger: str) -> None:
    model, x = vit(), images()
    with patch(model, merger, **({"r": [3, 0, 0]} if merger == "tome" else {"max_tokens": (4,)})):
        with pytest.raises(ValueError, match=r"^patch: `attn_mask` must be None .*, got a mask$"):
            model.blocks[0](torch.zeros(1, 17, 24, dtype=x.dtype), attn_mask=torch.zeros(17, 17, dtype=x.dtype))


@pytest.mark.parametrize("change", [lambda x: x.flip(1), lambda x: x.flip(0), lambda x: x[:, [0, 1, *range(1, 13)]]])
def test_other_tokens_of_the_same_number_between_blocks_are_said(change: Any) -> None:
    model = vit()
    model.blocks[1].register_forward_pre_hook(lambda module, args: (change(args[0]),))
    with torch.no_grad(), patch(model, "tome", r=3):
        with pytest.warns(UserWarning, match=r"^patch: block 1 of VisionTransformer is given other tokens than"):
            model(images())


@pytest.mark.parametrize("restore", [False, True])
def test_tokens_that_are_changed_where_they_lie_are_said(restore: bool) -> None:
    model = vit()

    def change(module: Any, args: Any) -> None:
        args[0].copy_(args[0].flip(1))

    hook = model.blocks[1].register_forward_pre_hook(change)
    with torch.no_grad(), patch(model, "tome", r=3, restore=restore):
        if restore:
            with pytest.raises(RuntimeError, match=r"must be given what the block before it returned"):
                model(images())
        else:
            with pytest.warns(UserWarning, match=r"^patch: block 1 of VisionTransformer is given other tokens than"):
                model(images())
        hook.remove()
        with torch.inference_mode(), warnings.catch_warnings():  # whose tensors count no changes
            warnings.simplefilter("error")
            model(images())


def test_tokens_that_are_only_detached_between_blocks_are_the_same() -> None:
    model = vit()
    model.blocks[1].register_forward_pre_hook(lambda module, args: (args[0].detach(),))
    with torch.no_grad(), patch(model, "tome", r=3), warnings.catch_warnings():
        warnings.simplefilter("error")
        model(images())


def test_somebody_elses_hooks_see_what_they_would_see_without_us() -> None:
    """In front of a part ours are first and behind it last, whoever comes later."""
    model, x, seen = vit(), images(), {}
    with torch.no_grad(), patch(model, "tome", r=3) as handle:
        expected = model(x)
        block = model.blocks[0]
        block.norm2.register_forward_pre_hook(lambda module, args: seen.update(norm=args[0]), prepend=True)
        hook = block.drop_path2.register_forward_hook(lambda module, args, out: seen.update(mlp=out) or 3 * out)
        block.attn.k_norm.register_forward_hook(lambda module, args, out: seen.update(keys=out))
        tripled = model(x)
        assert [seen["norm"].shape[1], seen["mlp"].shape[1], seen["keys"].shape[2]] == [14, 14, 17]
        hook.remove()
        assert torch.equal(model(x), expected) and not torch.equal(tripled, expected)
        handle.remove()
        assert not seen["norm"].isnan().any() and len(block.norm2._forward_pre_hooks) == 1


def test_a_head_that_is_put_on_the_instance_after_the_patch_is_refused() -> None:
    model, x = vit(), images()
    with torch.no_grad(), patch(model, "tome", r=3) as handle:
        model.forward_head = lambda tokens, pre_logits=False: model.head(tokens.mean(1))
        with pytest.raises(
            RuntimeError, match=r"^patch: `forward_head` of VisionTransformer must be that of its class"
        ):
            model(x)
        handle.r = 0
        assert model(x).shape == (2, 5)


def test_a_patched_model_cannot_be_scripted() -> None:
    model = vit()
    with patch(model, "tome", r=3), pytest.raises(RuntimeError, match=r"^patch: a patched model cannot be scripted"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of scripts as such
            torch.jit.script(model)
