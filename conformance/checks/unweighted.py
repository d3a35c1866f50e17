"""What has no weight may hold anything: NaN and infinity beside a weight of zero, in plans that are given."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import context, to_numpy
from tokenmerge.conformance.checks.check import check
from tokenmerge.conformance.draws import seeds
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.conformance.verdict import exactly
from tokenmerge.spec import plan as spec

Array = np.ndarray[Any, Any]
ODD = np.array([np.nan, np.inf, -np.inf])
SHAPES = ((2, 3, 7, 5), (1, 2, 5, 1), (3, 4, 6, 3))  # samples, slots, tokens, channels


def _dense(rng: np.random.Generator, p: int, n: int) -> Array:
    """Weights `(P,N)` with shares of 0, 1/2 or 1: a token is in no slot, in one, or in two with equal weight."""
    weights = np.zeros((p, n))
    for token in range(n):
        slots = rng.choice(p, rng.choice([0, 1, 2], p=[0.3, 0.4, 0.3]), replace=False)
        weights[slots, token] = rng.choice([0.25, 0.5, 1.0])
    return weights


def _poisoned(rng: np.random.Generator, rows: Array, unused: Array) -> Array:
    """Rows with NaN or infinity in entries of the unused ones, and in a few others."""
    share = np.where(unused, 0.5, 0.1)[:, None]
    return np.where(rng.random(rows.shape) < share, rng.choice(ODD, rows.shape), rows)


def _numbers(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(-4, 5, shape) * 1.0


def _program(subject: Subject, kind: str, arrays: dict[str, Array], numbers: dict[str, int]) -> str:
    """What shows a difference when it is pasted."""
    given = [f"{name} = module.from_numpy(np.array({array.tolist()}))" for name, array in arrays.items()]
    fields = ", ".join([next(iter(arrays)), *(str(number) for number in numbers.values())])
    return "\n".join(
        [
            "import numpy as np",
            "from numpy import inf, nan",
            "",
            "from tokenmerge.backends import get_backend",
            "",
            f"module = get_backend({subject.name!r})",
            *given,
            f"plan = module.{kind}({fields})",
            "print(plan.merge(x, size), plan.merge_size(size), plan.unmerge(y), sep='\\n')",
        ]
    )


def _hold(
    subject: Subject, plans: list[spec.Plan], arrays: dict[str, Array], numbers: dict[str, int] | None = None
) -> None:
    """Merge, count and unmerge with a batch of plans, whose arithmetic is exact, and compare with the spec."""
    module, kind, numbers = subject.module, type(plans[0]).__name__, numbers or {}
    with context(module, subject.dtype), np.errstate(all="ignore"):
        given = {
            name: module.from_numpy(array, subject.dtype if name in "xy" else None, subject.device)
            for name, array in arrays.items()
        }
        made = getattr(module, kind)(next(iter(given.values())), *numbers.values())
        got = {
            "merge(x, size)": made.merge(given["x"], given["size"]),
            "merge_size(size)": made.merge_size(given["size"]),
            "unmerge(y)": made.unmerge(given["y"]),
        }
        want = {
            "merge(x, size)": [plan.merge(x, s) for plan, x, s in zip(plans, arrays["x"], arrays["size"], strict=True)],
            "merge_size(size)": [plan.merge_size(size) for plan, size in zip(plans, arrays["size"], strict=True)],
            "unmerge(y)": [plan.unmerge(y) for plan, y in zip(plans, arrays["y"], strict=True)],
        }
        for name, value in got.items():
            found = exactly(f"{kind}.{name}", to_numpy(module, value).astype(np.float64), np.stack(want[name]) * 1.0)
            if not found.ok:
                message = f"{found.message} [a weight of zero keeps NaN and infinity out, {subject.dtype}]"
                raise Mismatch(message, _program(subject, kind, arrays, numbers), ("PLAN-11",))


@check(
    "plan-unweighted-dense",
    1,
    "In a dense plan, NaN and infinity stay out of every slot, size and token that has no weight for them.",
    "PLAN-11",
    needs="DensePlan",
    share=0.2,
)
def dense(subject: Subject, data: Any) -> None:
    b, p, n, c = data.draw(st.sampled_from(SHAPES[: 1 if subject.compiles else None]), label="B, P, N, C")
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    weights = np.stack([_dense(rng, p, n) for _ in range(b)]).astype(np.float32)
    arrays = {"weights": weights}
    arrays["x"] = np.stack([_poisoned(rng, _numbers(rng, n, c), ~each.any(axis=0)) for each in weights])
    sizes = rng.choice([0.0, 1.0, 2.0], (b, n, 1))
    arrays["size"] = np.stack(
        [_poisoned(rng, size, ~each.any(axis=0))[:, 0] for size, each in zip(sizes, weights, strict=True)]
    ).astype(np.float32)
    arrays["y"] = np.stack([_poisoned(rng, _numbers(rng, p, c), ~each.any(axis=1)) for each in weights])
    _hold(subject, [spec.DensePlan(each) for each in weights], arrays)


@check(
    "plan-unweighted-partition",
    1,
    "In a partition, NaN and infinity in a dropped token, or in one of size 0 beside others, reach no slot.",
    "PLAN-11",
    needs="PartitionPlan",
    share=0.2,
)
def partition(subject: Subject, data: Any) -> None:
    b, p, _, c = data.draw(st.sampled_from(SHAPES[: 1 if subject.compiles else None]), label="B, P, N, C")
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    # in a slot one or two members of equal size, whose mean is exact, and some of size 0; then two that are dropped
    slots = np.concatenate([np.arange(p), rng.integers(p, size=3), [-1, -1]])
    counts = np.concatenate([np.ones(p), np.zeros(3), [1, 1]])
    twice = rng.permutation(p)[: p // 2]
    slots, counts = np.concatenate([slots, twice]), np.concatenate([counts, np.ones(len(twice))])
    order = np.stack([rng.permutation(len(slots)) for _ in range(b)])
    arrays = {"assignment": slots[order], "size": (counts[order] * 2).astype(np.float32)}
    unused = (arrays["size"] == 0) | (arrays["assignment"] < 0)
    arrays["x"] = np.stack([_poisoned(rng, _numbers(rng, len(slots), c), each) for each in unused])
    arrays["y"] = _numbers(rng, b, p, c)
    _hold(subject, [spec.PartitionPlan(each, p) for each in arrays["assignment"]], arrays, {"num_tokens_out": p})
    # without a number it is the largest slot of all samples, and one
    lacking = arrays["assignment"].copy()
    lacking[0][lacking[0] == p - 1] = 0
    with context(subject.module, subject.dtype):
        made = subject.module.PartitionPlan(subject.module.from_numpy(lacking, None, subject.device))
    want = int(lacking.max()) + 1
    found = exactly("PartitionPlan(assignment).num_tokens_out", made.num_tokens_out, want)
    if not found.ok:
        raise Mismatch(found.message, rules=("PLAN-1",))
