"""Proportional attention and size-weighted pooling, for backends that have them."""

from __future__ import annotations

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
    """Arrays of one call, as the backend gets them and as it sees them in float64."""

    def __init__(self, subject: Subject, arrays: dict[str, Any]) -> None:
        module, dtype = subject.module, subject.dtype
        self.given, self.seen = {}, {}
        with context(module, dtype):
            for name, array in arrays.items():
                if array is not None:
                    kind = None if array.dtype.kind != "f" else working(dtype) if name == "size" else dtype
                    self.given[name] = module.from_numpy(array, kind, subject.device)
                    self.seen[name] = to_numpy(module, self.given[name])


def _demand(subject: Subject, finding: Finding, about: str) -> None:
    subject.budgets.append(finding.used)
    if not finding.ok:
        raise Mismatch(f"{finding.message} [{about}, {subject.dtype}]")


def _draw(subject: Subject, data: Any) -> tuple[_Inputs, int]:
    b, n = data.draw(st.sampled_from([(2, 9), (1, 5), (2, 1)]), label="B, N")
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    sized, shown = (data.draw(st.booleans(), label=label) for label in ("sizes", "values that show the weights"))
    padded = data.draw(st.booleans(), label="padded")
    arrays = {
        "query": rng.standard_normal((b, 2, n, 4)),
        "key": rng.standard_normal((b, 2, n, 4)),
        # a channel that is zero but for one key shows every error of its weight: nothing cancels
        "value": np.eye(n, 4) * np.ones((b, 2, 1, 1)) if shown else rng.standard_normal((b, 2, n, 4)),
        "size": rng.integers(0, 200, (b, n)).astype(float) if sized else None,
        "mask": data.draw(masks((b, n), class_token=False), label="mask") if padded else None,
    }
    return _Inputs(subject, arrays), b


def _weights(inputs: _Inputs, i: int, head: int, dtype: str) -> Rounded:
    seen = inputs.seen
    query, key = (Rounded.exact(seen[name][i, head], dtype) for name in ("query", "key"))
    logits = (query @ key.T) * (query.value.shape[1] ** -0.5)
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
    inputs, b = _draw(subject, data)
    given = {name: array for name, array in inputs.given.items() if name != "value"}
    with context(subject.module, subject.dtype):
        got = to_numpy(
            subject.module, subject.module.attention.attention_weights(given.pop("query"), given.pop("key"), **given)
        )
    for i in range(b):
        for head in range(2):
            want = _weights(inputs, i, head, subject.dtype)
            _demand(subject, within(f"attention_weights[{i}, {head}]", got[i, head], want), "attention_weights")


@check(
    "attention-values", 3, "softmax(scale Q K^T + log size) V, in the dtype of the queries.", "ATT-2", needs="attention"
)
def values(subject: Subject, data: Any) -> None:
    inputs, b = _draw(subject, data)
    given = dict(inputs.given)
    module, dtype = subject.module, subject.dtype
    with context(module, dtype):
        made = module.attention.attention(given.pop("query"), given.pop("key"), given.pop("value"), **given)
        got = to_numpy(module, made)
    _demand(subject, exactly("attention.dtype", str(made.dtype).rpartition(".")[2], dtype), "attention")
    for i in range(b):
        for head in range(2):
            value = Rounded.exact(inputs.seen["value"][i, head], dtype)
            # a fused kernel may round the weights to the dtype of the values; never the sizes or their logarithms
            want = (_weights(inputs, i, head, dtype).stored(dtype) @ value).stored(dtype)
            _demand(subject, within(f"attention[{i}, {head}]", got[i, head], want), "attention")


@check("attention-pooling", 3, "Mean pooling is weighted by size and leaves padding out.", "POOL-1", needs="pooling")
def pooling(subject: Subject, data: Any) -> None:
    b, n = data.draw(st.sampled_from([(2, 9), (1, 5), (2, 1), (2, 0)]), label="B, N")
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    arrays = {
        "x": rng.standard_normal((b, n, 4)),
        "size": rng.integers(0, 9, (b, n)).astype(float) if data.draw(st.booleans(), label="sizes") else None,
        "mask": data.draw(masks((b, n), class_token=False)) if data.draw(st.booleans(), label="padded") else None,
    }
    inputs = _Inputs(subject, arrays)
    given = dict(inputs.given)
    with context(subject.module, subject.dtype):
        got = to_numpy(subject.module, subject.module.pooling.mean_pool(given.pop("x"), **given))
    for i in range(b):
        size = inputs.seen.get("size", np.ones((b, n)))[i] * inputs.seen.get("mask", np.ones((b, n)))[i]
        summed = apply(Rounded.exact(size[None], subject.dtype), Rounded.exact(inputs.seen["x"][i], subject.dtype))
        # a row with a single one is a copy for a plan; here it is still a product and a quotient
        total = Rounded.exact(size[None], subject.dtype).sum(axis=1, keepdims=True)
        want = (summed / total)[0].stored(subject.dtype)
        _demand(subject, within(f"mean_pool[{i}]", got[i], want), "mean_pool")
