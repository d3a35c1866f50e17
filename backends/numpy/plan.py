"""Plans over a batch: partition, selection, dense (docs/plan.md). Integer gathers, no Python loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csc_matrix

from tokenmerge.backends.numpy.check import check
from tokenmerge.backends.numpy.precision import safe_divide, working_dtype
from tokenmerge.backends.numpy.products import product
from tokenmerge.spec.shared.arguments import check_composable, check_plans

Array = np.ndarray[Any, Any]


class Plan:
    """A batch of matrices `W (B,P,N)` over the token axis.

    Attributes:
        num_tokens_in: N.
        num_tokens_out: P, padded slots included.
        mask: `(B,P)` bool, False for a padded slot; None when every slot is real.
    """

    num_tokens_in: int
    num_tokens_out: int
    mask: Array | None

    def matrix(self, size: Array | None = None) -> Array:
        """`W (B,P,N)`. Only a partition depends on the sizes `(B,N)`; without them all are one."""
        raise NotImplementedError

    def share(self) -> Array:
        """`U (B,N,P)`, where each token's mass went: `U[n,p] = W[p,n] / sum_p' W[p',n]`; a zero column stays zero."""
        raise NotImplementedError

    def merge(self, x: Array, size: Array | None = None) -> Array:
        """`y = W x`: `(B,N,C)` to `(B,P,C)`, in the dtype of `x`.

        Raises:
            TypeError, ValueError: `x` or `size` has another shape or is not floating point.
        """
        raise NotImplementedError

    def merge_size(self, size: Array | None = None) -> Array:
        """`size' = U^T size`: `(B,N)` to `(B,P)`, float32 at least. What is not dropped is conserved."""
        raise NotImplementedError

    def unmerge(self, y: Array) -> Array:
        """`x^ = U y`: `(B,P,C)` back to `(B,N,C)`, in the dtype of `y`; a dropped token comes back as zeros."""
        raise NotImplementedError

    @property
    def _batch(self) -> int:
        raise NotImplementedError

    def _check_merge(self, x: Array, size: Array | None) -> Array:
        check.array("plan", "x", x, "B N C", B=self._batch, N=self.num_tokens_in)
        return self._sizes(size, working_dtype(x))

    def _check_unmerge(self, y: Array) -> None:
        check.array("plan", "y", y, "B P C", B=self._batch, P=self.num_tokens_out)

    def _sizes(self, size: Array | None, dtype: Any) -> Array:
        """The sizes, or ones, no coarser than `dtype`."""
        if size is None:
            return np.ones((self._batch, self.num_tokens_in), dtype)
        self._check_size(size)
        return size.astype(np.result_type(dtype, size), copy=False)

    def _check_size(self, size: Array | None) -> None:
        check.optional("plan", "size", size, "N", B=self._batch, N=self.num_tokens_in)


@dataclass(frozen=True, eq=False)
class PartitionPlan(Plan):
    """Every token goes to one slot: `W[p,n] = size_n / (sum of the sizes in p)` if `assignment[n] = p`, else 0.

    Args:
        assignment: `(B,N)` integer, the output slot of every input token; -1 for a dropped token (padding).
        num_tokens_out: P; None for the largest slot plus one.
        mask: `(B,P)` bool, False for padded slots; None when every slot is real.

    >>> plan = PartitionPlan(np.array([[0, 1, 0]]))
    >>> plan.merge(np.array([[[0.0], [5.0], [2.0]]])).tolist()
    [[[1.0], [5.0]]]
    """

    assignment: Array
    num_tokens_out: int = None  # type: ignore[assignment]  # resolved below
    mask: Array | None = None

    def __post_init__(self) -> None:
        width = check.partition(self.assignment, self.num_tokens_out, self.mask)
        object.__setattr__(self, "num_tokens_out", width)
        object.__setattr__(self, "num_tokens_in", self.assignment.shape[1])

    @classmethod
    def trusted(cls, assignment: Array, num_tokens_out: int, mask: Array | None = None) -> PartitionPlan:
        """A plan that we made: nothing is checked."""
        plan: PartitionPlan = object.__new__(cls)
        fields = {"assignment": assignment, "num_tokens_out": num_tokens_out, "mask": mask}
        for name, value in (fields | {"num_tokens_in": assignment.shape[1]}).items():
            object.__setattr__(plan, name, value)
        return plan

    @property
    def _batch(self) -> int:
        return self.assignment.shape[0]

    def _member(self) -> Array:
        """`(B,P,N)` bool: token n is in slot p."""
        return self.assignment[:, None, :] == np.arange(self.num_tokens_out)[:, None]

    def share(self) -> Array:
        return np.swapaxes(self._member(), 1, 2).astype(np.float64)

    def matrix(self, size: Array | None = None) -> Array:
        size = self._sizes(size, np.float64 if size is None else np.float32)
        return self._weights(size)[:, None, :] * self._member()

    def merge(self, x: Array, size: Array | None = None) -> Array:
        size = self._check_merge(x, size)
        weights = self._weights(size)[:, :, None]
        # a token alone in its slot has weight exactly 1 and comes through unchanged, to the last bit
        with np.errstate(invalid="ignore"):
            merged = self._sum_groups(weights * x).astype(x.dtype)
        if np.isfinite(merged).all():
            return merged
        x = np.where(weights == 0, np.zeros((), x.dtype), x)  # a member of size 0 beside others keeps even NaN out
        return self._sum_groups(weights * x).astype(x.dtype)

    def merge_size(self, size: Array | None = None) -> Array:
        return self._sum_groups(self._sizes(size, np.float32)[:, :, None])[:, :, 0]

    def unmerge(self, y: Array) -> Array:
        self._check_unmerge(y)
        return _gather_or_zero(y, self.assignment)

    def _weights(self, size: Array) -> Array:
        """`(B,N)`, each token's share of its slot; equal shares where the sizes add up to zero."""
        total, count = self._sum_groups(size[:, :, None]), self._sum_groups(np.ones_like(size)[:, :, None])
        size = np.where(_gather_or_zero(total, self.assignment)[:, :, 0] == 0, 1, size)
        total = np.where(total == 0, count, total)
        return safe_divide(size, _gather_or_zero(total, self.assignment)[:, :, 0])

    def _sum_groups(self, values: Array) -> Array:
        """Sum `(B,N,C)` over the members of every slot: `(B,P,C)`; dropped tokens go to a row that is cut off."""
        b, _, c = values.shape
        rows = self.num_tokens_out + 1
        slot = self.assignment.astype(np.intp, copy=False)
        slot = np.where(slot < 0, self.num_tokens_out, slot)
        place = (slot + rows * np.arange(b)[:, None]).reshape(-1)
        if c == 1:
            sums = np.bincount(place, values.reshape(-1), b * rows).astype(values.dtype)
        else:  # the columns of this matrix are unit vectors: `np.add.at` takes ten times as long
            to_place = (np.ones(len(place), values.dtype), place, np.arange(len(place) + 1))
            sums = csc_matrix(to_place, (b * rows, len(place))) @ values.reshape(len(place), c)
        return sums.reshape(b, rows, c)[:, :-1]


@dataclass(frozen=True, eq=False)
class SelectionPlan(Plan):
    """Some tokens are kept as they are: `W` has one-hot rows, and an all-zero row for a padded slot.

    Args:
        indices: `(B,P)` integer, the token in every slot, no token twice; 0 in a padded slot.
        mask: `(B,P)` bool, False for padded slots; None when every slot is real.
        num_tokens_in: N; None for the largest index plus one.

    >>> plan = SelectionPlan(np.array([[0, 2]]), num_tokens_in=3)
    >>> plan.unmerge(np.array([[[7.0], [8.0]]])).tolist()
    [[[7.0], [0.0], [8.0]]]
    """

    indices: Array
    mask: Array | None = None
    num_tokens_in: int = None  # type: ignore[assignment]  # resolved below

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_tokens_in", check.selection(self.indices, self.mask, self.num_tokens_in))
        object.__setattr__(self, "num_tokens_out", self.indices.shape[1])

    @property
    def _batch(self) -> int:
        return self.indices.shape[0]

    def matrix(self, size: Array | None = None) -> Array:
        self._check_size(size)
        one_hot = self.indices[:, :, None] == np.arange(self.num_tokens_in)
        if self.mask is not None:
            one_hot &= self.mask[:, :, None]
        return one_hot.astype(np.float64 if size is None else working_dtype(size))

    def merge(self, x: Array, size: Array | None = None) -> Array:
        self._check_merge(x, size)
        return self._take(x)

    def share(self) -> Array:
        return np.swapaxes(self.matrix(), 1, 2)

    def merge_size(self, size: Array | None = None) -> Array:
        return self._take(self._sizes(size, np.float32)[:, :, None])[:, :, 0]

    def unmerge(self, y: Array) -> Array:
        self._check_unmerge(y)
        return _gather_or_zero(y, _assignment(self))

    def _take(self, values: Array) -> Array:
        taken = np.take_along_axis(values, self.indices[:, :, None], axis=1)
        return taken if self.mask is None else np.where(self.mask[:, :, None], taken, np.zeros((), values.dtype))


@dataclass(frozen=True, eq=False)
class DensePlan(Plan):
    """Every output token is a mixture of all input tokens: the matrix is stored as it is.

    Args:
        weights: `(B,P,N)` floating point, rows sum to one; a padded slot's row is all zero.
        mask: `(B,P)` bool, False for padded slots; None when every slot is real.

    >>> DensePlan(np.array([[[0.5, 0.5, 0.0]]])).share().tolist()
    [[[1.0], [1.0], [0.0]]]
    """

    weights: Array
    mask: Array | None = None

    def __post_init__(self) -> None:
        p, n = check.dense(self.weights, self.mask)
        object.__setattr__(self, "num_tokens_in", n)
        object.__setattr__(self, "num_tokens_out", p)

    @property
    def _batch(self) -> int:
        return self.weights.shape[0]

    def matrix(self, size: Array | None = None) -> Array:
        self._check_size(size)
        return self.weights

    def merge(self, x: Array, size: Array | None = None) -> Array:
        self._check_merge(x, size)
        return product(self.weights, x.astype(working_dtype(x), copy=False)).astype(x.dtype)

    def share(self) -> Array:
        return np.swapaxes(safe_divide(self.weights, self.weights.sum(axis=1, keepdims=True)), 1, 2)

    def merge_size(self, size: Array | None = None) -> Array:
        size = self._sizes(size, working_dtype(self.weights) if size is None else np.float32)
        return product(np.swapaxes(self.share(), 1, 2), size[:, :, None])[:, :, 0].astype(size.dtype)

    def unmerge(self, y: Array) -> Array:
        self._check_unmerge(y)
        return product(self.share(), y.astype(working_dtype(y), copy=False)).astype(y.dtype)


def compose(first: Plan, second: Plan, size: Array | None = None) -> Plan:
    """The plan of two layers after one another: `W = W_2 W_1`.

    Partitions and selections compose to a partition or a selection by one gather of integers; anything dense gives a
    dense plan, which needs the sizes `(B,N)` that enter `first` (ones without them).

    Raises:
        ValueError: `second` does not take as many tokens as `first` gives.

    >>> first, second = PartitionPlan(np.array([[0, 1, 1, 2]])), PartitionPlan(np.array([[0, 1, 0]]))
    >>> compose(first, second).assignment.tolist()
    [[0, 1, 1, 0]]
    """
    check_plans(first, second, Plan)
    check_composable(first.num_tokens_out, second.num_tokens_in)
    first._check_size(size)
    if isinstance(first, DensePlan) or isinstance(second, DensePlan):
        return DensePlan(second.matrix(first.merge_size(size)) @ first.matrix(size), second.mask)
    if isinstance(first, SelectionPlan) and isinstance(second, SelectionPlan):
        indices = np.take_along_axis(first.indices, second.indices, axis=1)
        if first.mask is None and second.mask is None:
            return SelectionPlan(indices, None, first.num_tokens_in)
        mask = np.take_along_axis(_real(first), second.indices, axis=1) & _real(second)
        return SelectionPlan(np.where(mask, indices, 0), mask, first.num_tokens_in)
    step_one, step_two = _assignment(first), _assignment(second)
    dropped = np.full((len(step_two), 1), -1, step_two.dtype)
    # slot -1 of the first step finds the extra last entry of the second
    assignment = np.take_along_axis(np.concatenate([step_two, dropped], axis=1), step_one, axis=1)
    return PartitionPlan(assignment, second.num_tokens_out, second.mask)


def compose_layers(made: Sequence[tuple[Plan, Array | None]]) -> Plan:
    """The plan of all layers of a network: every layer's plan and the sizes that it took, None for ones.

    What is dense is multiplied with those sizes, which a composed dense plan no longer knows.

    >>> first, second = PartitionPlan(np.array([[0, 1, 1, 2]])), PartitionPlan(np.array([[0, 1, 0]]))
    >>> compose_layers([(first, None), (second, first.merge_size())]).assignment.tolist()
    [[0, 1, 1, 0]]
    """
    composed = made[0][0]
    for plan, size in made[1:]:
        if isinstance(composed, DensePlan) or isinstance(plan, DensePlan):
            composed = DensePlan(plan.matrix(size) @ composed.matrix(), plan.mask)
        else:
            composed = compose(composed, plan)
    return composed


def _real(plan: Plan) -> Array:
    return np.ones((plan._batch, plan.num_tokens_out), bool) if plan.mask is None else plan.mask


def _assignment(plan: Plan) -> Array:
    """A partition's assignment, or a selection's: kept tokens have a slot of their own, the others are dropped."""
    if isinstance(plan, PartitionPlan):
        return plan.assignment.astype(np.intp, copy=False)
    assert isinstance(plan, SelectionPlan)
    b, p, n = plan._batch, plan.num_tokens_out, plan.num_tokens_in
    slot_of = np.full((b, n + 1), -1)
    np.put_along_axis(
        slot_of, np.where(_real(plan), plan.indices.astype(np.intp), n), np.broadcast_to(np.arange(p), (b, p)), axis=1
    )
    return slot_of[:, :n]


def _gather_or_zero(y: Array, slot: Array) -> Array:
    """Row `slot` of `y (B,P,C)` for every token; zeros for slot -1."""
    zeros = np.zeros((y.shape[0], 1, y.shape[2]), y.dtype)
    row = slot.astype(np.intp, copy=False)[:, :, None]
    return np.take_along_axis(np.concatenate([y, zeros], axis=1), row, axis=1)
