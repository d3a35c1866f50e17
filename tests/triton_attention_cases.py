"""What the attention kernels give, case by case; run like `triton_cases.py`, by `test_torch_kernels.py` or by hand.

Two kinds of inputs. In one the arithmetic is exact, so the result is the textbook's to the last bit. In the other the
error is held against a bound that is computed (`conformance/rounding.py`), with every rounding of the kernels in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokenmerge.backends.torch import attention as backend
from tokenmerge.backends.torch import kernels
from tokenmerge.backends.torch.kernels.attention import attention_tokens
from tokenmerge.conformance.rounding import Rounded, budget_used

DEVICE = os.environ.get("TRITON_CASES_DEVICE", "cpu")
HALVES = ("float16", "bfloat16")
DTYPES = (*HALVES, "float32")
LENGTHS = [1, 5, 63, 64, 65, 197]
Tensor = torch.Tensor


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def integers(low: int, high: int, *shape: int, seed: int = 0, dtype: str = "float32") -> Tensor:
    return torch.randint(low, high, shape, generator=generator(seed)).to(DEVICE, getattr(torch, dtype))


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> Tensor:
    return torch.randn(shape, generator=generator(seed)).to(DEVICE, getattr(torch, dtype))


def same(got: Tensor, want: Tensor) -> bool:
    """Equal to the last bit."""
    return got.dtype == want.dtype and torch.equal(got, want)


def differences(got: list[Tensor], want: list[Tensor], names: str = "out of_query of_key of_value") -> dict[str, float]:
    """The largest difference of each result that is not the same to the last bit."""
    results = zip(names.split(), got, want, strict=True)
    return {name: float((a.double() - b.double()).abs().max()) for name, a, b in results if not same(a, b)}


def textbook(
    query: Tensor, key: Tensor, value: Tensor, size: Tensor | None, mask: Tensor | None, scale: float | None = None
) -> Tensor:
    """The whole matrix of weights, in float64; nothing of a masked key counts, not even what is no number."""
    query, key, value = query.double(), key.double(), value.double()
    if mask is not None:
        key, value = (torch.where(mask[:, None, :, None], tensor, 0) for tensor in (key, value))
    logits = (query.shape[3] ** -0.5 if scale is None else scale) * query @ key.transpose(2, 3)
    if size is not None:
        logits = logits + size.double().log()[:, None, None, :]
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None, :], -torch.inf)
    nothing = (logits == -torch.inf).all(dim=3, keepdim=True)
    return torch.softmax(logits.masked_fill(nothing, 0), dim=3).masked_fill(nothing, 0) @ value


def powers(n: int, seed: int = 0) -> Tensor:
    """`n` powers of two that add up to one, in some order: as sizes of tokens with equal logits, their weights."""
    parts = [1.0]
    while len(parts) < n:
        largest = parts.pop(0)
        parts += [largest / 2] * 2
        parts.sort(reverse=True)
    return torch.tensor(parts)[torch.randperm(n, generator=generator(seed))].to(DEVICE)


def distinct(n: int, d: int, dtype: str) -> Tensor:
    """`n` vectors of ±1: the index in binary, twice, so that two of them differ in two places at least."""
    bit = torch.arange(n)[:, None] >> (torch.arange(d) % 8)
    return (2 * (bit & 1) - 1).to(DEVICE, getattr(torch, dtype))


# Where arithmetic is exact


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", LENGTHS)
def test_equal_logits_give_the_sizes_as_weights(n: int, dtype: str) -> None:
    size = torch.stack([powers(n, seed=1), powers(n, seed=2) * 64])
    query = integers(-3, 4, 2, 2, 3, 16, seed=3, dtype=dtype)
    query[..., 8:] = 0  # orthogonal to the keys
    key = integers(-3, 4, 2, 2, n, 16, seed=4, dtype=dtype)
    key[..., :8] = 0
    seen = torch.randperm(n, generator=generator(5))[:16].to(DEVICE)  # a channel shows the weight of one token
    value = torch.zeros(2, 2, n, 16, device=DEVICE, dtype=getattr(torch, dtype))
    value[:, :, seen, torch.arange(len(seen), device=DEVICE)] = 3
    got = kernels.attention(query, key, value, size, None, None)
    want = torch.zeros(2, 2, 3, 16, device=DEVICE)
    want[..., : len(seen)] = 3 * (size / size.sum(dim=1, keepdim=True))[:, None, None, seen]
    assert same(got, want.to(value.dtype))
    everything = kernels.attention(query, key, torch.full_like(value, 3), size, None, None)
    assert same(everything, torch.full_like(query, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(1, 197), (65, 5), (197, 197)])
def test_a_logit_far_above_the_others_takes_its_value(m: int, n: int, dtype: str) -> None:
    key = distinct(n, 16, dtype).expand(1, 2, n, 16)
    chosen = torch.randint(0, n, (2, m), generator=generator(6)).to(DEVICE)
    query = key[0, 0][chosen][None] * 64
    value = integers(-99, 100, 1, 2, n, 16, seed=7, dtype=dtype)
    size = integers(1, 256, 1, n, seed=8)
    got = kernels.attention(query, key, value, size, None, 1.0)
    assert same(got, torch.stack([value[0, head, chosen[head]] for head in range(2)])[None])


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_sizes_and_no_mask_count_all_alike(dtype: str) -> None:
    value = integers(-3, 4, 1, 2, 64, 24, seed=9, dtype=dtype)
    zeros = torch.zeros_like(value)
    want = value.double().mean(dim=2, keepdim=True).expand(1, 2, 64, 24)
    for size, mask in ((None, None), (torch.ones(1, 64, device=DEVICE), torch.ones(1, 64, device=DEVICE) > 0)):
        assert same(kernels.attention(zeros, zeros, value, size, mask, None), want.to(value.dtype))


def test_nothing_is_lost_in_a_long_sum() -> None:
    """Weights far below the smallest normal float16 are many, and count."""
    n = 2048
    zeros = torch.zeros(1, 1, n, 16, device=DEVICE, dtype=torch.float16)
    value, size = torch.ones_like(zeros), torch.ones(1, n, device=DEVICE)
    value[:, :, 0], size[:, 0] = 0, 2.0**17 * (n - 1)
    got = kernels.attention(zeros[:, :, :1], zeros, value, size, None, None)
    assert same(got, torch.full_like(got, 1 / (2**17 + 1)))


# Within a bound


class Budget:
    """One head of one sample in the arithmetic of the kernels: the result and the gradients, with their errors.

    The weights are rounded to the dtype of the values before they are multiplied with them (ATT-2).
    """

    def __init__(self, query: Any, key: Any, value: Any, size: Any, mask: Any, of_out: Any, dtype: str) -> None:
        q, k, v, g = (Rounded.exact(each, dtype) for each in (query, np.where(mask[:, None], key, 0), value, of_out))
        v = Rounded.exact(np.where(mask[:, None], v.value, 0), dtype)
        scale = query.shape[1] ** -0.5
        logits = (q @ k.T) * scale + Rounded.exact(np.where(mask, size, 0), dtype).log()[None]
        top = Rounded.exact(logits.value.max(axis=1, keepdims=True), dtype)
        lse = (logits - top).exp().sum(axis=1, keepdims=True).log() + top
        weights = (logits - lse).exp()
        self.out = (weights.stored(dtype) @ v).stored(dtype)
        delta = (g * self.out).sum(axis=1, keepdims=True)
        of_logits = (weights * (g @ v.T - delta)).stored(dtype)
        self.of_query = ((of_logits @ k) * scale).stored(dtype)
        self.of_key = ((of_logits.T @ q) * scale).stored(dtype)
        self.of_value = (weights.stored(dtype).T @ g).stored(dtype)


def numbers(tensor: Tensor) -> Any:
    return tensor.detach().cpu().double().numpy()


def judged(
    query: Tensor, key: Tensor, value: Tensor, size: Tensor, mask: Tensor, of_out: Tensor, got: list[Tensor]
) -> Iterator[tuple[str, float]]:
    """How much of its bound each result used."""
    dtype = str(query.dtype).removeprefix("torch.")
    for i in range(query.shape[0]):
        for head in range(query.shape[1]):
            tensors = (numbers(tensor[i, head]) for tensor in (query, key, value))
            want = Budget(*tensors, numbers(size[i]), mask[i].cpu().numpy(), numbers(of_out[i, head]), dtype)
            for name, result in zip(("out", "of_query", "of_key", "of_value"), got, strict=True):
                yield name, float(budget_used(numbers(result[i, head]), getattr(want, name)).max(initial=0))


def differentiated(query: Tensor, key: Tensor, value: Tensor, size: Any, mask: Any, of_out: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
    out = kernels.attention(*leaves, size, mask, None)
    return [out.detach(), *torch.autograd.grad(out, leaves, of_out)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "n", "d"), [(1, 1, 1), (5, 5, 16), (63, 63, 33), (64, 64, 64), (1, 65, 64), (65, 197, 48), (197, 65, 128)]
)
def test_results_and_gradients_are_within_their_bounds(m: int, n: int, d: int, dtype: str) -> None:
    query, of_out = normal(2, 1, m, d, seed=n, dtype=dtype), normal(2, 1, m, d, seed=n + 1, dtype=dtype)
    key, value = normal(2, 1, n, d, seed=n + 2, dtype=dtype), normal(2, 1, n, d, seed=n + 3, dtype=dtype)
    size = integers(0, 200, 2, n, seed=n + 4)
    size[:, n // 2] = 7  # one of them is real
    mask = torch.rand(2, n, generator=generator(n + 5)).to(DEVICE) > 0.3
    mask[:, n // 2] = True
    got = differentiated(query, key, value, size, mask, of_out)
    assert all(result.dtype == query.dtype for result in got)
    used = list(judged(query, key, value, size, mask, of_out, got))
    assert max(share for _, share in used) <= 1, used


@pytest.mark.parametrize("dtype", HALVES)
def test_a_bias_of_rounded_logarithms_would_be_out_of_bounds(dtype: str) -> None:
    """What the kernel is for, and that these bounds can fail."""
    query, key, of_out = (normal(1, 1, 9, 16, seed=seed, dtype=dtype) for seed in range(3))
    value = torch.eye(16, device=DEVICE, dtype=query.dtype)[None, None, :9]  # a channel shows the weight of a key
    size, mask = integers(100, 200, 1, 9, seed=4), torch.ones(1, 9, device=DEVICE) > 0
    rounded = size.log().to(query.dtype).float().exp()
    got = differentiated(query, key, value, rounded, mask, of_out)
    used = dict(judged(query, key, value, size, mask, of_out, got))
    assert used["out"] > 1


# Gradients where arithmetic is exact


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_those_of_the_textbook(dtype: str) -> None:
    d = 16
    query, key = integers(-1, 2, 2, 2, 3, d, seed=11), integers(-1, 2, 2, 2, 4, d, seed=12)
    query[..., d // 2 :], key[..., : d // 2] = 0, 0  # equal logits, and gradients that are not zero
    value, of_out = integers(-1, 2, 2, 2, 4, d, seed=13), integers(-1, 2, 2, 2, 3, d, seed=14)
    size = torch.tensor([[2.0, 1.0, 5.0, 1.0], [4.0, 2.0, 2.0, 0.0]], device=DEVICE)
    mask = torch.tensor([[True, True, False, True], [True] * 4], device=DEVICE)
    leaves = [tensor.double().requires_grad_() for tensor in (query, key, value)]
    want = textbook(*leaves, size, mask)
    want = [want, *torch.autograd.grad(want, leaves, of_out.double())]
    halves = [tensor.to(getattr(torch, dtype)) for tensor in (query, key, value)]
    got = differentiated(*halves, size, mask, of_out.to(halves[0].dtype))
    for result, exact in zip(got, want, strict=True):
        assert exact.any() and same(exact.float().double(), exact)
        assert same(result, exact.to(result.dtype))


def test_there_is_no_second_gradient() -> None:
    leaves = [normal(1, 1, 3, 4, seed=seed, dtype="float16").requires_grad_() for seed in range(3)]
    out = kernels.attention(*leaves, torch.ones(1, 3, device=DEVICE), None, None)
    first = torch.autograd.grad(out.sum(), leaves, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        first[0].sum().backward()


# Keys that nothing attends to


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_masked_key_may_be_no_number(dtype: str) -> None:
    query, of_out = normal(2, 2, 9, 16, seed=15, dtype=dtype), normal(2, 2, 9, 16, seed=16, dtype=dtype)
    key, value = normal(2, 2, 150, 16, seed=17, dtype=dtype), normal(2, 2, 150, 16, seed=18, dtype=dtype)
    size = integers(1, 9, 2, 150, seed=19)
    mask = torch.rand(2, 150, generator=generator(20)).to(DEVICE) > 0.5
    mask[0, :130] = False  # blocks without a key come first
    want = differentiated(query, key, value, size, mask, of_out)
    masked = ~mask[:, None, :, None]
    broken = [key.masked_fill(masked, torch.nan), value.masked_fill(masked, torch.inf)]
    got = differentiated(query, *broken, size.masked_fill(~mask, torch.nan), mask, of_out)
    assert all(same(*pair) for pair in zip(got, want, strict=True))
    for gradient in got[2:]:
        assert gradient.isfinite().all() and not gradient.masked_fill(~masked, 0).any()


def test_size_zero_is_as_masked() -> None:
    query, key, value, of_out = (normal(2, 2, 70, 16, seed=seed, dtype="bfloat16") for seed in range(21, 25))
    size = integers(0, 3, 2, 70, seed=25)
    sized = differentiated(query, key, value, size, None, of_out)
    masked = differentiated(query, key, value, size.clamp(min=1), size > 0, of_out)
    assert all(same(*pair) for pair in zip(sized, masked, strict=True))


@pytest.mark.parametrize("dtype", HALVES)
def test_a_sample_without_a_key_is_zero_and_has_no_gradient(dtype: str) -> None:
    query, key, value, of_out = (normal(3, 2, 70, 16, seed=seed, dtype=dtype) for seed in range(26, 30))
    size, mask = torch.ones(3, 70, device=DEVICE), torch.ones(3, 70, device=DEVICE) > 0
    mask[0], size[1] = False, 0
    key[0], value[0] = torch.nan, torch.nan
    for result in differentiated(query, key, value, size, mask, of_out):
        assert result.isfinite().all() and not result[:2].any() and result[2].any()


# Shapes and strides


@pytest.mark.parametrize("dtype", HALVES)
def test_tensors_are_read_where_they_lie(dtype: str) -> None:
    qkv = normal(2, 70, 3, 2, 16, seed=30, dtype=dtype).permute(2, 0, 3, 1, 4)  # the projection of a network
    size, of_out = integers(1, 9, 2, 70, seed=31), normal(2, 70, 2, 16, seed=32, dtype=dtype).transpose(1, 2)
    apart = [tensor.contiguous() for tensor in qkv]
    want = differentiated(*apart, size, None, of_out.contiguous())
    assert all(same(*pair) for pair in zip(differentiated(*qkv, size, None, of_out), want, strict=True))
    turned = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in qkv]  # channels farthest apart
    turned_size = size.t().contiguous().t()
    assert all(same(*pair) for pair in zip(differentiated(*turned, turned_size, None, of_out), want, strict=True))
    spread = torch.ones(1, 1, 1, 1, device=DEVICE, dtype=of_out.dtype).expand(of_out.shape)  # of a sum
    for pair in zip(*(differentiated(*qkv, size, None, g) for g in (spread, spread.clone())), strict=True):
        assert same(*pair)
    assert kernels.attention(*qkv, size, None, None).transpose(1, 2).flatten(2)._base is not None  # a view


@pytest.mark.parametrize(
    ("b", "h", "m", "n", "d"), [(0, 2, 3, 3, 4), (2, 0, 3, 3, 4), (2, 2, 0, 3, 4), (2, 2, 3, 0, 4)]
)
def test_attention_of_nothing(b: int, h: int, m: int, n: int, d: int) -> None:
    query, key = normal(b, h, m, d, dtype="float16"), normal(b, h, n, d, dtype="float16")
    size, of_out = torch.ones(b, n, device=DEVICE), torch.ones_like(query)
    for result, like in zip(differentiated(query, key, key, size, None, of_out), (query, query, key, key), strict=True):
        assert same(result, torch.zeros_like(like))


@pytest.mark.parametrize("size_dtype", [torch.float16, torch.float32, torch.float64])
def test_sizes_of_any_dtype(size_dtype: torch.dtype) -> None:
    query = normal(2, 2, 5, 16, dtype="bfloat16")
    size = integers(1, 9, 2, 5)
    want = kernels.attention(query, query, query, size, None, None)
    assert same(kernels.attention(query, query, query, size.to(size_dtype), None, None), want)


# As operators


def test_results_repeat_to_the_last_bit() -> None:
    query, key, value, of_out = (normal(2, 2, 70, 16, seed=seed, dtype="bfloat16") for seed in range(4))
    size = integers(1, 9, 2, 70)
    twice = (differentiated(query, key, value, size, None, of_out) for _ in range(2))
    assert all(same(*pair) for pair in zip(*twice, strict=True))


def test_the_operators_keep_the_rules_of_operators() -> None:
    query, key, value, of_out = (normal(2, 2, 7, 4, seed=seed, dtype="float16") for seed in range(4))
    size, mask = integers(1, 9, 2, 7), integers(0, 2, 2, 7, seed=1) > 0
    operators = torch.ops.tokenmerge
    for given in ((size, mask), (None, mask), (size, None)):
        torch.library.opcheck(operators.attention_tokens.default, (query, key, value, *given, 0.5))
    out, lse = attention_tokens(query, key, value, size, mask, 0.5)
    gradient = (query, key, value, size, mask, 0.5, out, lse, of_out)
    torch.library.opcheck(operators.attention_gradients.default, gradient)


def in_the_backend(query: Tensor, key: Tensor, value: Tensor, size: Tensor, mask: Tensor) -> Tensor:
    return backend.attention(query, key, value, size=size, mask=mask)


def test_they_compile_as_one_graph_forward_and_back() -> None:
    query, key, value, of_out = (normal(2, 2, 13, 16, seed=seed, dtype="float16") for seed in range(4))
    size, mask = integers(1, 9, 2, 13), integers(0, 3, 2, 13, seed=1) > 0
    results = []
    for function in (in_the_backend, torch.compile(in_the_backend, fullgraph=True, backend="aot_eager")):
        leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        out = function(*leaves, size, mask)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, of_out)])
        with torch.no_grad():
            assert same(function(query, key, value, size, mask), results[0][0])
    assert not differences(results[1], results[0])


@pytest.mark.parametrize("learns", [False, True])
def test_a_compiler_sees_them(learns: bool) -> None:
    """Without them the numbers would be almost the same."""
    query, key, value = (normal(2, 2, 13, 16, seed=seed, dtype="float16").requires_grad_(learns) for seed in range(3))
    seen: set[str] = set()

    def noted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        parts = (part for part in graph.modules() if isinstance(part, torch.fx.GraphModule))
        seen.update(str(node.target) for part in parts for node in part.graph.nodes)
        return graph

    size, mask = integers(1, 9, 2, 13), integers(0, 3, 2, 13, seed=1) > 0
    torch.compile(in_the_backend, fullgraph=True, backend=noted)(query, key, value, size, mask)
    assert any("tokenmerge.attention_tokens" in target for target in seen), seen
    assert not any("scaled_dot_product_attention" in target for target in seen), seen


def test_they_map_over_another_axis() -> None:
    query, key = normal(3, 2, 2, 5, 16, dtype="float16"), normal(2, 2, 3, 7, 16, seed=1, dtype="float16")
    value, size = normal(2, 2, 7, 3, 16, seed=2, dtype="float16"), integers(1, 9, 2, 7)
    mask = integers(0, 3, 3, 2, 7, seed=3) > 0
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    got = torch.vmap(in_the_backend, (0, 2, 3, None, 0))(query, key, value, size, mask)
    want = torch.stack([in_the_backend(query[i], key[:, :, i], value[:, :, :, i], size, mask[i]) for i in range(3)])
    assert same(got, want)
    of_out = normal(*got.shape, seed=4, dtype="float16")
    gradients = (torch.autograd.grad(out, leaves, of_out) for out in (got, want))
    assert all(same(*pair) for pair in zip(*gradients, strict=True))


# When the backend uses them


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for every call of the kernels by the backend."""
    calls: list[str] = []
    kernel = kernels.attention

    def counted(*arguments: Any) -> Tensor:
        calls.append("kernel")
        return kernel(*arguments)

    monkeypatch.setattr(kernels, "attention", counted)
    return calls


def test_the_backend_uses_them_for_halves(uses: list[str]) -> None:
    size, mask = integers(1, 9, 1, 5), integers(0, 2, 1, 5, seed=1) > 0
    for dtype in HALVES:
        x = normal(1, 1, 5, 8, dtype=dtype)
        for given in ({"size": size}, {"mask": mask}, {"size": size, "mask": mask}):
            backend.attention(x, x, x, **given)
    assert len(uses) == 6


def test_the_backend_does_not_use_them_for_what_they_do_not_have(uses: list[str]) -> None:
    x, size = normal(1, 1, 5, 8, dtype="float16"), integers(1, 9, 1, 5)
    wide = normal(1, 1, 5, 136, dtype="float16")
    narrow = normal(1, 1, 5, 4, dtype="float16")
    backend.attention(x, x, x)
    backend.attention(x, x, x.float(), size=size)
    backend.attention(x.float(), x.float(), x.float(), size=size)
    backend.attention(x, x, x, size=size, dropout=0.5)
    backend.attention(wide, wide, wide, size=size)
    backend.attention(x, x, narrow, size=size)
    assert not uses
    learned, leaf = size.clone().requires_grad_(), x.clone().requires_grad_()
    for query in (x, leaf):
        for dropout in (0.0, 0.5):
            learned.grad = None
            backend.attention(query, x, x, size=learned, dropout=dropout).float().square().sum().backward()
            assert learned.grad is not None and learned.grad.isfinite().all() and learned.grad.any()  # waits for a GPU
    assert leaf.grad is not None and not uses
    with torch.no_grad():
        backend.attention(x, x, x, size=learned)
    assert len(uses) == 1


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch's attention, mapped
def test_transforms_have_their_derivatives(uses: list[str]) -> None:
    x, size = normal(1, 1, 5, 8, dtype="float16"), integers(1, 9, 1, 5)

    def attended(x: Tensor) -> Tensor:
        return backend.attention(x, x, x, size=size)

    def of(x: Tensor) -> Tensor:
        gradient = torch.func.grad(lambda x: attended(x).float().sum())(x)
        assert isinstance(gradient, Tensor)
        return gradient

    assert of(x).any() and torch.vmap(of)(x[None]).any()
    with sdpa_kernel(SDPBackend.MATH):  # the one of PyTorch's that has all derivatives
        assert torch.func.jvp(attended, (x,), (x,))[1].any()
        assert torch.func.hessian(lambda x: attended(x).float().square().sum())(x).any()
        with torch.autograd.forward_ad.dual_level():
            attended(torch.autograd.forward_ad.make_dual(x, x))
    assert not uses
    compiled = torch.compile(of, backend="aot_eager", fullgraph=True)
    assert same(compiled(x), of(x)) and not uses
    torch.vmap(attended)(x[None])
    assert len(uses) == 1
    learned = torch.ones(2, 1, 5, device=DEVICE, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        torch.vmap(lambda size: backend.attention(x, x, x, size=size))(learned).sum().backward()
    assert learned.grad is not None and len(uses) == 1


# Where PyTorch's attention would crash


@pytest.mark.parametrize("dtype", DTYPES)
def test_written_out_it_is_the_same(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value, of_out = (normal(2, 2, 9, 16, seed=seed, dtype=dtype) for seed in range(4))
    size, mask = integers(0, 9, 2, 9, seed=4), integers(0, 3, 2, 9, seed=5) > 0
    mask[:, 3], size[:, 3] = True, 2
    key[:, :, ~mask[0]], value[:, :, ~mask[0]] = torch.nan, torch.inf
    mask[1] = mask[0]
    monkeypatch.setattr(kernels, "attends", lambda *_: False)
    monkeypatch.setattr(backend, "_only_sizes_learn", lambda *_: True)
    got = backend.attention(query, key, value, size=size, mask=mask)
    assert got.dtype == query.dtype
    for i in range(2):
        for head in range(2):
            tensors = (numbers(tensor[i, head]) for tensor in (query, key, value))
            want = Budget(*tensors, numbers(size[i]), mask[i].cpu().numpy(), numbers(of_out[i, head]), dtype)
            assert budget_used(numbers(got[i, head]), want.out).max() <= 1
    assert not backend.attention(query, key, value, size=size, mask=mask & False).any()


def test_written_out_it_drops_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal weights of 1/64, of which those that stay are doubled."""
    zeros, size = torch.zeros(1, 1, 64, 64, device=DEVICE), torch.ones(1, 64, device=DEVICE)
    monkeypatch.setattr(backend, "_only_sizes_learn", lambda *_: True)
    got = backend.attention(zeros, zeros, torch.eye(64, device=DEVICE)[None, None], size=size, dropout=0.5)
    assert set(got.flatten().tolist()) == {0.0, 1 / 32}


# On a GPU alone


@pytest.mark.gpu
def test_which_sizes_learn_alone() -> None:
    x, size = normal(1, 1, 5, 8), torch.ones(1, 5, device=DEVICE)
    leaf, learned = x.clone().requires_grad_(), size.clone().requires_grad_()
    alone = backend._only_sizes_learn
    assert alone(learned, x, x, x) and not alone(learned, x, leaf, x) and not alone(size, leaf, leaf, leaf)
    assert not alone(learned.cpu(), x, x, x)
    with torch.no_grad():
        assert not alone(learned, x, x, x)
    answers = []
    torch.func.grad(lambda size: answers.append(alone(size, x, x, x)) or size.sum())(size)
    torch.vmap(lambda size: answers.append(alone(size, x, x, x)) or size)(learned[None])
    torch.vmap(lambda size: answers.append(not alone(size, x, x, x)) or size)(size[None])
    assert answers == [True] * 3


@pytest.mark.gpu
def test_they_are_captured_in_a_cuda_graph() -> None:
    query, key, value, of_out = (normal(2, 3, 70, 64, seed=seed, dtype="bfloat16") for seed in range(4))
    size = integers(1, 9, 2, 70)
    want = differentiated(query, key, value, size, None, of_out)  # compiles, too, which no capture may
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = differentiated(query, key, value, size, None, of_out)
    graph.replay()
    assert all(same(*pair) for pair in zip(got, want, strict=True))


@pytest.mark.gpu
def test_two_programs_for_all_lengths() -> None:
    from tokenmerge.backends.torch.kernels.device import attention as device

    def programs() -> list[int]:
        made = (device.attention, device.of_queries, device.of_keys)
        return [sum(len(cache[0]) for cache in kernel.device_caches.values()) for kernel in made]

    seen = []
    for n in (197, 192, 250, 181, 165, 160, 149):  # the first two have tiles of their own
        qkv = normal(2, n, 3, 3, 64, dtype="bfloat16").permute(2, 0, 3, 1, 4)
        differentiated(*qkv, integers(1, 9, 2, n), None, torch.ones_like(qkv[0]))
        seen.append(programs())
    assert all(each == seen[1] for each in seen[2:])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_other_way_on_a_gpu_agrees(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sizes' gradient asked for, PyTorch's attention does it, with a bias in aligned rows."""
    query, key, value, of_out = (normal(2, 3, 69, 64, seed=seed).to(dtype) for seed in range(4))
    size, mask = integers(1, 9, 2, 69), integers(0, 3, 2, 69, seed=5) > 0
    dtype_name = str(dtype).removeprefix("torch.")
    for given in ({"size": size, "mask": mask}, {"mask": mask}, {"size": size}):
        with monkeypatch.context() as patched:
            patched.setattr(kernels, "attends", lambda *_: False)
            got = backend.attention(query, key, value, **given)
        for i in range(2):
            real = given.get("mask", torch.ones_like(mask))[i].cpu().numpy()
            weight = numbers(given.get("size", torch.ones_like(size))[i])
            for head in range(3):
                tensors = (numbers(tensor[i, head]) for tensor in (query, key, value))
                want = Budget(*tensors, weight, real, numbers(of_out[i, head]), dtype_name)
                assert budget_used(numbers(got[i, head]), want.out).max() <= 1, (given.keys(), i, head)
