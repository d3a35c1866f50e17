"""The bounds hold for real float32 arithmetic, and are not absurdly wide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tokenmerge.conformance.rounding import Rounded, budget_used, concatenate, softmax
from tokenmerge.conformance.verdict import exactly, within

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (b * b + 1.0),
    "matmul": lambda a, b: a @ b.T,
    "sum": lambda a, b: (a * b).sum(axis=1),
    "cumsum": lambda a, b: (a * b).cumsum(axis=1),
    "sqrt": lambda a, b: np.sqrt(a * a + 1.0) if isinstance(a, np.ndarray) else (a * a + 1.0).sqrt(),
    "exp": lambda a, b: np.exp(a * b) if isinstance(a, np.ndarray) else (a * b).exp(),
    "log": lambda a, b: np.log(a * a + 1.0) if isinstance(a, np.ndarray) else (a * a + 1.0).log(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_float32_stays_within_the_bound(name: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((40, 60)).astype(np.float32) for _ in range(2))
    got = OPERATIONS[name](a, b)
    assert got.dtype == np.float32
    want = OPERATIONS[name](Rounded.exact(a, "float32"), Rounded.exact(b, "float32"))
    worst = budget_used(got, want).max()
    assert 0.001 < worst <= 1  # within, but not by miles: a bound that is never approached proves nothing


def test_softmax_of_nothing_real_is_exactly_zero() -> None:
    got = softmax(Rounded.exact(np.full((1, 3), -np.inf), "float32"))
    assert (got.value == 0).all()
    assert (got.error == 0).all()


def test_zeros_stay_exact() -> None:
    zero = Rounded.exact(np.zeros(3), "float32")
    for value in (zero + zero, zero * 5.0, zero / zero, zero.sqrt(), concatenate([zero, zero], 0)):
        assert (value.value == 0).all()
        assert (value.error == 0).all()


def test_a_wrong_value_is_over_budget() -> None:
    want = Rounded.exact(np.ones(3), "float32") + 1.0
    assert budget_used(np.array([2.0, 2.0, 2.001]), want)[2] > 1
    assert budget_used(np.array([np.nan]), want[:1])[0] == np.inf
    finding = within("x", np.array([2.0, 2.0, 2.001]), want)
    assert "x[2]=2.001, but should be 2 within" in finding.message


def test_a_bound_that_is_not_finite_is_refused() -> None:
    vacuous = Rounded(np.ones(1), np.array([np.inf]), "float32")
    with pytest.raises(ArithmeticError, match="no finite bound for x"):
        within("x", np.ones(1), vacuous)


def test_exactly_tells_shape_type_and_place() -> None:
    assert exactly("a", np.array([1, 2]), np.array([1, 2])).ok
    assert exactly("a", np.array([1, 2]), np.array([1, 3])).message == "a[1]=2, but should be 3"
    assert exactly("a", np.array([1]), np.array([1, 3])).message == "a.shape=(1,), but should be (2,)"
    assert not exactly("a", None, np.array([1])).ok
    assert exactly("a", np.array([np.nan]), np.array([np.nan])).ok
