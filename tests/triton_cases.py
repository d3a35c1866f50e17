"""What the Triton kernels give, case by case; `test_torch_kernels.py` runs this file where they can run.

Not collected by itself: the interpreter has to be chosen before Triton is imported. By hand:

    TRITON_INTERPRET=1 pytest tests/triton_cases.py          on the CPU
    TRITON_CASES_DEVICE=cuda pytest tests/triton_cases.py    on a GPU
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tokenmerge import ToMeMerging, ViTConfig, get_vit
from tokenmerge.backends.torch import kernels
from tokenmerge.backends.torch.kernels.placement import arrange
from tokenmerge.conformance.case import Case, run_case
from tokenmerge.conformance.judge import judge
from tokenmerge.conformance.patch_merger import layer_norm
from tokenmerge.conformance.rounding import Rounded, budget_used
from tokenmerge.spec import tome
from tokenmerge.spec.shared.schedule import tokens_removed

DEVICE = os.environ.get("TRITON_CASES_DEVICE", "cpu")
DTYPES = ("float16", "bfloat16", "float32", "float64")
ORDERS = ("grouped", "positional", "score")
Tensor = torch.Tensor


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signs(*shape: int, seed: int = 0, dtype: str = "float32") -> Tensor:
    """Entries ±1: with a width that is a power of four, norms, products and their ties are exact in every dtype."""
    return (2.0 * torch.randint(0, 2, shape, generator=generator(seed)) - 1).to(DEVICE, getattr(torch, dtype))


def integers(low: int, high: int, *shape: int, seed: int = 0, dtype: str = "float64") -> Tensor:
    return torch.randint(low, high, shape, generator=generator(seed)).to(DEVICE, getattr(torch, dtype))


def same(got: Tensor, want: Tensor) -> bool:
    """Equal to the last bit, NaN where NaN is wanted."""
    return (
        got.dtype == want.dtype
        and torch.equal(got.isnan(), want.isnan())
        and torch.equal(got.nan_to_num(nan=0), want.nan_to_num(nan=0))
    )


def matched(a: Tensor, b: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The textbook: the whole matrix of similarities in float64, exact for entries ±1; and the first maximum."""

    def unit(x: Tensor) -> Tensor:
        norm = x.double().norm(dim=-1, keepdim=True)
        return torch.where((norm > 0) & (norm < torch.inf), x.double() / norm, 0)

    similarity = unit(a) @ unit(b).transpose(1, 2)
    if allowed is not None:
        similarity = similarity.masked_fill(~allowed, -torch.inf)
    padded = torch.cat([similarity, torch.full_like(similarity[:, :, :1], -torch.inf)], dim=2)  # for no `b` at all
    best = padded.amax(dim=2) if padded.shape[2] else padded.new_full(a.shape[:2], -torch.inf)
    kept = best.to(torch.float64 if a.dtype == torch.float64 else torch.float32)
    columns = torch.arange(b.shape[1], device=a.device).expand(similarity.shape)
    first = torch.where(similarity == best[:, :, None], columns, b.shape[1])
    target = first.amin(dim=2) if b.shape[1] else torch.zeros_like(best, dtype=torch.int64)
    return kept, torch.where(best == -torch.inf, 0, target)


# Matching


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(3, 1), (16, 4), (33, 16), (70, 64), (150, 64)])
def test_match_is_exact_where_arithmetic_is(n: int, d: int, dtype: str) -> None:
    x = signs(2, n, d, seed=n, dtype=dtype)
    for got, want in zip(kernels.match(x[:, ::2], x[:, 1::2]), matched(x[:, ::2], x[:, 1::2]), strict=True):
        assert same(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_match_within_columns_and_rows(dtype: str) -> None:
    a, b = signs(4, 19, 4, seed=1, dtype=dtype), signs(4, 37, 4, seed=2, dtype=dtype)
    rows, begin, end = (torch.tensor(v, device=DEVICE) for v in ([19, 0, 7, 1], [0, 5, 36, 3], [37, 5, 40, 20]))
    row, column = torch.arange(19, device=DEVICE), torch.arange(37, device=DEVICE)
    reachable = ((column >= begin[:, None]) & (column < end[:, None]))[:, None, :]
    allowed = reachable & (row < rows[:, None])[:, :, None]
    for got, want in zip(kernels.match(a, b, rows=rows, begin=begin, end=end), matched(a, b, allowed), strict=True):
        assert same(got, want)


def test_match_takes_any_strides() -> None:
    x = signs(16, 3, 41, seed=3).permute(1, 2, 0)  # (3,41,16), channels farthest apart
    for a, b in ((x[:, 1::2], x[:, ::2]), (x[:, :, ::4], x[:, 5:9, ::4]), (x, x[:, :1].expand(3, 7, 16))):
        for got, want in zip(kernels.match(a, b), matched(a, b), strict=True):
            assert same(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_without_a_direction_are_similar_to_nothing(dtype: str) -> None:
    x = signs(1, 8, 4, seed=4, dtype=dtype)
    x[0, 0], x[0, 2, 1], x[0, 4, 3], x[0, 3] = 0, torch.nan, torch.inf, 0
    a, b = x[:, ::2], x[:, 1::2]
    best, target = kernels.match(a, b)
    assert best[0, :3].tolist() == [0, 0, 0] and target[0, :3].tolist() == [0, 0, 0]
    assert same(best, matched(a, b)[0]) and same(target, matched(a, b)[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_squares_stay_in_range(dtype: str) -> None:
    limits = torch.finfo(getattr(torch, dtype))
    x = signs(1, 32, 16, seed=5, dtype=dtype)
    sizes = torch.tensor([1.0, limits.max / 2, limits.tiny, limits.smallest_normal * 2], dtype=torch.float64)
    powers = torch.exp2(torch.floor(torch.log2(sizes))).repeat(8)[torch.randperm(32, generator=generator(6))]
    scaled = x * powers.to(x)[:, None]
    assert scaled.isfinite().all() and (scaled != 0).all()
    for got, want in zip(kernels.match(scaled[:, ::2], scaled[:, 1::2]), matched(x[:, ::2], x[:, 1::2]), strict=True):
        assert same(got, want)


@pytest.mark.parametrize(("batch", "na", "nb", "d"), [(0, 3, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 3, 0)])
def test_match_of_nothing(batch: int, na: int, nb: int, d: int) -> None:
    best, target = kernels.match(torch.ones(batch, na, d, device=DEVICE), torch.ones(batch, nb, d, device=DEVICE))
    assert best.tolist() == [[0.0 if nb else -np.inf] * na] * batch
    assert target.tolist() == [[0] * na] * batch


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_makes_no_difference_how_many_programs_share_the_partners(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if DEVICE == "cpu":  # NumPy rounds a product by where in the matrix it stands; these are exact
        x = signs(2, 700, 16, seed=26, dtype=dtype)
    else:
        x = torch.randn(2, 700, 16, generator=generator(26), dtype=torch.float64).to(DEVICE, getattr(torch, dtype))
    rows, begin, end = (torch.tensor(v, device=DEVICE) for v in ([350, 7], [3, 0], [301, 350]))
    found = []
    for programs in (1, 8, 256):
        monkeypatch.setattr("tokenmerge.backends.torch.kernels.matching.PROGRAMS", programs)
        found.append(kernels.match(x[:, ::2], x[:, 1::2], rows=rows, begin=begin, end=end))
    for other in found[1:]:
        assert all(same(*pair) for pair in zip(found[0], other, strict=True))


# Ranking


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("n", [1, 5, 64, 70, 150])
def test_place_counts_what_is_in_front(n: int, dtype: str) -> None:
    values = integers(-3, 4, 2, n, seed=n, dtype=dtype) / 2
    values[:, ::7] = -torch.inf
    values[:, 3::11] = -0.0  # equal to 0
    want = np.empty((2, n), int)
    for row, order in zip(want, np.argsort(-values.cpu().numpy(), axis=1, kind="stable"), strict=True):
        row[order] = np.arange(n)
    assert kernels.place(values).cpu().numpy().tolist() == want.tolist()


def test_places_are_a_permutation_whatever_the_values() -> None:
    values = torch.tensor([[torch.nan, 1.0, -torch.inf, torch.nan, torch.inf]], device=DEVICE)
    assert kernels.place(values).tolist() == [[2, 1, 3, 4, 0]]


# The whole matching, against the law


def assigned_by_law(metric: Tensor, r: int, protected: int, order: str) -> list[int]:
    return tome.plan(metric.double().cpu().numpy(), r=r, protected=protected, order=order).assignment.tolist()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("protected", [0, 1, 2, 5])
def test_decisions_are_those_of_the_spec_for_every_length(protected: int, order: str) -> None:
    lengths = [
        n for n in range(1, 71) if tokens_removed(n, n, protected) and (n + protected) % 4 == ORDERS.index(order)
    ]
    for n in lengths:
        r = 1 + n * 7 % tokens_removed(n, n, protected)
        metric = signs(1, n, 4, seed=n, dtype=DTYPES[n % 4])
        slots, used = kernels.bipartite(metric, None, r, protected, order)
        assert used is None
        assert slots[0].tolist() == assigned_by_law(metric[0], r, protected, order), f"{n=} {r=}"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("protected", [0, 1, 3])
def test_padded_samples_are_as_if_alone(protected: int, order: str) -> None:
    counts = [0, 1, 2, 3, 4, 5, 18, 19, 23]
    metric = signs(len(counts), 23, 4, seed=7)
    slots, used = kernels.bipartite(metric, torch.tensor(counts, device=DEVICE)[:, None], 6, protected, order)
    assert used is not None
    for sample, n in enumerate(counts):
        want = assigned_by_law(metric[sample, :n], 6, min(protected, n), order)
        assert slots[sample].tolist() == want + [-1] * (23 - n), f"{n=}"
        assert used[sample].tolist() == [len(set(want))]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_sized_call_is_certified(dtype: str) -> None:
    rng = np.random.default_rng(8)
    inputs = {"x": rng.standard_normal((1, 197, 20)), "metric": rng.standard_normal((1, 197, 70))}
    case = Case("tome", {"r": 16, "protected": 1}, inputs | {"size": rng.integers(1, 9, (1, 197)).astype(float)})
    verdict = judge(case, run_case(case, "torch", dtype, DEVICE))
    assert verdict.certified, str(verdict)


# Merging


def groups() -> tuple[Tensor, int]:
    """Slots with 0, 1, 2 and 4 members in two samples, in no order, and dropped tokens."""
    members = [[1, 2, 4, 1, 0, 4, 2, 1, 2], [4, 0, 0, 1, 2, 2, 4, 1, 1]]
    rows = [list(itertools.chain(*([slot] * count for slot, count in enumerate(row)), [-1] * 3)) for row in members]
    width = max(map(len, rows))
    rows = [row + [-1] * (width - len(row)) for row in rows]
    shuffled = [[row[i] for i in torch.randperm(width, generator=generator(s)).tolist()] for s, row in enumerate(rows)]
    return torch.tensor(shuffled, device=DEVICE), 9


def merged(x: Tensor, size: Tensor, assignment: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """The textbook: the whole matrix, in float64."""
    member = (assignment[:, None, :] == torch.arange(p, device=DEVICE)[:, None]).double()
    total = (member * size[:, None, :]).sum(dim=2)
    counted = torch.where(total[:, :, None] == 0, member, member * size[:, None, :])
    weights = counted / counted.sum(dim=2, keepdim=True).clamp(min=0.25)
    return weights @ torch.where(assignment[:, :, None] < 0, 0, x.double()), total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [1, 16, 150])
def test_merge_is_exact_where_arithmetic_is(c: int, dtype: str) -> None:
    assignment, p = groups()
    x = integers(-3, 4, *assignment.shape, c, seed=c, dtype=dtype)
    size = torch.full(assignment.shape, 2.0, device=DEVICE)
    size[0] *= assignment[0] != 2  # all four members of a slot weigh nothing
    x[assignment < 0] = torch.nan
    y, total = kernels.merge(x, size, assignment, p)
    want_y, want_total = merged(x, size, assignment, p)
    assert same(y, want_y.to(x.dtype)) and same(total, want_total.float())
    permuted = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert same(kernels.merge(permuted, size, assignment.int(), p)[0], y)


@pytest.mark.parametrize("limit", [0, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_is_merged_as_if_it_had_been_stored(dtype: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenmerge.backends.torch.kernels.merging.SHORT", limit)
    assignment, p = groups()
    x, added = (
        torch.randn(*assignment.shape, 7, generator=generator(seed), dtype=torch.float64).to(
            DEVICE, getattr(torch, dtype)
        )
        for seed in (30, 31)
    )
    size = torch.rand(assignment.shape, generator=generator(32)).to(DEVICE)
    permuted = added.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    for got, want in zip(
        kernels.merge(x, size, assignment, p, permuted), kernels.merge(x + added, size, assignment, p), strict=True
    ):
        assert same(got, want)
    for leaf in (x, added, size):
        leaf.requires_grad_()
    (kernels.merge(x, size, assignment, p, added)[0].double() ** 2).sum().backward()
    assert x.grad is not None and added.grad is not None and size.grad is not None
    assert x.grad.any() and same(x.grad, added.grad) and size.grad.any()


def normalized_within_bounds(got: Tensor, y: Tensor, norm: torch.nn.LayerNorm) -> bool:
    """Whether a LayerNorm of `y` differs by no more than its roundings."""
    dtype = str(y.dtype).removeprefix("torch.")
    tokens, weight, bias = (
        Rounded.exact(each.detach().double().cpu().numpy(), dtype) for each in (y.flatten(0, 1), norm.weight, norm.bias)
    )
    want = layer_norm(tokens, weight, bias, norm.eps).stored(dtype)
    return bool(budget_used(got.double().cpu().numpy().reshape(want.value.shape), want).max() <= 1)


@pytest.mark.parametrize("limit", [0, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_merged_tokens_are_normalized_on_the_way(dtype: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenmerge.backends.torch.kernels.merging.SHORT", limit)
    assignment, p = groups()
    x, added = (signs(*assignment.shape, 16, seed=seed, dtype=dtype) for seed in (33, 34))
    size = torch.full(assignment.shape, 2.0, device=DEVICE)
    norm = torch.nn.LayerNorm(16).to(x)
    with torch.no_grad():
        norm.weight.copy_(integers(-3, 4, 16, seed=35))
        norm.bias.copy_(integers(-3, 4, 16, seed=36))
        made = kernels.merge_normalized(x, size, assignment, p, added, norm)
        if dtype == "float64" or (DEVICE == "cpu" and dtype == "bfloat16"):
            assert made is None
            return
        assert made is not None
        y, total = kernels.merge(x, size, assignment, p, added)
        assert same(made[0], y) and same(made[1], total) and made[2].dtype == x.dtype
        assert normalized_within_bounds(made[2], y, norm)
        assert not normalized_within_bounds(made[2], y + (y > 0), norm)
    assert kernels.merge_normalized(x, size, assignment, p, added, norm) is None  # it has no gradient


def test_it_makes_no_difference_how_members_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slot by slot, by comparing every token with every other, or by a sort."""
    assignment, p = groups()
    x = torch.randn(*assignment.shape, 7, generator=generator(27)).to(DEVICE)
    size = torch.rand(assignment.shape, generator=generator(28)).to(DEVICE)
    short = kernels.merge(x, size, assignment, p)
    for limit in ("SHORT", "LONG"):
        monkeypatch.setattr(f"tokenmerge.backends.torch.kernels.merging.{limit}", 0)
        assert all(same(*pair) for pair in zip(short, kernels.merge(x, size, assignment, p), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ORDERS)
def test_a_long_sample_is_planned_as_a_short_one(order: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metric, count = signs(3, 71, 16, seed=29, dtype=dtype), torch.tensor([[71], [5], [40]], device=DEVICE)
    short = kernels.bipartite(metric, count, 20, 1, order)
    for module in ("matching", "placement"):
        monkeypatch.setattr(f"tokenmerge.backends.torch.kernels.{module}.SHORT", 0)
    assert all(same(*pair) for pair in zip(short, kernels.bipartite(metric, count, 20, 1, order), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("na", "removed"), [(8, 1), (35, 20), (98, 16), (140, 139)])
def test_a_selection_takes_what_a_ranking_has_in_front(na: int, removed: int, dtype: str) -> None:
    best = (torch.randn(4, na, generator=generator(37), dtype=torch.float64) / 4).to(DEVICE, getattr(torch, dtype))
    best[3] = best[3, :3].repeat(na)[:na]  # hardly anything but ties
    target = integers(0, na, 4, na, seed=38, dtype="int64")
    options = {"num_tokens": 2 * na + 1, "removed": removed, "protected": 1, "order": "grouped"}
    for count in (None, torch.tensor([2 * na + 1, na, 5, na + 2], device=DEVICE)):
        ranked = best.clone()
        if count is not None:  # what does not count has no similarity
            ranked[torch.arange(na, device=DEVICE) >= (count[:, None] - 1) // 2] = -torch.inf
        want = kernels.slots(kernels.place(ranked), target, count, **options)
        assert same(arrange(ranked, target, count, **options), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_alone_comes_through_unchanged(dtype: str) -> None:
    x = torch.randn(2, 70, 33, generator=generator(9), dtype=torch.float64).to(DEVICE, getattr(torch, dtype))
    size = torch.rand(2, 70, generator=generator(10)).to(DEVICE) * 1e3
    order = torch.stack([torch.randperm(70, generator=generator(s)) for s in (11, 12)]).to(DEVICE)
    y, total = kernels.merge(x, size, order, 70)
    assert same(y, torch.zeros_like(x).scatter(1, order[:, :, None].expand_as(x), x))
    assert same(total, torch.zeros_like(size).scatter(1, order, size))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size_dtype", [torch.float16, torch.float32, torch.float64])
def test_dtypes_of_the_results(size_dtype: torch.dtype, dtype: str) -> None:
    assignment, p = groups()
    x = integers(-3, 4, *assignment.shape, 5, dtype=dtype)
    size = torch.ones(assignment.shape, device=DEVICE, dtype=size_dtype)
    y, total = kernels.merge(x, size, assignment, p)
    want_y, want_total = merged(x, size, assignment, p)
    assert same(y, want_y.to(x.dtype))
    assert same(total, want_total.to(torch.promote_types(size_dtype, torch.float32)))


@pytest.mark.parametrize(("b", "n", "c", "p"), [(0, 3, 4, 2), (2, 0, 4, 3), (2, 0, 4, 0), (2, 3, 0, 2), (2, 3, 4, 0)])
def test_merge_of_nothing(b: int, n: int, c: int, p: int) -> None:
    assignment = torch.full((b, n), min(p, 1) - 1, device=DEVICE)
    x = torch.ones(b, n, c, device=DEVICE, requires_grad=True)
    size = torch.ones(b, n, device=DEVICE, requires_grad=True)
    y, total = kernels.merge(x, size, assignment, p)
    assert y.tolist() == [[[1.0 if n and slot == 0 else 0.0] * c for slot in range(p)]] * b
    assert total.tolist() == [[float(n) if slot == 0 else 0.0 for slot in range(p)]] * b
    (y.sum() + total.sum()).backward()
    assert x.grad is not None and x.grad.shape == x.shape and size.grad is not None


def derivatives(function: Callable[..., Any], x: Tensor, size: Tensor, of_y: Tensor, of_total: Tensor) -> list[Tensor]:
    """Gradients of both results with respect to tokens and sizes, and of a function of these gradients once more."""
    leaves = [x.clone().requires_grad_(), size.clone().requires_grad_()]
    y, total = function(*leaves)
    first = torch.autograd.grad((y * of_y).sum() + (total * of_total).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum((g.double() * g.double()).sum() for g in first), leaves)
    return [*first, *second]


def test_gradients_are_those_of_the_matrix() -> None:
    assignment, p = groups()
    x, size = integers(-3, 4, *assignment.shape, 5, seed=13), torch.full(assignment.shape, 2.0, device=DEVICE).double()
    size[0] *= assignment[0] != 2
    of_y, of_total = integers(-3, 4, 2, p, 5, seed=14), integers(-3, 4, 2, p, seed=15)
    got = derivatives(lambda *v: kernels.merge(*v, assignment, p), x, size, of_y, of_total)
    want = derivatives(lambda *v: merged(*v, assignment, p), x, size, of_y, of_total)
    weightless = assignment[0] == 2  # sizes of no influence on the tokens
    assert same(got[1][0, weightless], of_total[0, 2].expand(4))
    assert all(same(g, w) for g, w in zip(got, want, strict=True))


def test_derivatives_forward_are_those_of_the_matrix() -> None:
    assignment, p = groups()
    shape = tuple(assignment.shape)
    x, size = integers(-3, 4, *shape, 5, seed=23), torch.full(shape, 2.0, device=DEVICE).double()
    tangents = (integers(-3, 4, *shape, 5, seed=24), integers(-3, 4, *shape, seed=25, dtype="float64"))
    got = torch.func.jvp(lambda *v: kernels.merge(*v, assignment, p), (x, size), tangents)
    want = torch.func.jvp(lambda *v: merged(*v, assignment, p), (x, size), tangents)
    assert all(same(g, w) for pair in zip(got, want, strict=True) for g, w in zip(*pair, strict=True))


def test_sizes_that_learn_nothing_do_not_seem_to() -> None:
    """They are made in one go with tokens that do; attention of sizes that learn has no kernel."""
    x = torch.randn(1, 6, 4, device=DEVICE, requires_grad=True)
    assignment = torch.tensor([[0, 1, 1, 2, 2, 2]], device=DEVICE)
    for learns in (False, True):
        size = torch.ones(1, 6, device=DEVICE, requires_grad=learns)
        for merge in (kernels.merge, torch.compile(kernels.merge, fullgraph=True, backend="aot_eager")):
            y, total = merge(x, size, assignment, 3)
            assert y.requires_grad and total.requires_grad == learns


def test_a_dropped_token_has_no_gradient_even_where_it_is_no_number() -> None:
    assignment, p = groups()
    x = integers(-3, 4, *assignment.shape, 5, seed=16).masked_fill((assignment < 0)[:, :, None], torch.nan)
    size = torch.ones(assignment.shape, device=DEVICE, dtype=torch.float64)
    of_y, of_total = integers(1, 4, 2, p, 5, seed=17), integers(1, 4, 2, p, seed=18)
    for gradient in derivatives(lambda *v: kernels.merge(*v, assignment, p), x, size, of_y, of_total):
        assert gradient.isfinite().all() and not gradient[assignment < 0].any()


def test_gradients_keep_their_dtypes() -> None:
    assignment, p = groups()
    x = integers(-3, 4, *assignment.shape, 5, dtype="bfloat16").requires_grad_()
    size = torch.ones(assignment.shape, device=DEVICE, requires_grad=True)
    kernels.merge(x, size, assignment, p)[0].sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    assert size.grad is not None and size.grad.dtype == torch.float32


# As operators


def test_results_repeat_to_the_last_bit() -> None:
    x, assignment = torch.randn(2, 70, 8, device=DEVICE), torch.zeros(2, 70, dtype=torch.int64, device=DEVICE)
    size = torch.rand(2, 70, device=DEVICE)
    assert all(same(*pair) for pair in zip(*(kernels.merge(x, size, assignment, 1) for _ in range(2)), strict=True))


def test_the_operators_keep_the_rules_of_operators() -> None:
    x, size, assignment = signs(2, 9, 4), torch.ones(2, 9, device=DEVICE), integers(0, 3, 2, 9, dtype="int64")
    count = torch.tensor([9, 4], device=DEVICE)
    calls = {
        "match_tokens": (x[:, ::2], x[:, 1::2], count, None, count),
        "bipartite_slots": (x, count, 2, 1, 0),
        "merge_tokens": (x, size, assignment, 3, x),
    }
    for name, arguments in calls.items():
        torch.library.opcheck(getattr(torch.ops.tokenmerge, name).default, arguments)


def merging(metric: Tensor, x: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    slots = kernels.bipartite(metric, None, 3, 1, "grouped")[0]
    return kernels.merge(x, size, slots, x.shape[1] - 3)


def test_they_compile_as_one_graph_forward_and_back() -> None:
    metric, size = signs(2, 13, 4, seed=19), torch.full((2, 13), 2.0, device=DEVICE)
    gradients = []
    for function in (merging, torch.compile(merging, fullgraph=True, backend="aot_eager")):
        x = signs(2, 13, 6, seed=20).requires_grad_()
        y, total = function(metric, x, size)
        (y.sum() + total.sum()).backward()
        gradients.append((y.detach(), total, x.grad))
    assert all(same(*pair) for pair in zip(*gradients, strict=True))


def test_they_map_over_another_axis_and_so_do_their_gradients() -> None:
    metric, x, size = signs(3, 2, 13, 4, seed=21), signs(2, 13, 3, 6, seed=22), torch.ones(2, 13, device=DEVICE)
    y, total = torch.vmap(merging, (0, 2, None))(metric, x, size)
    alone = [merging(metric[i], x[:, :, i], size) for i in range(3)]
    assert same(y, torch.stack([one[0] for one in alone])) and same(total, torch.stack([one[1] for one in alone]))

    def of_x(metric: Tensor, x: Tensor) -> Tensor:
        gradient = torch.func.grad(lambda x: merging(metric, x, size)[0].sum())(x)
        assert isinstance(gradient, Tensor)
        return gradient

    mapped = torch.vmap(of_x, (0, 2))(metric, x)
    assert same(mapped, torch.stack([of_x(metric[i], x[:, :, i]) for i in range(3)]))


# On a GPU alone


@pytest.mark.gpu
def test_a_plan_and_its_merge_are_captured_in_a_cuda_graph() -> None:
    metric, x, size = signs(2, 70, 64), signs(2, 70, 32), torch.ones(2, 70, device=DEVICE)
    want = merging(metric, x, size)  # compiles, too, which no capture may
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = merging(metric, x, size)
    graph.replay()
    assert same(got[0], want[0]) and same(got[1], want[1])


@pytest.mark.gpu
def test_memory_of_a_plan_grows_with_the_tokens_and_not_with_their_square() -> None:
    def peak(n: int) -> int:
        metric = torch.randn(1, n, 64, device=DEVICE)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kernels.bipartite(metric, None, n // 4, 1, "grouped")
        return torch.cuda.max_memory_allocated() - before

    assert peak(16384) < 2 * 4 * peak(4096)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_network_merges_and_normalizes_in_one_pass(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ViTConfig(image_size=32, patch_size=4, dim=32, depth=2, heads=2, num_classes=5, merging=ToMeMerging(r=8))
    network = get_vit(config, backend="torch").to(DEVICE, getattr(torch, dtype))
    images = torch.randn(2, 3, 32, 32, generator=generator(36)).to(DEVICE, getattr(torch, dtype))
    used: list[Any] = []
    known = kernels.merge_normalized

    def noted(*given: Any) -> Any:
        used.append(known(*given))
        assert used[-1] is None or normalized_within_bounds(used[-1][2], used[-1][0], given[-1])
        return used[-1]

    monkeypatch.setattr(kernels, "merge_normalized", noted)
    with torch.no_grad():
        out = network(images)
    assert len(used) == 2 and all(made is not None for made in used)
    with_gradient = network(images)
    assert len(used) == 4 and used[2:] == [None, None]
    assert torch.equal(out.plan.assignment, with_gradient.plan.assignment)
    seen: list[Tensor] = []
    network.blocks[1].norm2.register_forward_hook(lambda module, given, result: seen.append(result))
    with torch.no_grad():
        network(images)
    assert used[4] is not None and used[5] is None and len(seen) == 1  # a hook is called


def test_a_member_of_size_zero_may_hold_anything() -> None:
    """Beside members that have a size; a group whose sizes are all zero is averaged."""
    x, size = torch.randn(1, 4, 3, device=DEVICE), torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=DEVICE)
    x[0, 1] = torch.nan
    y, total = kernels.merge(x, size, torch.tensor([[0, 0, 1, 1]], device=DEVICE), 2)
    assert (
        torch.equal(y[0, 0], x[0, 0]) and torch.equal(y[0, 1], (x[0, 2] + x[0, 3]) / 2) and total.tolist() == [[1, 0]]
    )
