"""Proportional attention and size-weighted pooling, for backends that have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import context, to_numpy
from tokenmerge.conformance.checks.check import check
from tokenmerge.conformance.draws import masks, seeds
from tokenmerge.conformance.plan import apply
from tokenmerge.conformance.rounding import Rounded, softmax, working
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.conformance.verdict import Finding, exactly, within


class _Inputs:
    """Arrays of one call, as the backend gets them and as it sees them in float64; and views of the same values."""

    def __init__(self, subject: Subject, arrays: dict[str, Any]) -> None:
        module, dtype = subject.module, subject.dtype
        self.given, self.seen, self.views = {}, {}, {}
        with context(module, dtype):
            for name, array in arrays.items():
                if array is not None:
                    kind = None if array.dtype.kind != "f" else working(dtype) if name == "size" else dtype
                    self.given[name] = module.from_numpy(array, kind, subject.device)
                    self.seen[name] = to_numpy(module, self.given[name])
                    if not subject.compiles:  # a compiler's arrays have no strides
                        turned = np.ascontiguousarray(array.swapaxes(-1, -2))
                        self.views[name] = module.from_numpy(turned, kind, subject.device).swapaxes(-1, -2)

    def calls(self) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
        """Arguments of one call after another, and what is to blame if the ones before it were right."""
        yield dict(self.given), ()
        if self.views:
            yield dict(self.views), ("CALL-9",)


def _demand(subject: Subject, finding: Finding, about: str) -> None:
    subject.budgets.append(finding.used)
    if not finding.ok:
        raise Mismatch(f"{finding.message} [{about}, {subject.dtype}]", rules=finding.rules)


# samples, heads, queries, keys, width: also more than any block, and other numbers of queries than keys
SHAPES = [
    *[(2, 2, 9, 9, 4), (1, 2, 5, 5, 4), (2, 2, 1, 1, 4), (35, 1, 3, 33, 17), (1, 19, 7, 65, 33), (1, 5, 70, 261, 131)],
    (2, 3, 35, 5, 3),
]
LARGE = 40  # queries times so much give logits whose exponentials are out of range
SIZES = {"small": 200, "huge": 10**7}


def _draw(subject: Subject, data: Any) -> tuple[_Inputs, dict[str, float]]:
    """The arrays of a call, and the scale where it is given."""
    b, h, m, n, d = data.draw(st.sampled_from(SHAPES), label="B, H, M, N, d")
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    sized = data.draw(st.sampled_from([None, *SIZES]), label="sizes")
    shown = data.draw(st.booleans(), label="values that show the weights")
    padded, large = (data.draw(st.booleans(), label=label) for label in ("padded", "large logits"))
    scale = data.draw(st.sampled_from([None, 0.0, 0.5]), label="scale")
    mask = data.draw(masks((b, n), class_token=False), label="mask") if padded else None
    arrays: dict[str, Any] = {
        "query": rng.standard_normal((b, h, m, d)) * (LARGE if large else 1),
        "key": rng.standard_normal((b, h, n, d)),
        # a channel that is zero but for one key shows every error of its weight: nothing cancels
        "value": np.eye(n, d) * np.ones((b, h, 1, 1)) if shown else rng.standard_normal((b, h, n, d)),
        "size": rng.integers(1, SIZES[sized], (b, n)) * (rng.random((b, n)) < 0.85) * 1.0 if sized else None,
        "mask": mask,
    }
    if mask is not None:  # padding may hold anything
        for name in ("key", "value"):
            arrays[name] = np.where(mask[:, None, :, None], arrays[name], np.nan)
    return _Inputs(subject, arrays), {} if scale is None else {"scale": scale}


def _seen(inputs: _Inputs, name: str, i: int, head: int) -> Any:
    """One head's array; what is padding counts for nothing."""
    array = inputs.seen[name][i, head]
    return np.where(inputs.seen["mask"][i][:, None], array, 0) if "mask" in inputs.seen and name != "query" else array


def _weights(inputs: _Inputs, i: int, head: int, dtype: str, scale: float | None = None) -> Rounded:
    query, key = (Rounded.exact(_seen(inputs, name, i, head), dtype) for name in ("query", "key"))
    seen = inputs.seen
    logits = (query @ key.T) * (query.value.shape[1] ** -0.5 if scale is None else scale)
    if "size" in seen:
        logits = logits + Rounded.exact(seen["size"][i], dtype).log()[None]
    if "mask" in seen:
        value = np.where(seen["mask"][i], logits.value, -np.inf)
        logits = Rounded(value, np.where(seen["mask"][i], logits.error, 0), logits.dtype)
    return softmax(logits)


@check(
    "attention-weights",
    3,
    "softmax(scale Q K^T + log size) over the keys; rows without a real key are zero.",
    "ATT-1",
    needs="attention",
)
def weights(subject: Subject, data: Any) -> None:
    inputs, scale = _draw(subject, data)
    want: dict[tuple[int, ...], Rounded] = {}
    for given, about in inputs.calls():
        given = {name: array for name, array in given.items() if name != "value"} | scale
        with context(subject.module, subject.dtype):
            made = subject.module.attention.attention_weights(given.pop("query"), given.pop("key"), **given)
            got = to_numpy(subject.module, made)
        for i, head in np.ndindex(got.shape[:2]):
            if (i, head) not in want:
                want[i, head] = _weights(inputs, i, head, subject.dtype, **scale)
            finding = within(f"attention_weights[{i}, {head}]", got[i, head], want[i, head], *about)
            _demand(subject, finding, "attention_weights")


@check(
    "attention-values",
    3,
    "softmax(scale Q K^T + log size) V, in the dtype of the queries.",
    "ATT-2",
    "ATT-1",
    needs="attention",
)
def values(subject: Subject, data: Any) -> None:
    inputs, scale = _draw(subject, data)
    module, dtype = subject.module, subject.dtype
    want: dict[tuple[int, ...], Rounded] = {}
    for given, about in inputs.calls():
        given = given | scale
        with context(module, dtype):
            made = module.attention.attention(given.pop("query"), given.pop("key"), given.pop("value"), **given)
            got = to_numpy(module, made)
        _demand(subject, exactly("attention.dtype", str(made.dtype).rpartition(".")[2], dtype), "attention")
        # what is not a number came out of the padding, to which no weight may go
        leaked = ("ATT-1",) if "mask" in inputs.seen and np.isnan(got).any() else ()
        for i, head in np.ndindex(got.shape[:2]):
            if (i, head) not in want:
                value = Rounded.exact(_seen(inputs, "value", i, head), dtype)
                # a fused kernel may round the weights to the dtype of the values; never the sizes or their logarithms
                weighted = _weights(inputs, i, head, dtype, **scale).stored(dtype) @ value
                want[i, head] = weighted.stored(dtype)
            _demand(
                subject, within(f"attention[{i}, {head}]", got[i, head], want[i, head], *about, *leaked), "attention"
            )


@check("attention-pooling", 3, "Mean pooling is weighted by size and leaves padding out.", "POOL-1", needs="pooling")
def pooling(subject: Subject, data: Any) -> None:
    b, n, c = data.draw(
        st.sampled_from([(2, 9, 4), (1, 5, 4), (2, 1, 4), (2, 0, 4), (35, 33, 65), (3, 261, 17)]), label="B, N, C"
    )
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    unit = data.draw(st.sampled_from([1.0, 2.0**-10]), label="unit of the sizes")
    most = data.draw(st.sampled_from([9, 10**6]), label="sizes below")  # more than half precision can count
    mask = data.draw(masks((b, n), class_token=False)) if data.draw(st.booleans(), label="padded") else None
    x = rng.standard_normal((b, n, c))
    arrays = {
        "x": x if mask is None else np.where(mask[:, :, None], x, np.nan),  # padding may hold anything
        "size": unit * rng.integers(0, most, (b, n)) if data.draw(st.booleans(), label="sizes") else None,
        "mask": mask,
    }
    inputs = _Inputs(subject, arrays)
    want = _pooled(inputs, b, n, subject.dtype)
    for given, about in inputs.calls():
        with context(subject.module, subject.dtype):
            got = to_numpy(subject.module, subject.module.pooling.mean_pool(given.pop("x"), **given))
        for i in range(b):
            _demand(subject, within(f"mean_pool[{i}]", got[i], want[i], *about), "mean_pool")


def _pooled(inputs: _Inputs, b: int, n: int, dtype: str) -> list[Rounded]:
    """What pooling must give for every sample."""
    found = []
    for i in range(b):
        size = inputs.seen.get("size", np.ones((b, n)))[i] * inputs.seen.get("mask", np.ones((b, n)))[i]
        summed = apply(Rounded.exact(size[None], dtype), Rounded.exact(_real(inputs, i), dtype))
        # a row with a single one is a copy for a plan; here it is still a product and a quotient
        total = Rounded.exact(size[None], dtype).sum(axis=1, keepdims=True)
        found.append((summed / total)[0].stored(dtype))
    return found


def _real(inputs: _Inputs, i: int) -> Any:
    """The tokens of a sample, zeros for padding."""
    x = inputs.seen["x"][i]
    return np.where(inputs.seen["mask"][i][:, None], x, 0) if "mask" in inputs.seen else x
