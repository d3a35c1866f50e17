"""Gradients of proportional attention and of pooling, which networks train through: in every dtype, at odd sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import context, to_numpy
from tokenmerge.conformance.checks.backward import jitted
from tokenmerge.conformance.checks.check import check
from tokenmerge.conformance.draws import masks, seeds
from tokenmerge.conformance.rounding import Rounded, softmax, working
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.conformance.traced import Traced, gradients
from tokenmerge.conformance.verdict import within

Array = np.ndarray[Any, Any]
# samples, heads, queries, keys, width; pooling takes samples, keys and width
SHAPES = [(2, 2, 9, 9, 4), (5, 1, 3, 33, 17), (1, 5, 35, 5, 3), (3, 6, 7, 65, 5)]


class _Call:
    """A call of a function, its arrays as the backend has them and as it sees them, and the gradient that it gives."""

    def __init__(self, subject: Subject, arrays: dict[str, Array], shape: tuple[int, ...], rng: Any) -> None:
        self.subject, self.mask = subject, arrays.pop("mask", None)
        module, dtype = subject.module, subject.dtype
        with context(module, dtype):
            kinds = {name: working(dtype) if name == "size" else dtype for name in arrays}
            self.given = {n: module.from_numpy(a, kinds[n], subject.device) for n, a in arrays.items()}
            factor = module.from_numpy(rng.standard_normal(shape), dtype, subject.device)
            self.factor, self.seen = (
                to_numpy(module, factor),
                {name: to_numpy(module, array) for name, array in self.given.items()},
            )
        self.kinds, self._factor = kinds, factor

    def gradients(self, function: Any) -> dict[str, Array]:
        module, names = self.subject.module, list(self.given)
        with context(module, self.subject.dtype):
            real = {} if self.mask is None else {"mask": module.from_numpy(self.mask, None, self.subject.device)}

            def loss(*values: Any) -> Any:
                given = dict(zip(names, values, strict=True))
                others = {name: given.pop(name) for name in ("size",) if name in given}
                return (function(*given.values(), **others, **real) * self._factor).sum()

            got = module.gradient(jitted(self.subject, loss), *self.given.values())
            return {name: to_numpy(module, each) for name, each in zip(names, got, strict=True)}

    def demand(self, name: str, got: Array, want: Rounded) -> None:
        finding = within(f"gradient of `{name}`", got, want, "CALL-6")
        self.subject.budgets.append(finding.used)
        if not finding.ok:
            shapes = {each: array.shape for each, array in self.seen.items()}
            raise Mismatch(f"{finding.message} [{shapes}, {self.subject.dtype}]", rules=finding.rules)


def _sizes(rng: Any, shape: tuple[int, int]) -> Array:
    """Fractions and large numbers; none is zero, whose logarithm has no slope."""
    drawn: Array = rng.choice([0.375, 1.0, 3.0, 500.0], shape)
    return drawn


def _arrays(subject: Subject, data: Any) -> tuple[tuple[int, ...], Any, Array | None, bool]:
    shapes = SHAPES[:1] if subject.compiles else SHAPES
    shape = data.draw(st.sampled_from(shapes), label="B, H, M, N, d")
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    padded = not subject.compiles and data.draw(st.booleans(), label="padded")
    mask = data.draw(masks((shape[0], shape[3]), class_token=False), label="mask") if padded else None
    sized = subject.compiles or data.draw(st.booleans(), label="sizes")
    return shape, rng, mask, sized


@check(
    "attention-backward",
    3,
    "Queries, keys, values and sizes get the gradient of softmax(scale Q K^T + log size) V; padding gets none.",
    "CALL-6",
    needs="attention gradient",
    share=0.3,
    shrinks=False,
)
def attention(subject: Subject, data: Any) -> None:
    (b, h, m, n, d), rng, mask, sized = _arrays(subject, data)
    arrays = {name: rng.standard_normal((b, h, m if name == "query" else n, d)) for name in ("query", "key", "value")}
    arrays |= {"size": _sizes(rng, (b, n))} if sized else {}
    call = _Call(subject, arrays | ({} if mask is None else {"mask": mask}), (b, h, m, d), rng)
    got, dtype = call.gradients(subject.module.attention.attention), subject.dtype
    for i in range(b):
        real = np.ones(n, bool) if mask is None else mask[i]
        size = Traced.leaf(call.seen["size"][i] if sized else np.ones(n), dtype)
        leaves: dict[str, list[Traced]] = {
            name: [Traced.leaf(call.seen[name][i, head], dtype) for head in range(h)]
            for name in arrays
            if name != "size"
        }
        outputs = []
        for head in range(h):
            query, key, value = (leaves[name][head] for name in ("query", "key", "value"))
            logits = (query @ key.T) * d**-0.5 + size.log()
            weights: Any = softmax(logits.where(real, -np.inf))
            # in half precision weights may be rounded before they are multiplied, on the way back as well
            outputs.append((weights.stored(dtype) @ value, Rounded.exact(call.factor[i, head], dtype)))
        for name, own in leaves.items():
            for head, want in enumerate(gradients(outputs, own, [dtype] * h)):
                call.demand(f"{name}[{i}, {head}]", got[name][i, head], want)
        if sized:
            call.demand(f"size[{i}]", got["size"][i], gradients(outputs, [size], [call.kinds["size"]])[0])


@check(
    "attention-pooling-backward",
    3,
    "Tokens and sizes get the gradient of the mean; padding gets none.",
    "CALL-6",
    needs="pooling gradient",
    share=0.3,
    shrinks=False,
)
def pooling(subject: Subject, data: Any) -> None:
    (b, _, _, n, c), rng, mask, sized = _arrays(subject, data)
    arrays = {"x": rng.standard_normal((b, n, c))} | ({"size": _sizes(rng, (b, n))} if sized else {})
    call = _Call(subject, arrays | ({} if mask is None else {"mask": mask}), (b, c), rng)
    got, dtype = call.gradients(subject.module.pooling.mean_pool), subject.dtype
    for i in range(b):
        real = np.ones(n, bool) if mask is None else mask[i]
        x = Traced.leaf(call.seen["x"][i], dtype)
        size = Traced.leaf(call.seen["size"][i] if sized else np.ones(n), dtype)
        weight = size.where(real, 0.0)[None]
        outputs = [(((weight @ x) / weight.sum(1, keepdims=True))[0], Rounded.exact(call.factor[i], dtype))]
        call.demand(f"x[{i}]", got["x"][i], gradients(outputs, [x], [dtype])[0])
        if sized:
            call.demand(f"size[{i}]", got["size"][i], gradients(outputs, [size], [call.kinds["size"]])[0])
