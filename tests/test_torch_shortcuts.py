"""What PyTorch on the CPU does another way when numbers allow it: the same results, to the last bit.

The other way is the one for GPUs without Triton and for compilers; here it is taken by saying that nothing can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tokenmerge import get_merger  # noqa: E402
from tokenmerge.backends.torch import (  # noqa: E402
    attention,
    constants,
    ltm,
    matching,
    patch_merger,
    plan,
    precision,
    small,
    ties,
    tome,
    vit,
)
from tokenmerge.backends.torch import few as few_samples  # noqa: E402

MODULES = (ltm, matching, plan, small, ties, tome)


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no number may be looked at."""
    for module in MODULES:
        if hasattr(module, "reads_at_once"):
            monkeypatch.setattr(module, "reads_at_once", lambda tensor: False)


def both(monkeypatch: pytest.MonkeyPatch, function: Callable[[], Any]) -> tuple[Any, Any]:
    """The result with the short cuts, and without."""
    quick = function()
    with monkeypatch.context() as without:
        blind(without)
        return quick, function()


def random(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(a: Any, b: Any) -> bool:
    return bool(torch.equal(a.isnan(), b.isnan())) and bool(torch.equal(a.nan_to_num(nan=0), b.nan_to_num(nan=0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_neighbour_that_must_be_scaled_changes_no_bit_of_the_others(dtype: Any) -> None:
    metric = random(3, 40, 64).to(dtype)
    odd = metric.clone()
    odd[0, 3], odd[0, 5, 2], odd[1, 7], odd[1, 8] = 0, torch.nan, odd[1, 7] * 2.0**-90, odd[1, 8] * 2.0**90
    usual, unusual = tome.normalize(metric), tome.normalize(odd)
    assert same(unusual[2], usual[2]) and same(unusual[1, :7], usual[1, :7])
    assert not unusual[0, 3].any() and not unusual[0, 5].any()
    # a power of two changes the length and no direction
    assert torch.equal(unusual[1, 7:9].sign(), usual[1, 7:9].sign())
    length = torch.linalg.vector_norm(unusual[1].double(), dim=-1)
    assert torch.equal(length.to(torch.float16), torch.ones(40, dtype=torch.float16))


@pytest.mark.parametrize("scale", [0.0, 2.0**-60, 1.0, 2.0**60])
@pytest.mark.parametrize("options", [{}, {"order": "score"}, {"order": "positional"}, {"matching": "kth", "k": 3}])
def test_a_merge_is_the_same_with_and_without(
    options: dict[str, Any], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = {} if "k" in options else {"r": 60}
    merger = get_merger("tome", backend="torch", protected=1, **rate, **options)
    x, size = random(2, 301, 12, seed=1), torch.randint(0, 3, (2, 301), generator=torch.Generator().manual_seed(2))
    metric = random(2, 301, 16, seed=3) * torch.where(torch.arange(301) % 50 == 7, scale, 1.0)[:, None]
    quick, slow = both(monkeypatch, lambda: merger(x, metric=metric, size=size.float()))
    assert torch.equal(quick.plan.assignment, slow.plan.assignment)
    assert same(quick.tokens, slow.tokens) and same(quick.size, slow.size)


def test_dropped_tokens_and_weightless_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan.PartitionPlan(torch.tensor([[0, -1, 0, 2, 2, -1], [1, 1, 1, -1, 0, 0]]), 4)
    x = random(2, 6, 5, seed=4)
    x[0, 1] = torch.nan
    size = torch.tensor([[0.0, 1.0, 0.0, 1.0, 3.0, 0.0], [2.0, -2.0, 0.0, 1.0, 1.0, 2.0]])
    quick, slow = both(monkeypatch, lambda: made.merge_both(x, size))
    assert same(quick[0], slow[0]) and same(quick[1], slow[1])
    assert torch.equal(quick[0][0, 0], (x[0, 0] + x[0, 2]) / 2)


@pytest.mark.parametrize("count", [1, 7, 39, 40])
def test_the_largest_are_the_start_of_the_sort(count: int) -> None:
    """Ties at the limit and elsewhere, and signed zeros."""
    ties_everywhere = torch.randint(-3, 3, (5, 40), generator=torch.Generator().manual_seed(5)).float()
    for values in (random(5, 40, seed=6), ties_everywhere, torch.where(ties_everywhere == -1, -0.0, ties_everywhere)):
        got, want = ties.largest(values, count), ties.descending(values)[:, :count]
        assert torch.equal(got.sort(dim=1).values, want.sort(dim=1).values)


@pytest.mark.parametrize("shrunk", [1.0, 2.0**-110, 2.0**-149, 0.0])
def test_sizes_of_a_dense_plan_whose_column_is_tiny(shrunk: float) -> None:
    weights = torch.softmax(random(2, 3, 9, seed=7), dim=-1)
    weights[1, :, 4] = torch.tensor([1.0, 2.0, 1.0]) * shrunk
    size = torch.full((2, 9), 8.0)
    total = plan.DensePlan(weights).merge_size(size)
    alone = plan.DensePlan(weights[:1]).merge_size(size[:1])
    assert torch.equal(total[0], alone[0])
    rest = plan.DensePlan(weights[1:, :, [0, 1, 2, 3, 5, 6, 7, 8]].contiguous()).merge_size(size[1:, :8])[0]
    given = (total[1] - rest).round()  # of the eighth, in eighths
    assert given.tolist() == ([2.0, 4.0, 2.0] if shrunk else [0.0, 0.0, 0.0])


def test_a_plan_in_which_nothing_is_dropped_need_not_look_for_it() -> None:
    made = plan.PartitionPlan(torch.tensor([[2, 0, 0, 1, 2], [0, 1, 2, 2, 2]]), 3)
    x, size = random(2, 5, 4, seed=8), torch.tensor([[1.0, 0.0, 0.0, 3.0, 2.0], [0.1, 0.2, 0.3, 0.4, 0.5]])
    for quick, slow in zip(made.merge_checked(x, size, complete=True), made.merge_checked(x, size), strict=True):
        assert same(quick, slow)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_product_of_batches_is_that_of_the_operator(autocast: bool) -> None:
    a, b = random(3, 40, 16, seed=9), random(3, 16, 50, seed=10)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = precision.matmul(a, b), precision.matmul(a[:1], b)
    assert torch.equal(got[0], a @ b) and torch.equal(got[1], a[:1] @ b)


@pytest.mark.parametrize("wide", [1, 2, 3, 4, 5, 16])
def test_pooled_tokens_are_the_same_with_and_without(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z = random(2, 12 * wide, 20, seed=11)
    quick, slow = both(monkeypatch, lambda: ltm.pooled_tokens(z, 12, 0.1))
    assert torch.equal(quick, slow)
    assert ltm.pooled_tokens(z[:, :, :0], 12, 0.1).shape == (2, 12, 0)


@pytest.mark.parametrize("protected", [0, 1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 9, 2), (1, 50, 8), (1, 197, 16), (2, 50, 21), (1, 10, 2)])
def test_small_inputs_give_the_bits_of_the_spec_s_plan_with_ties(
    shape: tuple[int, int, int], protected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, n, r = shape
    metric, x = random(b, n, 4, seed=19).sign(), random(b, n, 6, seed=20)  # norms of two: every product is exact
    size = torch.randint(1, 4, (b, n), generator=torch.Generator().manual_seed(21)).float() / 3
    want = get_merger("tome", backend="spec", r=r, protected=protected).plan(metric.numpy()).assignment
    for merger in (get_merger("tome", backend="torch", r=r, protected=protected) for _ in range(2)):  # made, kept
        quick, slow = both(monkeypatch, lambda own=merger: own(x, metric=metric, size=size))
        assert quick.plan.assignment.tolist() == want.tolist()
        assert same(quick.tokens, slow.tokens) and same(quick.size, slow.size)


def test_constants_are_made_once_and_only_where_nothing_is_recorded() -> None:
    cpu = torch.device("cpu")
    with torch.inference_mode():
        kept = constants.count(7, cpu)
    assert constants.count(7, cpu) is kept and not kept.is_inference()
    assert constants.grouped(50, 1, 8, cpu)[1] is constants.grouped(50, 1, 8, cpu)[1]
    assert constants.count(constants.MOST + 1, cpu) is not constants.count(constants.MOST + 1, cpu)
    assert constants.count(7, torch.device("meta")).is_meta
    torch.vmap(lambda x: constants.count(9, cpu) + x)(torch.zeros(2, 9))
    assert not any(torch._C._functorch.is_functorch_wrapped_tensor(constants.count(n, cpu)) for n in (7, 9))
    with torch._subclasses.FakeTensorMode():
        assert constants.count(7, cpu) is not kept
    traced = torch.jit.trace(lambda x: x + constants.count(x.shape[1], cpu), torch.zeros(2, 7), check_trace=False)
    assert traced(torch.zeros(2, 9)).shape == (2, 9)
    seen: list[bool] = []
    torch.compile(lambda x: seen.append(constants.keeps(cpu)) or x + 1, backend="eager", fullgraph=False)(kept)
    assert not any(seen)


def test_nobody_writes_into_a_constant() -> None:
    x, size = random(3, 50, 8, seed=22), torch.ones(3, 50)
    merger = get_merger("tome", backend="torch", r=8, protected=1)
    merger(x, size=size).plan.assignment.fill_(7)
    want = merger(x, size=size).plan.assignment
    for made in (constants._count, constants._first_rows, constants._grouped):
        made.cache_clear()
    assert torch.equal(merger(x, size=size).plan.assignment, want)


def calls(function: Callable[[], Any]) -> int:
    """How many operators of PyTorch a function calls from Python."""
    from torch.profiler import ProfilerActivity, profile

    with torch.inference_mode():
        function()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            function()
    return sum(event.cpu_parent is None for event in profiler.events())


def test_small_inputs_take_few_calls() -> None:
    """Counted, because time is another one on every machine; views count, too."""
    x = random(1, 197, 768, seed=23)
    merger = get_merger("tome", backend="torch", r=16, protected=1)
    metric, size = random(1, 197, 64, seed=24), torch.ones(1, 197)
    assert calls(lambda: merger(x, metric=metric, size=size)) <= 34
    assert calls(lambda: merger(x[:, :50], metric=metric[:, :50], size=size[:, :50])) <= 36
    for merger in (
        get_merger("patch_merger", backend="torch", dim=768, num_tokens_out=8),
        get_merger("ltm", backend="torch", dim=768, compression_ratio=0.25, protected=1),
    ):
        assert calls(lambda own=merger: own(x)) <= 40, merger


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["patch_merger", "ltm", "ltm, protected", "ltm, prior"])
def test_few_samples_at_a_time_give_what_all_give(name: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of other shapes add in another order; here every order gives the same."""
    if name == "patch_merger":
        merger = get_merger(name, backend="torch", dim=24, num_tokens_out=5, normalize=False, logit_scale=0.0)
    else:  # the weight is zero at first: the weights are the prior
        protected = 4 * (name == "ltm, protected")
        merger = get_merger("ltm", backend="torch", dim=24, compression_ratio=0.25, protected=protected)
    x = random(7, 32, 24, seed=12).mul(8).round()
    mask = torch.arange(32) < torch.tensor([32, 1, 8, 16, 32, 4, 2])[:, None] if masked else None
    given = {"prior": torch.full((7, 32, 8), 1 / 32)} if name == "ltm, prior" else {}
    with torch.no_grad():
        together = merger(x, mask=mask, **given)
        monkeypatch.setattr(few_samples, "MOST", 2 * 32 * 24)
        few = merger(x, mask=mask, **given)
    assert torch.equal(together.plan.weights, few.plan.weights)
    if together.mask is not None:
        assert torch.equal(together.mask, few.mask)
    half = torch.float16  # a prior of other than powers of two is not summed exactly
    assert torch.equal(together.tokens.to(half), few.tokens.to(half))
    assert torch.equal(together.size.to(half), few.size.to(half))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("numbers", [2 * 24, 20 * 24, 33 * 24])
def test_patch_merger_of_a_sample_in_pieces(masked: bool, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    merger = get_merger("patch_merger", backend="torch", dim=24, num_tokens_out=5, normalize=False, logit_scale=0.0)
    x = random(3, 32, 24, seed=16).mul(8).round()
    x[1, 8:] = torch.nan if masked else 1
    mask = torch.arange(32) < torch.tensor([32, 8, 16])[:, None] if masked else None
    with torch.no_grad():
        whole = merger(x, mask=mask)
        for module in (few_samples, patch_merger):
            monkeypatch.setattr(module, "MOST", numbers)
        pieces = merger(x, mask=mask)
    assert torch.equal(whole.tokens, pieces.tokens) and torch.equal(whole.size, pieces.size)


@pytest.mark.parametrize("sized", [False, True])
def test_padded_slots_of_a_network_are_hidden_by_their_size_or_by_the_mask(sized: bool) -> None:
    query, key, value = (random(3, 2, 40, 8, seed=seed) for seed in (13, 14, 15))
    mask = torch.arange(40) < torch.tensor([40, 1, 23])[:, None]
    size = torch.where(mask, 3.0, 0.0) if sized else None
    counted, hidden = vit.hide(size, mask, key)
    assert hidden is None
    clear = attention.attention(query, key, value, size=size, mask=mask)
    assert torch.equal(attention.attention(query, key, value, size=counted, mask=hidden), clear)
    row = attention.attention_weights(query[:, :, :1], key, size=size, mask=mask)
    assert torch.equal(attention.attention_weights(query[:, :, :1], key, size=counted, mask=hidden), row)
    assert vit.hide(size, mask, key.bfloat16())[1] is mask


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_patch_merger_works_in_pieces_too(dynamic: bool) -> None:
    merger = patch_merger.PatchMerger(1024, 3)
    x, mask = torch.randn(3, 1500, 1024), torch.rand(3, 1500) > 0.2
    torch.compiler.reset()
    options = {"fullgraph": True, "dynamic": dynamic, "backend": "eager"}
    compiled = torch.compile(lambda x, mask: merger(x, mask=mask).tokens, **options)
    with torch.no_grad():
        assert x[0].numel() > few_samples.MOST  # in pieces of tokens, too
        for part in (slice(3), slice(2)):
            assert torch.equal(compiled(x[part], mask[part]), merger(x[part], mask=mask[part]).tokens)
        given = (x[:1, :9], merger.queries.detach(), merger.scale, merger.bias, True, 1e-5, mask[:1, :9])
        torch.library.opcheck(torch.ops.tokenmerge.patch_merger.default, given)
    compiled(x, mask).sum().backward()  # which has a gradient
    assert merger.queries.grad is not None and merger.queries.grad.any()
