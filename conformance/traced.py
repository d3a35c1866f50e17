"""Reverse mode on numbers with an error: what a gradient is, and how far a correct implementation may be from it.

The formulas are those of the certificates. Their gradient is computed with `Rounded` numbers as well, so it has a bound
in every precision, at any size, where central differences would need two calls for every entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tokenmerge.conformance.rounding import Rounded

Array = np.ndarray[Any, Any]
Back = Callable[[Rounded], Rounded]
Number = TypeVar("Number", Rounded, "Traced")


class Traced:
    """A `Rounded` number that knows from what it was made.

    Args:
        number: the value and its error.
        parts: what it depends on, each with the function that takes the gradient back to it.
        leaf: whether a gradient with respect to it is asked for.

    >>> x = Traced.leaf(np.array([3.0]), "float64")
    >>> gradients([(x * x, Rounded.exact(np.ones(1), "float64"))], [x], ["float64"])[0].value
    array([6.])
    """

    def __init__(self, number: Rounded, parts: Sequence[tuple[Traced, Back]] = (), leaf: bool = False) -> None:
        self.number = number
        self.parts: list[tuple[Traced, Back]] = [(part, back) for part, back in parts if part.needed]
        self.needed: bool = leaf or bool(self.parts)

    @staticmethod
    def leaf(array: Array, dtype: str) -> Traced:
        return Traced(Rounded.exact(array, dtype), leaf=True)

    @staticmethod
    def of(number: Any) -> Traced:
        """A number as it is, or a constant."""
        return number if isinstance(number, Traced) else Traced(number)

    @property
    def value(self) -> Array:
        return self.number.value

    @property
    def error(self) -> Array:
        return self.number.error

    @property
    def dtype(self) -> str:
        return self.number.dtype

    def _other(self, other: Any) -> Traced:
        return other if isinstance(other, Traced) else Traced(self.number._other(other))

    def __add__(self, other: Any) -> Traced:
        other = self._other(other)
        return Traced(self.number + other.number, [(self, _to(self)), (other, _to(other))])

    def __neg__(self) -> Traced:
        return Traced(-self.number, [(self, lambda g: -g)])

    def __sub__(self, other: Any) -> Traced:
        return self + -self._other(other)

    def __mul__(self, other: Any) -> Traced:
        other = self._other(other)
        to_self, to_other = _to(self), _to(other)
        back = [(self, lambda g: to_self(g * other.number)), (other, lambda g: to_other(g * self.number))]
        return Traced(self.number * other.number, back)

    def __truediv__(self, other: Any) -> Traced:
        other = self._other(other)
        quotient = self.number / other.number
        to_self, to_other = _to(self), _to(other)
        back = [
            (self, lambda g: to_self(g / other.number)),
            (other, lambda g: to_other(-(g * quotient / other.number))),
        ]
        return Traced(quotient, back)

    def __matmul__(self, other: Any) -> Traced:
        other = self._other(other)
        back = [(self, lambda g: g @ other.number.T), (other, lambda g: self.number.T @ g)]
        return Traced(self.number @ other.number, back)

    def __getitem__(self, index: Any) -> Traced:
        def back(g: Rounded) -> Rounded:
            value, error = np.zeros(self.value.shape), np.zeros(self.value.shape)
            value[index], error[index] = g.value, g.error
            return Rounded(value, error, g.dtype)

        return Traced(self.number[index], [(self, back)])

    @property
    def T(self) -> Traced:
        return Traced(self.number.T, [(self, lambda g: g.T)])

    def sum(self, axis: int, keepdims: bool = False) -> Traced:
        def back(g: Rounded) -> Rounded:
            value, error = g.value, np.broadcast_to(g.error, g.value.shape)
            if not keepdims:
                value, error = np.expand_dims(value, axis), np.expand_dims(error, axis)
            shape = self.value.shape
            return Rounded(np.broadcast_to(value, shape), np.broadcast_to(error, shape), g.dtype)

        return Traced(self.number.sum(axis, keepdims), [(self, back)])

    def mean(self, axis: int, keepdims: bool = False) -> Traced:
        return self.sum(axis, keepdims) / Rounded.exact(max(self.value.shape[axis], 1), self.dtype)

    def sqrt(self) -> Traced:
        root = self.number.sqrt()
        return Traced(root, [(self, lambda g: g * 0.5 / root)])

    def exp(self) -> Traced:
        made = self.number.exp()
        return Traced(made, [(self, lambda g: g * made)])

    def log(self) -> Traced:
        return Traced(self.number.log(), [(self, lambda g: g / self.number)])

    def stored(self, dtype: str) -> Traced:
        """Rounded to a dtype on the way there and on the way back."""
        return Traced(self.number.stored(dtype), [(self, lambda g: g.stored(dtype))])

    def where(self, condition: Array, other: float) -> Traced:
        """The number where the condition holds, and a constant elsewhere."""

        def back(g: Rounded) -> Rounded:
            return Rounded(np.where(condition, g.value, 0), np.where(condition, g.error, 0), g.dtype)

        value = np.where(condition, self.value, other)
        return Traced(Rounded(value, np.where(condition, self.error, 0), self.dtype), [(self, back)])


def _to(number: Traced) -> Back:
    """The gradient of something that was broadcast: summed to the shape it had."""
    shape = number.value.shape

    def back(g: Rounded) -> Rounded:
        more = g.value.ndim - len(shape)
        g = Rounded(g.value, np.broadcast_to(g.error, g.value.shape), g.dtype)
        if more:
            g = g.sum(tuple(range(more)))
        for axis, length in enumerate(shape):
            if length == 1 and g.value.shape[axis] != 1:
                g = g.sum(axis, keepdims=True)
        return g

    return back


def gradients(
    outputs: Sequence[tuple[Traced, Rounded]], leaves: Sequence[Traced], dtypes: Sequence[str]
) -> list[Rounded]:
    """The gradient of `sum(output * factor)` over all outputs with respect to leaves.

    Args:
        outputs: each with its factor, of the same shape.
        leaves: with respect to what.
        dtypes: of the leaves as they are given; an implementation may round every part of a sum to it.
    """
    order: list[Traced] = []
    seen: set[int] = set()
    _collect([output for output, _ in outputs if output.needed], order, seen)
    parts: dict[int, list[Rounded]] = {id(node): [] for node in order}
    for output, factor in outputs:
        if output.needed:
            parts[id(output)].append(factor)
    for node in reversed(order):
        if node.parts and parts[id(node)]:
            total = _added(parts[id(node)])
            for part, back in node.parts:
                parts[id(part)].append(back(total))
    found = []
    for leaf, dtype in zip(leaves, dtypes, strict=True):
        own = [part.stored(dtype) for part in parts.get(id(leaf), [])]
        zero = Rounded.exact(np.zeros(leaf.value.shape), leaf.dtype)
        found.append(_added(own).stored(dtype) if own else zero)
    return found


def _collect(nodes: Sequence[Traced], order: list[Traced], seen: set[int]) -> None:
    """Every node that is needed, what it is made of in front of it."""
    for node in nodes:
        if id(node) not in seen:
            seen.add(id(node))
            _collect([part for part, _ in node.parts], order, seen)
            order.append(node)


def _added(parts: Sequence[Rounded]) -> Rounded:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
