"""Gradient checkpointing by every door: the gradients are those without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from patch_cases import images, vit  # noqa: E402
from torch.utils.checkpoint import checkpoint, checkpoint_sequential  # noqa: E402

from tokenmerge.backends.torch import patch  # noqa: E402


def own_door(model: Any, x: Any) -> Any:
    model.set_grad_checkpointing()
    return model(x)


def features(model: Any, x: Any) -> Any:
    model.set_grad_checkpointing()
    return model.forward_features(x)


def intermediates(model: Any, x: Any) -> Any:
    model.set_grad_checkpointing()
    return model.forward_intermediates(x, output_fmt="NLC")[0]


def each(reentrant: bool) -> Callable[[Any, Any], Any]:
    def run(model: Any, x: Any) -> Any:
        x = model._pos_embed(model.patch_embed(x))
        for block in model.blocks:
            x = checkpoint(block, x, use_reentrant=reentrant)
        return model.norm(x)

    return run


def in_pairs(model: Any, x: Any) -> Any:
    x = model._pos_embed(model.patch_embed(x))
    return model.norm(checkpoint_sequential(model.blocks, 2, x, use_reentrant=False))


def wrapped(model: Any, x: Any) -> Any:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model.blocks = torch.nn.Sequential(*(checkpoint_wrapper(block) for block in model.blocks))
    return model(x)


def twice(model: Any, x: Any) -> Any:
    """Two calls, and the backward pass of both at the end."""
    run = each(True)
    return run(model, x) + run(model, 2 * x)


def plain(model: Any, x: Any) -> Any:
    return model.norm(model.blocks(model._pos_embed(model.patch_embed(x))))


DOORS: dict[str, tuple[Any, Any]] = {
    "set_grad_checkpointing": (own_door, lambda model, x: model(x)),
    "forward_features": (features, plain),
    "forward_intermediates": (intermediates, plain),
    "checkpoint, reentrant": (each(True), plain),
    "checkpoint": (each(False), plain),
    "checkpoint_sequential": (in_pairs, plain),
    "checkpoint_wrapper": (wrapped, lambda model, x: model(x)),
    "two calls": (twice, lambda model, x: plain(model, x) + plain(model, 2 * x)),
}
MERGERS: dict[str, dict[str, Any]] = {
    "tome": {"r": [4, 0, 3, 1]},
    "ats": {"max_tokens": (9, 6)},
}


def gradients(run: Any, merger: str, **options: Any) -> list[Any]:
    model = vit(depth=4).train()
    patch(model, merger, **MERGERS[merger] | options)
    run(model, images()).square().sum().backward()
    return [value.grad for _, value in sorted(model.named_parameters()) if value.grad is not None]


@pytest.mark.parametrize("merger", MERGERS)
@pytest.mark.parametrize("door", DOORS)
def test_gradients_are_those_without_it(door: str, merger: str) -> None:
    checkpointed, whole = (gradients(run, merger) for run in DOORS[door])
    assert len(checkpointed) == len(whole)
    for got, expected in zip(checkpointed, whole, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("around", ["mlp", "block"])
def test_plans_around_a_branch_are_made_again(around: str) -> None:
    checkpointed, whole = (gradients(run, "tome", around=around) for run in (each(True), plain))
    for got, expected in zip(checkpointed, whole, strict=True):
        assert torch.equal(got, expected)


def test_restored_tokens_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"^patch: gradient checkpointing must be off .* that restores its tokens"):
        gradients(each(True), "tome", restore=True)


def test_nothing_is_remembered_when_the_graph_is_gone() -> None:
    model = vit().train()
    handle = patch(model, "tome", r=3)
    model(images()).sum().backward()
    model(images()).sum().backward()
    kept = [tokens for of_block in handle._patch.memory._blocks.values() for tokens, _ in of_block]
    assert len(kept) == 3 and not any(tokens.are_alive() for tokens in kept)


def test_the_same_tokens_are_remembered_once() -> None:
    model, x = vit(), torch.randn(2, 17, 24, dtype=torch.float64)
    handle = patch(model, "tome", r=3)
    for _ in range(3):
        model.blocks(x)
    assert len(handle._patch.memory._blocks[0]) == 1
    with torch.no_grad():
        before = {index: len(kept) for index, kept in handle._patch.memory._blocks.items()}
        model(images())
        assert {index: len(kept) for index, kept in handle._patch.memory._blocks.items()} == before
