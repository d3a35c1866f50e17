"""The plan: every merger ends in a matrix over the token axis (docs/plan.md).

A plan is a matrix `W (P,N)`; its three encodings differ only in how they store it. The laws are written once, for the
matrix, exactly as they stand in the table:

    merge       y = W x
    share       U[n,p] = W[p,n] / sum_p' W[p',n], a zero column stays zero
    size out    size' = U^T size
    unmerge     x^ = U y
    compose     W = W_2 W_1

One sample at a time; backends have the same types with a leading batch axis.

Rules:
    PLAN-1: The merged tokens are y = W x; a token alone in its slot comes through unchanged, to the last bit.
    PLAN-2: The share of a token is U[n,p] = W[p,n] / sum_p' W[p',n]; a zero column stays zero.
    PLAN-3: Sizes go with the share, size' = U^T size: what is not dropped is conserved. They are float32 at least.
    PLAN-4: Unmerging is x^ = U y; a dropped token comes back as zeros.
    PLAN-5: The plan of two layers is the product of their matrices, W = W_2 W_1, with the mask of the second; of two
        selections a slot is real if it is real in both.
    PLAN-6: In a partition W[p,n] = size_n / (sum of the sizes in p) for the members n of p; a group whose sizes are
        all zero is averaged plainly.
    PLAN-7: In a selection every row is one-hot, and zero for a padded slot.
    PLAN-8: Decisions are made in float32 for half-precision inputs, else in the input's own precision; tokens come
        back in the input's dtype, merged and unmerged.
    PLAN-9: A result has the mask of its plan: one where a mask was given, else none; ATS always has one, PatchMerger
        never.
    PLAN-10: Plans are frozen: none of their fields can be set.
    PLAN-11: A weight of zero keeps NaN and infinity out of what is merged, unmerged and counted; a member of size 0
        beside others does, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenmerge.spec.precision import working_dtype
from tokenmerge.spec.shared.arguments import check_composable, check_plans
from tokenmerge.spec.shared.calls import Calls

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray, batched=False)


class Plan:
    """What the three encodings share: the laws of the matrix.

    Attributes:
        num_tokens_in: N.
        num_tokens_out: P, padded slots included.
        mask: `(P,)` bool, False for a padded slot; None when every slot is real.
    """

    num_tokens_in: int
    num_tokens_out: int
    mask: Array | None

    def matrix(self, size: Array | None = None) -> Array:
        """The matrix `W (P,N)`. Only a partition depends on the sizes `(N,)`; without them all are one."""
        raise NotImplementedError

    def share(self) -> Array:
        """`U (N,P)`: where each input token's mass went. A row sums to one, or to zero for a dropped token."""
        w = self.matrix()
        column = w.sum(axis=0)
        return np.divide(w, column, out=np.zeros_like(w), where=column != 0).T

    def merge(self, x: Array, size: Array | None = None) -> Array:
        """`y = W x`: tokens `(N,C)` to `(P,C)`, in the dtype of `x`.

        Raises:
            TypeError, ValueError: `x` is not floating point or not `(N,C)`; `size` is not `(N,)`.
        """
        check.array("plan", "x", x, "N C", N=self.num_tokens_in)
        return _apply(self.matrix(_sizes(size, self.num_tokens_in, x.dtype)), x)

    def merge_size(self, size: Array | None = None) -> Array:
        """`size' = U^T size`: `(N,)` to `(P,)`, float32 at least. What is not dropped is conserved."""
        share = self.share()
        if size is None:  # what is stored in float64 keeps its precision; integers and float32 give float32
            size = np.ones(self.num_tokens_in, share.dtype if isinstance(self, DensePlan) else np.float32)
        return _apply(share.T, _sizes(size, self.num_tokens_in, np.float32)[:, None])[:, 0]

    def unmerge(self, y: Array) -> Array:
        """`x^ = U y`: `(P,C)` back to `(N,C)`, in the dtype of `y`; a dropped token comes back as zeros.

        Raises:
            TypeError, ValueError: `y` is not floating point or not `(P,C)`.
        """
        check.array("plan", "y", y, "P C", P=self.num_tokens_out)
        return _apply(self.share(), y)


@dataclass(frozen=True, eq=False)
class PartitionPlan(Plan):
    """Every token goes to one slot: `W[p,n] = size_n / (sum of the sizes in p)` if `assignment[n] = p`, else 0.

    A group whose sizes are all zero is averaged plainly, so that the identity plan is the identity for any size.

    Args:
        assignment: `(N,)` integer, the output slot of every input token; -1 for a dropped token (padding).
        num_tokens_out: P; None for the largest slot plus one.
        mask: `(P,)` bool, False for padded slots; None when every slot is real.

    >>> plan = PartitionPlan(np.array([0, 1, 0]))
    >>> plan.matrix(np.array([3.0, 1.0, 1.0]))
    array([[0.75, 0.  , 0.25],
           [0.  , 1.  , 0.  ]])
    >>> plan.unmerge(plan.merge(np.array([[0.0], [5.0], [2.0]])))
    array([[1.],
           [5.],
           [1.]])
    """

    assignment: Array
    num_tokens_out: int = None  # type: ignore[assignment]  # resolved below
    mask: Array | None = None

    def __post_init__(self) -> None:
        width = check.partition(self.assignment, self.num_tokens_out, self.mask)
        object.__setattr__(self, "num_tokens_out", width)
        object.__setattr__(self, "num_tokens_in", len(self.assignment))

    def matrix(self, size: Array | None = None) -> Array:
        size = np.ones(self.num_tokens_in) if size is None else _sizes(size, self.num_tokens_in, np.float32)
        w = np.zeros((self.num_tokens_out, self.num_tokens_in), size.dtype)
        for slot in range(self.num_tokens_out):
            members = np.flatnonzero(self.assignment == slot)
            total = size[members].sum()
            w[slot, members] = size[members] / total if total != 0 else 1 / max(1, len(members))
        return w


@dataclass(frozen=True, eq=False)
class SelectionPlan(Plan):
    """Some tokens are kept as they are: `W` has one-hot rows, and an all-zero row for a padded slot.

    Args:
        indices: `(P,)` integer, the token in every slot, no token twice; 0 in a padded slot.
        mask: `(P,)` bool, False for padded slots; None when every slot is real.
        num_tokens_in: N; None for the largest index plus one.

    >>> SelectionPlan(np.array([0, 2, 0]), np.array([True, True, False]), 3).matrix()
    array([[1., 0., 0.],
           [0., 0., 1.],
           [0., 0., 0.]])
    """

    indices: Array
    mask: Array | None = None
    num_tokens_in: int = None  # type: ignore[assignment]  # resolved below

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_tokens_in", check.selection(self.indices, self.mask, self.num_tokens_in))
        object.__setattr__(self, "num_tokens_out", len(self.indices))

    def matrix(self, size: Array | None = None) -> Array:
        check.optional("plan", "size", size, "N", N=self.num_tokens_in)
        w = np.zeros((self.num_tokens_out, self.num_tokens_in), None if size is None else working_dtype(size.dtype))
        for slot, token in enumerate(self.indices):
            if self.mask is None or self.mask[slot]:
                w[slot, token] = 1
        return w


@dataclass(frozen=True, eq=False)
class DensePlan(Plan):
    """Every output token is a mixture of all input tokens: the matrix is stored as it is.

    Args:
        weights: `(P,N)` floating point, rows sum to one; a padded slot's row is all zero.
        mask: `(P,)` bool, False for padded slots; None when every slot is real.

    >>> plan = DensePlan(np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]))
    >>> plan.merge_size(np.array([1.0, 2.0, 1.0]))
    array([2., 2.])
    """

    weights: Array
    mask: Array | None = None

    def __post_init__(self) -> None:
        p, n = check.dense(self.weights, self.mask)
        object.__setattr__(self, "num_tokens_in", n)
        object.__setattr__(self, "num_tokens_out", p)

    def matrix(self, size: Array | None = None) -> Array:
        check.optional("plan", "size", size, "N", N=self.num_tokens_in)
        return self.weights


def compose(first: Plan, second: Plan, size: Array | None = None) -> Plan:
    """The plan of two layers after one another: `W = W_2 W_1`.

    Partitions and selections compose to a partition or a selection by one gather of integers; anything dense gives a
    dense plan. A partition's matrix depends on the sizes, so a dense result needs the sizes that enter `first`; without
    them all are one.

    Args:
        first: plan from `N` tokens to `M`.
        second: plan from `M` tokens to `P`.
        size: `(N,)` floating point, the sizes that enter `first`; used where the result is dense.

    Returns:
        A plan from `N` tokens to `P`.

    Raises:
        ValueError: `second` does not take as many tokens as `first` gives.

    >>> compose(PartitionPlan(np.array([0, 1, 1, 2])), PartitionPlan(np.array([0, 1, 0]))).assignment
    array([0, 1, 1, 0])
    """
    check_plans(first, second, Plan)
    check_composable(first.num_tokens_out, second.num_tokens_in)
    check.optional("plan", "size", size, "N", N=first.num_tokens_in)
    if isinstance(first, DensePlan) or isinstance(second, DensePlan):
        return DensePlan(second.matrix(first.merge_size(size)) @ first.matrix(size), second.mask)
    if isinstance(first, SelectionPlan) and isinstance(second, SelectionPlan):
        real = _real(first)[second.indices] & _real(second)
        indices = np.where(real, first.indices[second.indices], 0)
        every_slot_is_real = first.mask is None and second.mask is None
        return SelectionPlan(indices, None if every_slot_is_real else real, first.num_tokens_in)
    step_one, step_two = _assignment(first), _assignment(second)
    assignment = np.array([step_two[slot] if slot >= 0 else -1 for slot in step_one], dtype=step_one.dtype)
    return PartitionPlan(assignment, second.num_tokens_out, second.mask)


def _real(plan: Plan) -> Array:
    return np.ones(plan.num_tokens_out, bool) if plan.mask is None else plan.mask


def _assignment(plan: Plan) -> Array:
    """A partition's assignment, or a selection's: kept tokens have a slot of their own, the others are dropped."""
    if isinstance(plan, PartitionPlan):
        return plan.assignment.astype(np.intp)
    assert isinstance(plan, SelectionPlan)
    slot_of = np.full(plan.num_tokens_in, -1)
    for slot in np.flatnonzero(_real(plan)):
        slot_of[plan.indices[slot]] = slot
    return slot_of


def _sizes(size: Array | None, num_tokens: int, dtype: Any) -> Array:
    """The sizes, or ones, in float32 at least and no coarser than `dtype`."""
    if size is None:
        return np.ones(num_tokens, working_dtype(dtype))
    check.array("plan", "size", size, "N", N=num_tokens)
    return size.astype(working_dtype(dtype, size.dtype))


def _apply(matrix: Array, vectors: Array) -> Array:
    """`matrix @ vectors` where an entry that is zero keeps even NaN and infinity out (padding may hold anything)."""
    work = np.result_type(working_dtype(vectors.dtype), matrix.dtype)
    out = np.zeros((matrix.shape[0], vectors.shape[1]), work)
    with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, and says so in the result
        for row, weights in enumerate(matrix):
            used = np.flatnonzero(weights)
            out[row] = weights[used].astype(work) @ vectors[used].astype(work)
    return out.astype(vectors.dtype)
