"""How far a correct result may be from the exact one: every tolerance of the project comes from here.

`Rounded` is a float64 value together with a bound on the error that any sensible implementation can make in the working
precision. Arithmetic on it applies the standard model of rounding, `fl(a op b) = (a op b)(1 + d)`, `|d| <= u`, so the
bound of a formula is computed by writing the formula down. A sum of `n` terms in any order is within
`gamma(n-1) * sum |terms|`, with `gamma(k) = k u / (1 - k u)` (Higham, Accuracy and Stability of Numerical Algorithms,
chapters 3 and 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Unit roundoff (half the distance from 1 to the next number) and smallest normal number of every dtype.
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
SMALLEST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}

# What libraries promise: +, -, * are rounded correctly; division and square root to one unit in the last place (2 u);
# exp and log to four (8 u), which the vectorized versions in use all keep.
DIVISION, ELEMENTARY = 2.0, 8.0


def working(dtype: str) -> str:
    """The precision in which a backend works on inputs of a dtype: float32 for half precision."""
    return "float64" if dtype == "float64" else "float32"


@dataclass(frozen=True, eq=False)
class Rounded:
    """A value and a bound on its error in precision `dtype`.

    Args:
        value: float64, the exact result up to float64 rounding, which the bound includes.
        error: float64, at least 0, of the same shape or a scalar.
        dtype: "float32" or "float64", the working precision.

    >>> one = Rounded.exact(np.array([1.0, 1e-3]), "float32")
    >>> bool((one + one).error.max() <= 2 * 2.0**-24 * 1.1)
    True
    """

    value: Array
    error: Array
    dtype: str

    @staticmethod
    def exact(value: Any, dtype: str) -> Rounded:
        """A number that the implementation has exactly, such as an input."""
        value = np.asarray(value, np.float64)
        return Rounded(value, np.zeros(value.shape), working(dtype))

    @property
    def unit(self) -> float:
        """Unit roundoff of the implementation, and of this float64 computation."""
        return UNIT[self.dtype] + UNIT["float64"]

    @property
    def magnitude(self) -> Array:
        """The largest absolute value the implementation can have here."""
        return np.abs(self.value) + self.error

    @property
    def low(self) -> Array:
        return self.value - self.error

    @property
    def high(self) -> Array:
        return self.value + self.error

    def _rounded(self, value: Array, error: Array, roundings: float = 1.0) -> Rounded:
        """One more operation: what it inherits, its own rounding, and underflow (to zero, on some hardware).

        Exact zeros stay exact: nothing is rounded when zeros are added, multiplied or divided.
        """
        own = roundings * self.unit * (np.abs(value) + error) + SMALLEST[self.dtype]
        exact = np.isinf(value) | ((value == 0) & (error == 0))
        return Rounded(value, np.where(exact, 0.0, error + own), self.dtype)

    def _other(self, other: Any) -> Rounded:
        """The other operand; a plain number is rounded to the working precision first."""
        if isinstance(other, Rounded):
            return other
        value = np.asarray(other, np.float64)
        return Rounded(value, self.unit * np.abs(value), self.dtype)

    def __add__(self, other: Any) -> Rounded:
        other = self._other(other)
        return self._rounded(self.value + other.value, self.error + other.error)

    def __neg__(self) -> Rounded:
        return Rounded(-self.value, self.error, self.dtype)

    def __sub__(self, other: Any) -> Rounded:
        return self + -self._other(other)

    def __mul__(self, other: Any) -> Rounded:
        other = self._other(other)
        error = self.magnitude * other.error + self.error * np.abs(other.value)
        return self._rounded(self.value * other.value, error)

    def __truediv__(self, other: Any) -> Rounded:
        """Where the divisor may be zero the quotient is 0, as in every guarded division of the spec."""
        other = self._other(other)
        smallest = np.abs(other.value) - other.error
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.where(other.value == 0, 0.0, self.value / other.value)
            error = np.where(smallest > 0, (self.error + np.abs(value) * other.error) / smallest, np.inf)
        exact_zero = (other.value == 0) & (other.error == 0)
        return self._rounded(value, np.where(exact_zero, 0.0, error), DIVISION)

    def __getitem__(self, index: Any) -> Rounded:
        return Rounded(self.value[index], np.broadcast_to(self.error, self.value.shape)[index], self.dtype)

    def __matmul__(self, other: Rounded) -> Rounded:
        terms = self.value.shape[-1]
        error = self.magnitude @ other.error + self.error @ np.abs(other.value)
        absolute = np.abs(self.value) @ np.abs(other.value) + error
        value = self.value @ other.value
        error = error + self._gamma(terms) * absolute
        return Rounded(value, np.where(absolute == 0, 0.0, error + terms * SMALLEST[self.dtype]), self.dtype)

    @property
    def T(self) -> Rounded:
        return Rounded(np.swapaxes(self.value, -1, -2), np.swapaxes(self.error, -1, -2), self.dtype)

    def sum(self, axis: int | tuple[int, ...], keepdims: bool = False) -> Rounded:
        axes = (axis,) if isinstance(axis, int) else axis
        terms = int(np.prod([self.value.shape[a] for a in axes]))
        error = self.error.sum(axis=axis, keepdims=keepdims)
        absolute = self.magnitude.sum(axis=axis, keepdims=keepdims)
        return Rounded(self.value.sum(axis=axis, keepdims=keepdims), error + self._gamma(terms) * absolute, self.dtype)

    def cumsum(self, axis: int = -1) -> Rounded:
        error = self.error.cumsum(axis=axis) + self._gamma(self.value.shape[axis]) * self.magnitude.cumsum(axis=axis)
        return Rounded(self.value.cumsum(axis=axis), error, self.dtype)

    def mean(self, axis: int, keepdims: bool = False) -> Rounded:
        return self.sum(axis, keepdims) / Rounded.exact(max(self.value.shape[axis], 1), self.dtype)

    def sqrt(self) -> Rounded:
        """For values >= 0: `|sqrt(a) - sqrt(b)| <= |a - b| / (sqrt(a) + sqrt(b))`, and `<= sqrt(|a - b|)`."""
        root = np.sqrt(np.maximum(self.value, 0))
        below = root + np.sqrt(np.maximum(self.low, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(below > 0, self.error / below, np.sqrt(self.error))
        return self._rounded(root, np.minimum(error, np.sqrt(self.error)), DIVISION)

    def exp(self) -> Rounded:
        with np.errstate(invalid="ignore", over="ignore"):
            value = np.exp(self.value)
            error = np.where(np.isneginf(self.value), 0.0, value * np.expm1(self.error))
        return self._rounded(value, error, ELEMENTARY)

    def log(self) -> Rounded:
        """`|log(v + d) - log v| <= -log(1 - e / v)` for every `|d| <= e`; log 0 = -inf is exact."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.log(self.value)
            fraction = np.where(self.value > 0, self.error / self.value, 0.0)
            return self._rounded(value, -np.log1p(-np.minimum(fraction, 1.0)), ELEMENTARY)

    def stored(self, dtype: str) -> Rounded:
        """The value after it was rounded to a dtype for output."""
        error = self.error + UNIT[dtype] * self.magnitude + UNIT[dtype] * SMALLEST[dtype]
        return Rounded(self.value, error, self.dtype)

    def _gamma(self, terms: int) -> float:
        return terms * self.unit / (1 - terms * self.unit)


def concatenate(parts: list[Rounded], axis: int) -> Rounded:
    """Parts side by side."""
    values, errors = [p.value for p in parts], [np.broadcast_to(p.error, p.value.shape) for p in parts]
    return Rounded(np.concatenate(values, axis), np.concatenate(errors, axis), parts[0].dtype)


def softmax(logits: Rounded) -> Rounded:
    """Softmax over the last axis. The maximum that is subtracted cancels, whatever its own error."""
    largest = logits.value.max(axis=-1, keepdims=True, initial=-np.inf)
    shifted = logits - Rounded.exact(np.where(np.isneginf(largest), 0, largest), logits.dtype)
    exponential = shifted.exp()
    return exponential / exponential.sum(axis=-1, keepdims=True)


def chain_budget(terms: int, largest: float, dtype: str) -> float:
    """How far a chain of so many roundings moves values whose magnitude it keeps: `gamma(terms) * largest`.

    >>> chain_budget(1024, 2.0, "float64") == 2**-42 / (1 - 2**-43)
    True
    """
    error = terms * UNIT[dtype]
    return error / (1 - error) * largest


def budget_used(got: Array, expected: Rounded) -> Array:
    """How much of the bound a result used: 0 is exact, above 1 is wrong; NaN in a wrong place is infinite."""
    got = np.asarray(got, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        used = np.abs(got - expected.value) / expected.error
    used = np.where(np.isnan(used), np.inf, used)
    return np.where((got == expected.value) | (np.isnan(got) & np.isnan(expected.value)), 0.0, used)
