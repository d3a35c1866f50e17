"""The operators, each in one backend, next to the textbook (PyTorch) or next to our PyTorch (the others)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tokenmerge.backends import get_merger
from tokenmerge.bench import peers
from tokenmerge.bench.memory import peak
from tokenmerge.bench.row import Case, Work
from tokenmerge.bench.subject import Subject

Shape = dict[str, int]
Function = Callable[..., Any]

TOME = (
    {"B": 8, "N": 197, "D": 64, "C": 768, "r": 16},
    {"B": 8, "N": 577, "D": 64, "C": 1024, "r": 23},
    {"B": 1, "N": 4097, "D": 64, "C": 1024, "r": 1024},
    {"B": 32, "N": 197, "D": 64, "C": 384, "r": 13},
)


def cases(operation: str, subject: Subject, shape: Shape, compiled: bool = False) -> Iterator[Case]:
    """Every comparison of one operator at one shape; `compiled`: that of ours compiled with ours, too, in PyTorch.

    Raises:
        ValueError: an operator that is not in `OPERATIONS`, or a shape with other names.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"bench: operation must be one of {', '.join(OPERATIONS)}, got {operation!r}")
    needed = OPERATIONS[operation].shapes[0]
    if shape.keys() != needed.keys():
        raise ValueError(f"bench: shape of {operation} must give {', '.join(needed)}, got {', '.join(shape)}")
    ours, inputs, work = OPERATIONS[operation].build(subject, shape)
    if compiled and subject.name == "torch":
        yield compiled_case(operation, subject, shape, ours, inputs, work)
    for against, theirs, arguments in _others(operation, subject, shape):
        yield Case(
            operation,
            subject.name,
            subject.where,
            subject.dtype,
            dict(shape),
            ours=subject.call(ours, *inputs),
            other=theirs.call(arguments[0], *arguments[1]),
            against=against,
            work=work,
            our_peak=lambda: peak(subject, ours, *inputs),
            other_peak=lambda theirs=theirs, given=arguments: peak(theirs, given[0], *given[1]),  # type: ignore[misc]
        )


def compiled_case(
    operation: str, subject: Subject, shape: dict[str, Any], function: Function, inputs: tuple[Any, ...], work: Work
) -> Case:
    """Ours through `torch.compile`, as one graph, against ours as it is."""
    import torch

    return Case(
        f"{operation}, compiled",
        subject.name,
        subject.where,
        subject.dtype,
        dict(shape),
        ours=subject.call(torch.compile(function, fullgraph=True, dynamic=False), *inputs),
        other=subject.call(function, *inputs),
        against="ours, not compiled",
        work=work,
    )


def _others(
    operation: str, subject: Subject, shape: Shape
) -> Iterator[tuple[str, Subject, tuple[Function, tuple[Any, ...]]]]:
    """What an operator is compared with: its name, where it runs, the function and its arguments."""
    if subject.name != "torch":
        torch = Subject("torch", dtype=subject.dtype if subject.dtype == "float64" else "float32")
        function, inputs, _ = OPERATIONS[operation].build(torch, shape)
        yield "torch", torch, (function, inputs)
    _, inputs, _ = OPERATIONS[operation].build(subject, shape)
    if subject.name == "torch":
        yield "textbook", subject, (OPERATIONS[operation].textbook(subject, shape), inputs)
    for name, function in peers.operators(operation, subject, shape):
        yield name, subject, (function, inputs)


Built = tuple[Function, tuple[Any, ...], Work]


def _tome(subject: Subject, shape: Shape) -> Built:
    merger = get_merger("tome", backend=subject.name, r=shape["r"], protected=1)
    metric, x, size = _tome_inputs(subject, shape)
    return (
        lambda metric, x, size: merger(x, metric=metric, size=size)[:2],
        (metric, x, size),
        _sum(_plan_work(subject, shape), _merge_work(subject, shape)),
    )


def _plan(subject: Subject, shape: Shape) -> Built:
    merger = get_merger("tome", backend=subject.name, r=shape["r"], protected=1)
    metric, _, _ = _tome_inputs(subject, shape)
    return merger.plan, (metric,), _plan_work(subject, shape)


def _merge(subject: Subject, shape: Shape) -> Built:
    metric, x, size = _tome_inputs(subject, shape)
    plan = get_merger("tome", backend=subject.name, r=shape["r"], protected=1).plan(metric)
    return (
        lambda plan, x, size: (plan.merge(x, size), plan.merge_size(size)),
        (plan, x, size),
        _merge_work(subject, shape),
    )


def _unmerge(subject: Subject, shape: Shape) -> Built:
    metric, _, _ = _tome_inputs(subject, shape)
    plan = get_merger("tome", backend=subject.name, r=shape["r"], protected=1).plan(metric)
    y = subject.array((shape["B"], shape["N"] - shape["r"], shape["C"]))
    return lambda plan, y: plan.unmerge(y), (plan, y), _merge_work(subject, shape)


def _attention(subject: Subject, shape: Shape) -> Built:
    b, h, n, d = shape["B"], shape["H"], shape["N"], shape["d"]
    attention = subject.backend.attention.attention
    size = subject.given(_sizes(b, n), "float32")
    query, key, value = (subject.array((b, h, n, d), seed) for seed in range(3))
    work = Work(4 * b * h * n * d * subject.itemsize, 2 * b * h * n * n * d)
    return lambda q, k, v, size: attention(q, k, v, size=size), (query, key, value, size), work


def _ats(subject: Subject, shape: Shape) -> Built:
    """Attention and sampling in one block: scores from the class row, then only the chosen queries attend."""
    b, h, n, d = shape["B"], shape["H"], shape["N"], shape["d"]
    merger, room = get_merger("ats", backend=subject.name, max_tokens=shape["K"]), subject.backend.attention
    sample, head = (subject.given(np.arange(end, dtype=np.int32)) for end in (b, h))

    def block(query: Any, key: Any, value: Any, x: Any) -> Any:
        plan = merger.plan(room.attention_weights(query[:, :, :1], key)[:, :, 0], value)
        chosen = query[sample[:, None, None], head[None, :, None], plan.indices[:, None, :]]
        return room.attention(chosen, key, value), plan.merge(x), plan.mask

    inputs = (*(subject.array((b, h, n, d), seed) for seed in range(3)), subject.array((b, n, h * d), 3))
    kept = 1 + min(shape["K"], n - 1)
    work = Work(2 * b * h * (n + 2 * kept) * d * subject.itemsize, b * h * n * d * (1 + 2 * kept))
    return block, inputs, work


def _patch_merger(subject: Subject, shape: Shape) -> Built:
    b, n, c, m = shape["B"], shape["N"], shape["C"], shape["M"]
    merger = subject.placed(get_merger("patch_merger", backend=subject.name, dim=c, num_tokens_out=m))
    return lambda x: merger(x).tokens, (subject.array((b, n, c)),), _dense_work(subject, b, n, c, m)


def _ltm(subject: Subject, shape: Shape) -> Built:
    b, n, c, p = shape["B"], shape["N"], shape["C"], shape["P"]
    merger = subject.placed(get_merger("ltm", backend=subject.name, dim=c, compression_ratio=p / n))
    return lambda x: merger(x).tokens, (subject.array((b, n, c)),), _dense_work(subject, b, n, c, p)


# The textbook functions that take the same inputs.


def _tome_textbook(subject: Subject, shape: Shape) -> Function:
    return lambda metric, x, size: textbook().tome(metric, x, size, shape["r"])


def _plan_textbook(subject: Subject, shape: Shape) -> Function:
    return lambda metric: textbook().tome_matching(metric, shape["r"])


def _merge_textbook(subject: Subject, shape: Shape) -> Function:
    merge = textbook().tome_matching(_tome_inputs(subject, shape)[0], shape["r"])
    return lambda plan, x, size: textbook().tome_merge(merge, x, size)


def _unmerge_textbook(subject: Subject, shape: Shape) -> Function:
    return lambda plan, y: y.gather(1, plan.assignment[:, :, None].expand(-1, -1, y.shape[2]))


def _attention_textbook(subject: Subject, shape: Shape) -> Function:
    return textbook().attention


def _ats_textbook(subject: Subject, shape: Shape) -> Function:
    return lambda query, key, value, x: textbook().ats_block(query, key, value, x, shape["K"])


def _patch_merger_textbook(subject: Subject, shape: Shape) -> Function:
    queries, weight = subject.array((shape["M"], shape["C"])), subject.given(np.zeros(shape["C"]), subject.dtype)
    return lambda x: textbook().patch_merger(x, queries, weight + 1, weight)


def _ltm_textbook(subject: Subject, shape: Shape) -> Function:
    """The prior is a plan of its own: LTM of nothing that is learned, applied to the identity."""
    merger = get_merger("ltm", dim=1, compression_ratio=shape["P"] / shape["N"])
    prior = subject.given(merger.plan(np.zeros((1, shape["N"], 1), np.float32)).weights[0].T)
    weight = subject.given(np.zeros(shape["C"]), subject.dtype)
    return lambda x: textbook().ltm(x, weight, prior)


def textbook() -> Any:
    """The module, which needs PyTorch."""
    from tokenmerge.bench import textbook

    return textbook


def _tome_inputs(subject: Subject, shape: Shape) -> tuple[Any, Any, Any]:
    b, n = shape["B"], shape["N"]
    metric, x = subject.array((b, n, shape["D"])), subject.array((b, n, shape["C"]), 1)
    return metric, x, subject.given(_sizes(b, n), "float32")


def _sizes(b: int, n: int) -> Any:
    """Sizes as in the middle of a network: small integers."""
    return np.random.default_rng(2).integers(1, 5, (b, n)).astype(np.float32)


def _plan_work(subject: Subject, shape: Shape) -> Work:
    """Reads the metric, writes an integer for every token, compares every even with every odd token."""
    b, n, d = shape["B"], shape["N"], shape["D"]
    return Work(b * n * (d * subject.itemsize + 8), b * (n // 2) * (n - n // 2) * d)


def _merge_work(subject: Subject, shape: Shape) -> Work:
    """Reads one side and writes the other, tokens and sizes."""
    tokens = shape["B"] * (2 * shape["N"] - shape["r"])
    return Work(tokens * (shape["C"] * subject.itemsize + 4))


def _dense_work(subject: Subject, b: int, n: int, c: int, p: int) -> Work:
    """Reads the tokens, writes their mixtures and the plan; two products."""
    return Work(b * ((n + p) * c + p * n) * subject.itemsize, 2 * b * n * c * p)


def _sum(first: Work, second: Work) -> Work:
    return Work(first.bytes + second.bytes, first.multiply_adds + second.multiply_adds)


class Operation(NamedTuple):
    """One operator: the shapes of docs/performance.md, ours with its inputs, and the textbook's."""

    shapes: tuple[Shape, ...]
    build: Callable[[Subject, Shape], Built]
    textbook: Callable[[Subject, Shape], Function]


_HEADS = ({"B": 8, "H": 12, "N": 197, "d": 64}, {"B": 8, "H": 16, "N": 577, "d": 64})
_MERGED = tuple({"B": 16, "N": n, "C": 768, "M": m} for n, m in ((1024, 8), (1024, 512), (4096, 8)))
_MASKED = tuple({"B": 16, "N": 1024, "C": 768, "P": p} for p in (512, 8))
OPERATIONS = {
    "tome": Operation(TOME, _tome, _tome_textbook),
    "plan": Operation(TOME, _plan, _plan_textbook),
    "merge": Operation(TOME, _merge, _merge_textbook),
    "unmerge": Operation(TOME[:2], _unmerge, _unmerge_textbook),
    "attention": Operation(_HEADS, _attention, _attention_textbook),
    "ats": Operation(({"B": 8, "H": 12, "N": 577, "d": 64, "K": 64},), _ats, _ats_textbook),
    "patch_merger": Operation(_MERGED, _patch_merger, _patch_merger_textbook),
    "ltm": Operation(_MASKED, _ltm, _ltm_textbook),
}
