"""Small inputs on a CPU by NumPy's integers: its calls take a third of the time of PyTorch's, and here calls are all.

The same results as by PyTorch, to the last bit: products and sums of tokens stay where they are, and what is done here
compares numbers, moves integers, or adds sizes in the order of the tokens. The arrays are views of the tensors' own
memory. Nobody who records, compiles, exports or maps comes here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from tokenmerge.backends.torch.constants import sides
from tokenmerge.backends.torch.precision import matmul, reads_at_once, working_dtype

Tensor = torch.Tensor
Array = np.ndarray[Any, Any]

MOST = 2**20  # pairs of tokens; with one thread at four times as many too, but of two NumPy takes one
KEPT = 256  # shapes


def takes(x: Tensor, size: Tensor | None = None) -> bool:
    """Whether `x (B,N,C)` is few tokens, and nobody would miss the operators of PyTorch that are left out.

    Args:
        size: `(B,N)`, or None.

    >>> takes(torch.ones(1, 50, 8)), takes(torch.ones(1, 5000, 8)), takes(torch.ones(1, 50, 8, device="meta"))
    (True, False, False)
    """
    return (
        reads_at_once(x)
        and torch._C._get_tracing_state() is None
        and torch._C._len_torch_function_stack() == 0
        and 0 < x.shape[0] * x.shape[1] ** 2 <= MOST
        and (size is None or _is_view(size, working_dtype(x)))
    )


def _is_view(size: Tensor, dtype: torch.dtype) -> bool:
    """Whether NumPy sees what the tensor holds, in the dtype in which sizes are added."""
    return type(size) is Tensor and size.dtype == dtype and not (size.requires_grad or size.is_neg())


class Shape(NamedTuple):
    """Of a grouped bipartite plan, what depends on no token; to be read only."""

    length: int  # tokens of set A
    partners: int  # tokens of set B
    first_a: int  # token of set A
    first_b: int  # token of set B
    starts: Array  # (B L,), where each row of the similarities begins
    samples: Array  # (B,1), where each sample begins in set A
    ones: Array  # (B,L)
    slots: Array  # (B,N), where those of set A are open
    slot_b: int  # the first slot of set B


def grouped(m: Tensor, protected: int, removed: int) -> Tensor:
    """Slots `(B,N)` of a bipartite plan in grouped order.

    Args:
        m: `(B,N,D)`, normalized, in memory of its own. protected: leading tokens. removed: at least 1.

    >>> grouped(torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]]), 0, 1)
    tensor([[1, 1, 0, 2]])
    """
    b, n, d = m.shape
    shape = _shape(b, n, protected, removed)
    a = m.as_strided((b, shape.length, d), (n * d, 2 * d, 1), shape.first_a * d)  # every other token: one call each
    b_t = m.as_strided((b, d, shape.partners), (n * d, 1, 2 * d), shape.first_b * d)
    similarity = matmul(a, b_t).numpy()
    target = similarity.argmax(2).ravel()  # the first of several
    best = np.negative(similarity.take(target + shape.starts)).reshape(b, -1)
    sources = best.argsort(1, kind="stable")[:, :removed]  # of negatives, ascending: ties to the lower position
    sources = sources[0] if b == 1 else (sources + shape.samples).ravel()
    kept = shape.ones.copy()
    kept.put(sources, 0)
    slots_a = kept.cumsum(1)
    if protected != 1:
        slots_a += protected - 1
    slots_a.put(sources, target.take(sources) + shape.slot_b)
    slots = shape.slots.copy()
    slots[:, shape.first_a :: 2] = slots_a
    return torch.from_numpy(slots)


@lru_cache(KEPT)
def _shape(samples: int, num_tokens: int, protected: int, removed: int) -> Shape:
    set_a, set_b = sides(num_tokens, protected)
    length, partners = (len(range(num_tokens)[each]) for each in (set_a, set_b))
    slots = np.zeros((samples, num_tokens), np.int64)
    slots[:, :protected] = np.arange(protected)
    slot_b = protected + length - removed
    slots[:, set_b] = np.arange(slot_b, slot_b + partners)
    ones = np.ones((samples, length), np.int64)
    rows = np.arange(samples * length)
    starts, samples_a = rows * partners, rows[::length, None]
    return Shape(length, partners, set_a.start, set_b.start, starts, samples_a, ones, slots, slot_b)


def merge(x: Tensor, size: Tensor | None, assignment: Tensor, slots: int) -> tuple[Tensor, Tensor] | None:
    """Tokens `(B,P,C)` and sizes `(B,P)` of a partition, if each token has a share of its slot; None where one has not.

    Args:
        x: `(B,N,C)`; size: `(B,N)` in its working precision, or None for ones.
        assignment: `(B,N)`, in `0..slots-1`.

    >>> x, size = torch.tensor([[[1.0], [4.0], [5.0]]]), torch.tensor([[2.0, 1.0, 1.0]])
    >>> [each.tolist() for each in merge(x, size, torch.tensor([[0, 0, 1]]), 2)]
    [[[[2.0], [5.0]]], [[3.0, 1.0]]]
    """
    (b, n, c), work = x.shape, working_dtype(x)
    given = assignment.numpy()
    slot = given[0] if b == 1 else (given + _rows(b, slots)).ravel()
    sizes = _ones(b * n, work) if size is None else size.numpy().reshape(-1)
    total = np.zeros(b * slots, sizes.dtype)
    with np.errstate(all="ignore"):
        np.add.at(total, slot, sizes)  # one after another
        order = slot.argsort(kind="stable")
        ordered = slot.take(order)
        weights = sizes.take(order) / total.take(ordered)
        if not weights.min() > 0:  # nor a NaN
            return None
    first = torch.from_numpy(ordered.searchsorted(_count(b * slots)))
    values = (x if x.dtype == work else x.to(work)).reshape(b * n, c)
    rows, shares = torch.from_numpy(order), torch.from_numpy(weights)
    merged = torch.embedding_bag(values, rows, first, False, 0, False, shares)[0].view(b, slots, c)
    return merged if x.dtype == work else merged.to(x.dtype), torch.from_numpy(total.reshape(b, slots))


@lru_cache(KEPT)
def _count(end: int) -> Array:
    return np.arange(end)


@lru_cache(KEPT)
def _rows(samples: int, slots: int) -> Array:
    return slots * np.arange(samples)[:, None]


@lru_cache(KEPT)
def _ones(end: int, dtype: torch.dtype) -> Array:
    return torch.ones(end, dtype=dtype).numpy()
