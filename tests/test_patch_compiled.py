"""Compiled code never bypasses a patch: compiled before it, for a sister of the same class, or block by block."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from patch_cases import near  # noqa: E402
from torch._dynamo.testing import CompileCounter  # noqa: E402

from tokenmerge.backends.torch import patch  # noqa: E402
from tokenmerge.backends.torch.patching import handle  # noqa: E402


def build(depth: int = 2) -> Any:
    torch.compiler.reset()
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=64, depth=depth, num_classes=5).double().eval()


def images() -> Any:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def whole(model: Any, backend: Any) -> Any:
    return torch.compile(model, backend=backend)


def in_place(model: Any, backend: Any) -> Any:
    model.compile(backend=backend)
    return model


def by_block(model: Any, backend: Any) -> Any:
    for block in model.blocks:
        block.compile(backend=backend)
    return model


def function(model: Any, backend: Any) -> Any:
    return torch.compile(lambda x: model(x), backend=backend)


DOORS: dict[str, Callable[[Any, Any], Any]] = {
    "torch.compile": whole,
    "Module.compile": in_place,
    "blocks": by_block,
    "a function": function,
}


@pytest.mark.parametrize("door", DOORS)
def test_every_change_takes_effect_in_compiled_code(door: str) -> None:
    model, x = build(), images()
    with torch.no_grad():
        plain = model(x)
        compiled = DOORS[door](model, "eager")
        assert near(compiled(x), plain)
        patched = patch(model, "tome", r=3)
        assert patched.num_tokens == []
        merged = compiled(x)
        assert patched.num_tokens == [14, 11] and not near(merged, plain)
        patched.r = 2
        compiled(x)
        assert patched.num_tokens == [15, 13]
        patched.remove()
        assert near(compiled(x), plain)
        again = patch(model, "tome", r=3)
        assert near(compiled(x), merged) and again.num_tokens == [14, 11]
        again.remove()
        assert near(compiled(x), plain)


def test_one_compilation_for_each_change() -> None:
    model, x, counter = build(), images(), CompileCounter()
    with torch.no_grad():
        compiled = torch.compile(model, backend=counter)
        for change in (None, lambda: patch(model, "tome", r=3), lambda: setattr(handle(model), "r", 2)):
            before = counter.frame_count
            if change is not None:
                change()
            compiled(x)
            compiled(x)
            assert counter.frame_count == before + 1
        handle(model).remove()
        compiled(x)
        assert counter.frame_count == 3  # what was compiled first fits again


@pytest.mark.parametrize("first", ["plain", "patched"])
@pytest.mark.parametrize("merger", ["tome", "ats"])
def test_a_sister_of_the_same_class_has_code_of_its_own(first: str, merger: str) -> None:
    plain, x = build(), images()
    patched = copy.deepcopy(plain)
    patch(patched, merger, **({"r": 3} if merger == "tome" else {"max_tokens": (9, 6)}))
    models = {"plain": plain, "patched": patched}
    with torch.no_grad():
        expected = {name: model(x) for name, model in models.items()}
        for name in sorted(models, key=lambda name: name != first):
            assert near(torch.compile(models[name], backend="eager")(x), expected[name])


def test_two_patched_sisters_with_other_options() -> None:
    one, x = build(), images()
    two = copy.deepcopy(one)
    patch(one, "tome", r=3)
    patch(two, "tome", r=3, prop_attn=False)
    with torch.no_grad():
        for model in (one, two):
            assert near(torch.compile(model, backend="eager")(x), model(x))


def test_twelve_blocks_stay_within_the_limit() -> None:
    model, x = build(12), images()
    with torch.no_grad():
        patch(model, "tome", r=1)
        expected = model(x)
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            assert near(by_block(model, "eager")(x), expected)
            by_block(model, "eager")(x)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_patched_model_is_of_the_same_class(again: Any) -> None:
    model = build()
    kinds = [type(module) for module in model.modules()]
    patched = patch(model, "tome", r=3)
    assert all(isinstance(module, kind) for module, kind in zip(model.modules(), kinds, strict=True))
    assert [type(module).__name__ for module in model.modules()] == [kind.__name__ for kind in kinds]
    other = again(model)
    patched.remove()
    assert [type(module) for module in model.modules()] == kinds
    with torch.no_grad():
        assert not near(other(images()), model(images()))
        handle(other).remove()
        assert [type(module) for module in other.modules()] == kinds
        assert torch.equal(other(images()), model(images()))
