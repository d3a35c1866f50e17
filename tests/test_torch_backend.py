"""What only PyTorch promises: no waiting for the device, one graph, modules, autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from tokenmerge import get_merger
from tokenmerge.backends import torch as backend
from tokenmerge.conformance.case import Case, run_case
from tokenmerge.conformance.judge import judge

OPTIONS: dict[str, dict[str, Any]] = {
    "tome": {"r": 3, "protected": 1},
    "ats": {"max_tokens": 4},
    "patch_merger": {"dim": 8, "num_tokens_out": 3},
    "ltm": {"dim": 8, "compression_ratio": 0.5, "protected": 1},
}
TOME = [
    {"r": 3, "order": "positional"},
    {"r": 3, "order": "score"},
    {"matching": "kth", "k": 3, "protected": 1},
    {"matching": "random", "r": 3},
]


def arguments(name: str, padded: bool = True, batch: int = 2, n: int = 11) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, Any] = {"x": torch.randn(batch, n, 8, generator=generator), "size": torch.ones(batch, n)}
    if padded:
        inputs["mask"] = torch.arange(n) < torch.tensor([[n - 3], [n]])[:batch]
    if name == "ats":
        inputs["attn"] = torch.rand(batch, 2, n, n, generator=generator)
        inputs["value"] = torch.randn(batch, 2, n, 4, generator=generator)
    return inputs


def whole_way(merger: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    out = merger(**inputs)
    return out.tokens, out.size, out.plan.unmerge(out.tokens), out.plan.matrix(inputs["size"]), out.plan.share()


class Whole(torch.nn.Module):
    """A merger and all that its plan can do."""

    def __init__(self, merger: torch.nn.Module) -> None:
        super().__init__()
        self.merger = merger

    def forward(self, inputs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        return whole_way(self.merger, inputs)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("name", "options"), [*OPTIONS.items(), *(("tome", options) for options in TOME)], ids=lambda value: str(value)
)
def test_nothing_is_read_from_the_device(name: str, options: dict[str, Any], padded: bool) -> None:
    """A fake tensor has no data: reading it, or a shape that depends on it, raises."""
    merger, inputs = get_merger(name, backend="torch", **options), arguments(name, padded)
    if options.get("matching") == "random":
        inputs["permutation"] = torch.arange(11).expand(2, 11)
    mode = FakeTensorMode()
    fake = {key: mode.from_tensor(value) for key, value in inputs.items()}
    parameters = {key: mode.from_tensor(value.detach()) for key, value in merger.named_parameters()}
    with mode:
        torch.func.functional_call(
            Whole(merger), {f"merger.{key}": value for key, value in parameters.items()}, (fake,)
        )


@pytest.mark.parametrize("reads", [lambda x: x.sum().item(), lambda x: x.nonzero()])
def test_the_check_above_can_fail(reads: Callable[[torch.Tensor], Any]) -> None:
    with (
        FakeTensorMode() as mode,
        pytest.raises((DataDependentOutputException, DynamicOutputShapeException), match="aten"),
    ):
        reads(mode.from_tensor(torch.ones(3)))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_one_graph(name: str, padded: bool) -> None:
    merger, inputs = get_merger(name, backend="torch", **OPTIONS[name]), arguments(name, padded)
    torch._dynamo.reset()
    compiled = torch.compile(lambda **inputs: whole_way(merger, inputs), fullgraph=True, backend="aot_eager")
    got, want = compiled(**inputs), whole_way(merger, inputs)
    assert [each.shape for each in got] == [each.shape for each in want]  # the values are the business of the suite


def test_learned_parameters_are_parameters() -> None:
    merger = get_merger("patch_merger", backend="torch", dim=8, num_tokens_out=3)
    assert isinstance(merger, torch.nn.Module)
    assert {name for name, _ in merger.named_parameters()} == {"queries", "scale", "bias"}
    optimizer = torch.optim.SGD(merger.parameters(), lr=0.1)
    before = merger.params()
    merger(arguments("patch_merger")["x"]).tokens.square().sum().backward()
    optimizer.step()
    assert all((merger.params()[name] != before[name]).any() for name in before)
    other = get_merger("patch_merger", backend="torch", dim=8, num_tokens_out=3, seed=1)
    other.load_state_dict(merger.state_dict())
    np.testing.assert_array_equal(other.params()["queries"], merger.params()["queries"])


@pytest.mark.parametrize("name", OPTIONS)
def test_autocast_does_not_lower_decisions(name: str) -> None:
    merger, inputs = get_merger(name, backend="torch", **OPTIONS[name]), arguments(name)
    plain = whole_way(merger, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = whole_way(merger, inputs)
    for got, want in zip(mixed, plain, strict=True):
        assert torch.equal(got, want)


def as_case(name: str) -> Case:
    inputs = {key: value.numpy() for key, value in arguments(name).items()}
    return Case(name, OPTIONS[name], inputs, get_merger(name, **OPTIONS[name]).params())


@pytest.mark.parametrize("name", OPTIONS)
def test_lowered_matrix_products_do_not_lower_decisions(name: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        outcome = run_case(as_case(name), "torch", "float32")
    finally:
        torch.set_float32_matmul_precision(before)
    assert judge(as_case(name), outcome).certified


def test_hard_decisions_have_no_gradient_and_tokens_do() -> None:
    merger, inputs = get_merger("tome", backend="torch", r=3), arguments("tome")
    x, metric = inputs.pop("x").requires_grad_(), torch.randn(2, 11, 4, requires_grad=True)
    merger(x, metric=metric, **inputs).tokens.sum().backward()
    assert metric.grad is None
    assert x.grad is not None and torch.isfinite(x.grad).all() and (x.grad[inputs["mask"]] != 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIONS)
def test_the_gpu_agrees_with_the_spec(name: str) -> None:
    merger = get_merger(name, backend="torch", **OPTIONS[name]).cuda()
    assert merger(**{key: value.cuda() for key, value in arguments(name).items()}).tokens.is_cuda
    assert judge(as_case(name), run_case(as_case(name), "torch", "float32", "cuda")).certified


def test_version_and_devices() -> None:
    assert backend.VERSION == torch.__version__
    assert "cpu" in backend.devices()


@pytest.mark.parametrize(
    ("column", "size"), [(2.0**-80, 1.0), (2.0**-80, 2.0**30), (2.0**-39, 2.0**60), (0.5, 2.0**90)]
)
def test_sizes_have_a_derivative_where_a_column_adds_up_to_little(column: float, size: float) -> None:
    from tokenmerge.backends.torch.sizes import dense_sizes
    from tokenmerge.conformance.rounding import chain_budget

    weights = torch.tensor([[[0.5, column], [0.5, column / 2]]], requires_grad=True)
    sizes = torch.tensor([[1.0, size]])
    (got,) = torch.autograd.grad(dense_sizes(weights, sizes)[0, 0], weights)
    share = 2 / 3  # of the second token in the first slot; d share = (1 - share, -share) / sum
    want = torch.tensor([(1 - share) * size / (1.5 * column), -share * size / (1.5 * column)])
    budget = chain_budget(8, float(want.abs().max()), "float32")  # two sums of two, divisions and products
    assert torch.isfinite(got).all() and (got[0, :, 1] - want).abs().max() <= budget
