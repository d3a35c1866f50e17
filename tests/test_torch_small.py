"""Small inputs in PyTorch go through NumPy's integers: the bits of the way that large ones take, or not at all."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from tokenmerge import get_merger  # noqa: E402
from tokenmerge.backends.torch import small  # noqa: E402

ODD = (0.0, -0.0, 1.0, -1.0, 3.0, 2.0**-70, 2.0**70, float("inf"), float("nan"))
SIZES = (1.0, 1.0, 0.1, 3.0, 0.0, -1.0, 2.0**-140, 2.0**127, float("inf"), float("nan"))


@st.composite
def inputs(draw: st.DrawFn) -> tuple[dict[str, Any], Any, Any, Any]:
    """A merger's options, and a metric, tokens and sizes full of ties and of numbers that are none."""
    b, n = draw(st.integers(0, 3)), draw(st.integers(0, 24))
    protected = draw(st.integers(0, min(n, 3)))
    source = np.random.default_rng(draw(st.integers(0, 99)))
    narrow = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))

    def numbers(shape: tuple[int, ...], odd: tuple[float, ...], share: float) -> Any:
        drawn = np.where(source.random(shape) < share, source.choice(odd, shape), source.standard_normal(shape))
        return torch.from_numpy(drawn)

    shares = st.sampled_from([0.0, 0.05, 1.0])
    metric = numbers((b, n, draw(st.integers(0, 4))), ODD[: draw(st.integers(5, 9))], draw(shares)).to(narrow)
    x = numbers((b, n, draw(st.integers(0, 3))), ODD, draw(shares)).to(narrow)
    fine = torch.float64 if narrow == torch.float64 else torch.float32
    size = numbers((b, n), SIZES[: draw(st.integers(4, 10))], 1.0).to(fine) if draw(st.booleans()) else None
    return {"r": draw(st.integers(0, 12)), "protected": protected}, metric, x, size


def bits(tensor: Any) -> list[Any]:
    """Every bit of a number, and that it is none."""
    wide = tensor.double()
    return [wide.nan_to_num(nan=7.0).tolist(), wide.isnan().tolist(), (wide.signbit() & ~wide.isnan()).tolist()]


@settings(max_examples=150, deadline=None)
@given(inputs())
def test_the_bits_are_those_of_large_inputs(drawn: tuple[dict[str, Any], Any, Any, Any]) -> None:
    options, metric, x, size = drawn
    merger = get_merger("tome", backend="torch", **options)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        few = merger(x, metric=metric, size=size)
        patch.setattr(small, "MOST", -1)
        many = merger(x, metric=metric, size=size)
    assert few.plan.assignment.tolist() == many.plan.assignment.tolist()
    assert bits(few.tokens) == bits(many.tokens) and few.tokens.dtype == many.tokens.dtype
    assert bits(few.size) == bits(many.size) and few.size.dtype == many.size.dtype


class Dispatched(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_numpy_is_asked_in_plain_calls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    x, size = torch.ones(1, 9, 4), torch.ones(1, 9)
    assert small.takes(x) and small.takes(x, size)
    assert not small.takes(torch.ones(1, 2000, 1)) and not small.takes(x, size.double())
    assert not small.takes(x, torch.imag(torch.complex(size, size).conj()))  # which NumPy cannot see

    class Kind(torch.Tensor):
        pass

    assert not small.takes(x.as_subclass(Kind)) and not small.takes(x, size.as_subclass(Kind))
    leaf = x.clone().requires_grad_()
    assert not small.takes(leaf) and not small.takes(x, size.clone().requires_grad_())
    with torch.no_grad():
        assert small.takes(leaf)
    seen: list[bool] = []

    def looks(x: Any) -> Any:
        seen.append(small.takes(x))
        return x + 1

    with Dispatched():
        looks(x)
    with torch.device("cpu"):  # a mode that sees every function
        looks(x)
    with torch._subclasses.FakeTensorMode() as mode:
        looks(mode.from_tensor(x))
    torch.vmap(looks)(x[None])
    torch.func.grad(lambda x: looks(x).sum())(x)
    torch.func.jvp(looks, (x,), (x,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.trace(looks, x, check_trace=False)
    assert len(seen) == 7 and not any(seen)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not small.takes(x)


def test_what_comes_back_is_nobody_else_s_memory() -> None:
    """What is kept for a shape is not given away, and NumPy's settings are not ours to follow."""
    merger = get_merger("tome", backend="torch", r=2, protected=2)
    x, size = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0)), torch.full((2, 9), 2.0**127)
    want = [merger(x, size=each) for each in (None, size)]
    for each in (None, size):
        made = merger(x, size=each)
        made.plan.assignment.fill_(7), made.size.fill_(7), made.tokens.fill_(7)
    with np.errstate(all="raise"):
        again = [merger(x, size=each) for each in (None, size)]
    for one, other in zip(want, again, strict=True):
        assert torch.equal(one.plan.assignment, other.plan.assignment)
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.size, other.size)
    assert size.eq(2.0**127).all()
