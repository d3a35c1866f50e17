"""A block of one's own is known once its parts are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from patch_cases import near  # noqa: E402
from torch import nn  # noqa: E402

from tokenmerge.backends.torch import patch, tome  # noqa: E402
from tokenmerge.backends.torch.patching import CannotPatch, own  # noqa: E402
from tokenmerge.patching import register_block  # noqa: E402


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: Any) -> None:
    for table in ("BLOCKS", "ATTENTIONS", "PREFIX"):
        monkeypatch.setattr(own, table, {})


class MyAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int = 2) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q, self.to_k, self.to_v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Any, bias: Any = None) -> Any:
        q, k, v = (
            part(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in (self.to_q, self.to_k, self.to_v)
        )
        seen = nn.functional.scaled_dot_product_attention(q, k, v, bias)
        return self.out(seen.transpose(1, 2).flatten(2))


class MyBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention, self.mlp = MyAttention(dim), nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


class MyNetwork(nn.Module):
    def __init__(self, dim: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MyBlock(dim) for _ in range(depth))

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return x[:, 0]


NAMES: dict[str, Any] = {
    "attention": "attention",
    "norm": "second",
    "mlp_end": "mlp",
    "keys": "to_k",
    "attention_class": MyAttention,
    "mask": "bias",
    "reads_class": True,
}


def by_hand(model: Any, x: Any, r: int) -> Any:
    size = x.new_ones(x.shape[:2])
    for block in model.blocks:
        normed = block.first(x)
        keys = block.attention.to_k(normed).unflatten(2, (2, -1)).mean(2)
        x = x + block.attention(normed, size.log()[:, None, None])
        plan = tome.plan(keys, r=r, protected=1)
        x, size = plan.merge_both(x, size)
        x = x + block.mlp(block.second(x))
    return x[:, 0]


def test_a_registered_block_merges() -> None:
    model, x = MyNetwork().double(), torch.randn(2, 12, 8, dtype=torch.float64)
    with pytest.raises(CannotPatch, match=r"got none in .*test_patch_own_blocks\.MyNetwork \(whose blocks\[0\] runs"):
        patch(model, "tome", r=2)
    register_block(MyBlock, **NAMES)
    with torch.no_grad():
        before, expected = model(x), by_hand(model, x, 2)
        with patch(model, "tome", r=2) as handle:
            got = model(x)
            assert handle.num_tokens == [10, 8, 6]
        assert near(got, expected, model)
        assert torch.equal(model(x), before)
        with patch(model, "ltm", compression_ratio=0.5) as handle:
            model(x)
        with pytest.raises(CannotPatch, match=r"class token"):
            patch(model, "ats", max_tokens=(4,))


def test_who_reads_its_tokens_is_asked_for() -> None:
    register_block(MyBlock, **NAMES | {"reads_class": False})
    model = MyNetwork()
    with pytest.warns(UserWarning, match=r"^patch: MyNetwork .* reads merged tokens in a way that nobody"):
        patch(model, "tome", r=2).remove()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mask": "attn_mask"}, r"patch: `mask` must be an argument of MyAttention.forward, got 'attn_mask'"),
        ({"prefix": -1}, r"patch: `prefix` must be an integer >= 0, got -1"),
    ],
)
def test_names_are_checked(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        register_block(MyBlock, **NAMES | change)


def test_a_class_is_needed() -> None:
    with pytest.raises(TypeError, match=r"^patch: `block_class` must be a subclass of torch.nn.Module, got 3"):
        register_block(3, **NAMES)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("attention", 5),
        ("norm", ""),
        ("keys", "to k"),
        ("mask", np.ones(2)),
        ("num_heads", None),
        ("reads_class", "no"),
    ],
)
def test_names_that_are_none(option: str, value: Any) -> None:
    names = {"attention": "attention", "norm": "second", "mlp_end": "mlp", "keys": "to_k"}
    with pytest.raises(TypeError, match=f"^patch: `{option}` must be .*, got "):
        register_block(MyBlock, attention_class=MyAttention, **(names | {option: value}))
    assert not own.BLOCKS
