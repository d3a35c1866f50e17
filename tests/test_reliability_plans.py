"""Plans under attack: what padding holds, indices out of range, unsigned integers, batches that differ, copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from tokenmerge import get_merger
from tokenmerge.backends import get_backend
from tokenmerge.conformance.rounding import chain_budget

BACKENDS = ("numpy", "torch", "jax")
NAN, INF = np.nan, np.inf


def tokens(seed: int = 0, shape: tuple[int, ...] = (2, 5, 3)) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


@pytest.mark.parametrize("odd", [NAN, INF, -INF])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_zero_weight_keeps_everything_out(backend: str, odd: float) -> None:
    module = get_backend(backend)
    weights = np.array([[[0.5, 0.5, 0, 0, 0], [0, 0, 1, 0, 0], [0.25, 0, 0.25, 0.5, 0]]] * 2, "f4")
    x, size = tokens(), np.abs(tokens(1, (2, 5))) + 1
    clean, clean_size = x.copy(), size.copy()
    x[:, 4], size[:, 4], clean[:, 4], clean_size[:, 4] = odd, odd, 0, 1
    plan = module.DensePlan(module.from_numpy(weights))
    for got, want in (
        (plan.merge(module.from_numpy(x)), plan.merge(module.from_numpy(clean))),
        (plan.merge_size(module.from_numpy(size)), plan.merge_size(module.from_numpy(clean_size))),
    ):
        np.testing.assert_array_equal(module.to_numpy(got), module.to_numpy(want))
    y = tokens(2, (2, 3, 3))
    y[:, 1] = odd
    got = module.to_numpy(plan.unmerge(module.from_numpy(y)))
    assert np.isfinite(got[:, [0, 1, 3]]).all() and not np.isfinite(got[:, 2]).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_used_comes_through(backend: str) -> None:
    """A weight that is not zero lets NaN and infinity through, each as itself."""
    module = get_backend(backend)
    from tokenmerge.spec.plan import DensePlan

    weights = np.array([[0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]], "f4")
    x = np.array([[INF, 1], [-INF, NAN], [2, INF], [3, -INF]], "f4")
    want = DensePlan(weights).merge(x)
    got = module.to_numpy(module.DensePlan(module.from_numpy(weights[None])).merge(module.from_numpy(x[None])))[0]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_member_of_size_zero_may_hold_anything(backend: str) -> None:
    module = get_backend(backend)
    x, size = tokens(), np.ones((2, 5), "f4")
    x[0, 1], size[:, 1] = NAN, 0
    plan = module.PartitionPlan(module.from_numpy(np.array([[0, 0, 1, 1, 2]] * 2)), 3)
    got = module.to_numpy(plan.merge(module.from_numpy(x), module.from_numpy(size)))
    np.testing.assert_array_equal(got[:, 0], x[:, 0])
    assert np.isfinite(got).all()


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_no_gradient_is_poisoned(name: str) -> None:
    module = get_backend(name)
    x, size = tokens(), np.ones((2, 5), "f4")
    x[:, 4], size[:, 4] = NAN, 0
    weights = np.array([[[0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0]]] * 2, "f4")
    plan = module.PartitionPlan(module.from_numpy(np.array([[0, 0, 1, 1, 1]] * 2)), 2)
    dense = module.gradient(
        lambda w, v: module.DensePlan(w).merge(v).sum(), module.from_numpy(weights), module.from_numpy(x)
    )
    partition = module.gradient(lambda v, s: plan.merge(v, s).sum(), module.from_numpy(x), module.from_numpy(size))
    for gradient in (*dense, partition[0], partition[1][:, :4]):
        assert np.isfinite(module.to_numpy(gradient)).all()


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_size_of_zero_has_its_gradient(name: str) -> None:
    """Where nothing is infinite, a size of zero learns from its token as any other."""
    module = get_backend(name)
    x, size = tokens(3, (1, 2, 1)), np.array([[1, 0]], "f4")
    plan = module.PartitionPlan(module.from_numpy(np.array([[0, 0]])), 1)
    (got,) = module.gradient(lambda s: plan.merge(module.from_numpy(x), s).sum(), module.from_numpy(size))
    np.testing.assert_array_equal(module.to_numpy(got)[0, 1], x[0, 1, 0] - x[0, 0, 0])


@pytest.mark.parametrize("backend", (*BACKENDS, "spec"))
def test_padding_reaches_no_token_of_ltm(backend: str) -> None:
    module = get_backend(backend)
    x, mask = tokens(0, (1, 5, 2)), np.array([[1, 1, 1, 1, 0]], bool)
    x[0, 4] = NAN
    merger = get_merger("ltm", backend=backend, dim=2, compression_ratio=0.5, protected=1)
    given, real = module.from_numpy(x), module.from_numpy(mask)
    assert np.isfinite(module.to_numpy(merger.plan(given, mask=real).merge(given))).all()
    x[0, 4], x[0, 2] = 0, NAN  # a patch: the class token is copied through all the same
    np.testing.assert_array_equal(module.to_numpy(merger(module.from_numpy(x)).tokens)[0, 0], x[0, 0])


@pytest.mark.parametrize("backend", (*BACKENDS, "spec"))
def test_indices_out_of_range_are_refused(backend: str) -> None:
    module = get_backend(backend) if backend != "spec" else None
    from tokenmerge.spec import plan as spec

    def made(kind: str, values: list[int], **sizes: int) -> Any:
        if module is None:
            return getattr(spec, kind)(np.array(values), **sizes)
        return getattr(module, kind)(module.from_numpy(np.array([values])), **sizes)

    with pytest.raises(ValueError, match=r"plan: `indices` must be integers >= 0 and < N = 3, got 4"):
        made("SelectionPlan", [0, 4], num_tokens_in=3)
    with pytest.raises(ValueError, match=r"plan: `assignment` must be integers >= -1 and < P = 2, got 3"):
        made("PartitionPlan", [0, 3, 1], num_tokens_out=2)
    with pytest.raises(ValueError, match="got -2"):
        made("PartitionPlan", [0, -2, 1], num_tokens_out=2)
    for wrong in ("abc", 1.5, -1, True, 10**400):
        with pytest.raises((TypeError, ValueError), match=r"^plan: `num_tokens_out` must be an integer"):
            made("PartitionPlan", [0], num_tokens_out=wrong)
        with pytest.raises((TypeError, ValueError), match=r"^plan: `num_tokens_in` must be an integer"):
            made("SelectionPlan", [0], num_tokens_in=wrong)


def test_where_nobody_looks_an_index_stays_in_its_sample() -> None:
    """A compiled plan cannot refuse an index; the other samples are as they would be without it."""
    y = torch.arange(6.0).reshape(2, 3, 1)

    @torch.compile(backend="eager", fullgraph=True)
    def run(indices: torch.Tensor, assignment: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept, parts = get_backend("torch").SelectionPlan(indices, num_tokens_in=3), None
        parts = get_backend("torch").PartitionPlan(assignment, 2)
        return kept.merge(y), kept.unmerge(y[:, :2]), parts.merge(y), parts.merge_size(), parts.unmerge(y[:, :2])

    bad = run(torch.tensor([[0, 4], [0, 1]]), torch.tensor([[0, 3, 1], [0, 1, 1]]))
    good = run(torch.tensor([[0, 2], [0, 1]]), torch.tensor([[0, -1, 1], [0, 1, 1]]))
    for got, want in zip(bad, good, strict=True):
        assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_integer_dtype_serves(backend: str, dtype: str) -> None:
    module = get_backend(backend)
    x = module.from_numpy(tokens(0, (1, 200, 2)))
    indices = np.arange(0, 120, 2)[None]
    want = module.SelectionPlan(module.from_numpy(indices), num_tokens_in=200)
    plan = module.SelectionPlan(module.from_numpy(indices.astype(dtype)), num_tokens_in=200)
    parts = module.PartitionPlan(module.from_numpy(np.arange(200)[None] % 60))
    other = module.PartitionPlan(module.from_numpy((np.arange(200)[None] % 60).astype(dtype)))
    assert other.num_tokens_out == 60 and module.PartitionPlan(other.assignment[:, :0]).num_tokens_out == 0
    merge = module.PartitionPlan(module.from_numpy((np.arange(60)[None] % 7).astype(dtype)), 7)
    for one, two in ((want, plan), (parts, other)):
        for got, expected in (
            (two.merge(x), one.merge(x)),
            (two.unmerge(one.merge(x)), one.unmerge(one.merge(x))),
            (two.matrix(), one.matrix()),
            (two.merge_size(), one.merge_size()),
            (module.compose(two, merge).assignment, module.compose(one, merge).assignment),
        ):
            np.testing.assert_array_equal(module.to_numpy(got), module.to_numpy(expected))
    again = module.SelectionPlan(module.from_numpy(np.array([[1, 3]], dtype)), num_tokens_in=60)
    np.testing.assert_array_equal(module.to_numpy(module.compose(plan, again).indices), [[2, 6]])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("backend", (*BACKENDS, "spec"))
def test_labels_of_every_integer_dtype(backend: str, dtype: str) -> None:
    from tokenmerge.spec import information_bottleneck as spec

    module = get_backend(backend)
    functions = spec if backend == "spec" else module.information_bottleneck
    phi, labels = module.from_numpy(np.full((4, 3), 1 / 3)), module.from_numpy(np.array([0, 1, 2, 1], dtype))
    q = functions.estimate_q(phi, labels)
    assert q.shape == (3, 3)
    assert np.isfinite(module.to_numpy(functions.ib_bound(phi, phi, labels, q)))
    for wrong in ([0, 7, 0, 0], [0, -1, 0, 0]):
        bad = module.from_numpy(np.array(wrong))
        sentence = r"^information_bottleneck: `labels` must be integers >= 0 and < Y = 3, got"
        with pytest.raises(ValueError, match=sentence):
            functions.ib_bound(phi, phi, bad, q)
        with pytest.raises(ValueError, match=sentence):
            functions.estimate_q(phi, bad, 3)


@pytest.mark.parametrize("backend", (*BACKENDS, "spec"))
def test_a_permutation_is_one(backend: str) -> None:
    module = get_backend(backend)
    merger = get_merger("tome", backend=backend, r=2, matching="random")
    x = module.from_numpy(tokens(0, (1, 6, 4)))
    for wrong in ([0] * 6, [0, 1, 2, 3, 4, 6], [-1, 1, 2, 3, 4, 5]):
        with pytest.raises(ValueError, match=r"^tome: `permutation` must hold every position from 0 to N - 1 = 5 once"):
            merger(x, permutation=module.from_numpy(np.array([wrong])))
    for dtype in ("int8", "uint8", "uint16", "uint64"):
        merger(x, permutation=module.from_numpy(np.array([[5, 4, 3, 2, 1, 0]], dtype)))


@pytest.mark.parametrize("backend", (*BACKENDS, "spec"))
def test_only_plans_of_one_batch_compose(backend: str) -> None:
    module = get_backend(backend)
    merger = get_merger("tome", backend=backend, r=1)
    small, large = (merger.plan(module.from_numpy(tokens(0, (b, n, 3)))) for b, n in ((2, 5), (3, 4)))
    with pytest.raises(ValueError, match=r"^compose: `second` must have the batch size B = 2 of `first`, got 3"):
        module.compose(small, large)
    with pytest.raises(TypeError, match=r"^compose: `second` must be a plan of this backend, got list"):
        module.compose(small, [1])


@pytest.mark.parametrize("backend", (*BACKENDS, "spec"))
def test_plans_can_be_copied(backend: str) -> None:
    module = get_backend(backend)
    x = module.from_numpy(tokens())
    made = get_merger("tome", backend=backend, r=1)(x)
    for again in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        np.testing.assert_array_equal(module.to_numpy(again.plan.merge(x)), module.to_numpy(made.tokens))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_largest_numbers_have_a_direction(backend: str) -> None:
    module = get_backend(backend)
    for largest in (2.0**126, 3e38, 1e-38, 1e-45):
        metric = np.array([[[largest, 0], [largest, largest], [0.9, 0.1]]], "f4")
        got = module.to_numpy(module.tome.normalize(module.from_numpy(metric)))
        np.testing.assert_array_equal(np.round(np.linalg.norm(got[0, :2], axis=1), 3), 1)


def test_memory_of_a_dense_merge_size_is_the_same_with_a_gradient() -> None:
    weights = torch.softmax(torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(0)), dim=-1)
    weights[:, :, 3] = 2.0**-120  # a column that adds up to almost nothing
    size = torch.rand(2, 50, generator=torch.Generator().manual_seed(1)) + 1
    plan = get_backend("torch").DensePlan
    without, with_gradient = plan(weights).merge_size(size), plan(weights.clone().requires_grad_()).merge_size(size)
    assert torch.equal(without, with_gradient)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("backend", BACKENDS)
def test_layer_norm_near_the_ends_of_the_range(backend: str, eps: float) -> None:
    """Squares that leave the range make a token zero, in every backend as in the spec, and never NaN."""
    from tokenmerge.spec.patch_merger import layer_norm

    module, ones = get_backend(backend), np.ones(5, "f4")
    x = np.stack([tokens(shape=(5,)) * np.float32(2.0) ** power for power in (-40, 0, 40, 60, 70, 100, 120)])
    with np.errstate(over="ignore"):
        want = layer_norm(x, ones, eps=eps)
        got = module.to_numpy(
            module.patch_merger.layer_norm(module.from_numpy(x[None]), module.from_numpy(ones), eps=eps)
        )
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got[0, -3:], want[-3:])
    # sums for the mean, the variance and its square, and what is between them
    budget = [chain_budget(4 * x.shape[1], row.max(), "float32") for row in np.abs(want[:-3])]
    assert (np.abs(got[0, :-3] - want[:-3]).max(axis=1) <= budget).all()
