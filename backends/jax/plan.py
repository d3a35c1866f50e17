"""Plans over a batch: partition, selection, dense (docs/plan.md). Integer gathers and one scatter-add; pytrees.

The arithmetic is in small compiled helpers, as in `jax.numpy` itself: without an outer `jax.jit` a new shape then
costs one compilation and not one per operation; inside it they are part of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenmerge.backends.jax.batches import ones, place_of, scatter_add
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.numerics import told
from tokenmerge.backends.jax.precision import matmul, safe_divide, working_dtype
from tokenmerge.backends.jax.products import product
from tokenmerge.backends.jax.pytrees import pytree
from tokenmerge.spec.shared.arguments import check_composable, check_plans

Array = jax.Array


class Plan:
    """A batch of matrices `W (B,P,N)` over the token axis.

    A plan is a pytree: it goes in and out of `jax.jit`, `jax.vmap` and `jax.tree.map`, with its shapes as static data.

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
            TypeError, ValueError: `x` or `size` is of another shape, or not floating point.
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
        return self._first.shape[0]

    @property
    def _first(self) -> Array:
        """What the plan is made of, for every sample."""
        raise NotImplementedError

    def _ones(self, dtype: np.dtype[Any], count: int | None = None) -> Array:
        """`(B,count)`, where the samples of the plan are; one for every token that comes in if no count is given."""
        return ones(self._first, dtype, self.num_tokens_in if count is None else count)

    def _check_merge(self, x: Array, size: Array | None) -> tuple[Array, Array]:
        check.array("plan", "x", x, "B N C", B=self._batch, N=self.num_tokens_in)
        x = jnp.asarray(x)
        return x, self._sizes(size, x)

    def _check_unmerge(self, y: Array) -> Array:
        check.array("plan", "y", y, "B P C", B=self._batch, P=self.num_tokens_out)
        return jnp.asarray(y)

    def _sizes(self, size: Array | None, *others: Array) -> Array:
        """The sizes, or ones, no coarser than the working precision of `others`."""
        if size is None:
            return self._ones(working_dtype(*others))
        self._check_size(size)
        size = jnp.asarray(size)
        return size.astype(working_dtype(size, *others))

    def _check_size(self, size: Array | None) -> None:
        check.optional("plan", "size", size, "N", B=self._batch, N=self.num_tokens_in)


@pytree("assignment", "mask")
@dataclass(frozen=True, eq=False)
class PartitionPlan(Plan):
    """Every token goes to one slot: `W[p,n] = size_n / (sum of the sizes in p)` if `assignment[n] = p`, else 0.

    Args:
        assignment: `(B,N)` integer, the output slot of every input token; -1 for a dropped token (padding).
        num_tokens_out: P; None for the largest slot plus one, which must be read and so is not known under `jax.jit`.
        mask: `(B,P)` bool, False for padded slots; None when every slot is real.

    >>> plan = PartitionPlan(jnp.array([[0, 1, 0]]))
    >>> plan.merge(jnp.array([[[0.0], [5.0], [2.0]]])).tolist()
    [[[1.0], [5.0]]]
    """

    assignment: Array
    num_tokens_out: int = None  # type: ignore[assignment]  # resolved below
    mask: Array | None = None

    def __post_init__(self) -> None:
        width = check.partition(self.assignment, self.num_tokens_out, self.mask)
        object.__setattr__(self, "num_tokens_out", width)
        object.__setattr__(self, "num_tokens_in", self.assignment.shape[1])

    @property
    def _first(self) -> Array:
        return self.assignment

    def _member(self) -> Array:
        """`(B,P,N)` bool: token n is in slot p."""
        return _index(self.assignment)[:, None, :] == jnp.arange(self.num_tokens_out)[None, :, None]

    def share(self) -> Array:
        return self._share()

    @jax.jit
    def _share(self) -> Array:
        return jnp.swapaxes(self._member(), 1, 2).astype(float)

    def matrix(self, size: Array | None = None) -> Array:
        return self._matrix(self._ones(jnp.result_type(float)) if size is None else self._sizes(size))

    @jax.jit
    def _matrix(self, size: Array) -> Array:
        sums = self._sum_groups(jnp.stack([size, jnp.ones_like(size)], axis=2))
        return jnp.where(self._member(), self._weights(size, sums)[:, None, :], 0)

    def merge(self, x: Array, size: Array | None = None) -> Array:
        return self._merge(*self._check_merge(x, size))

    @jax.jit
    def _merge(self, x: Array, size: Array) -> Array:
        return self._merge_both(x, size)[0]

    def _merge_both(self, x: Array, size: Array) -> tuple[Array, Array]:
        """The merged tokens and sizes, which are summed once."""
        sums = self._sum_groups(jnp.stack([size, jnp.ones_like(size)], axis=2))
        weights = self._weights(size, sums)[:, :, None]
        # not even a gradient sees what is dropped, or is NaN beside a size of 0
        unused = (self.assignment[:, :, None] < 0) | ((weights == 0) & ~jnp.isfinite(x))
        # a token alone in its slot has weight exactly 1 and comes through unchanged, to the last bit
        merged = self._sum_groups(weights * jnp.where(unused, 0, x).astype(size.dtype))
        return merged.astype(x.dtype), sums[:, :, 0]

    def merge_size(self, size: Array | None = None) -> Array:
        return self._merge_size(self._sizes(size))

    @jax.jit
    def _merge_size(self, size: Array) -> Array:
        return self._sum_groups(size[:, :, None])[:, :, 0]

    def unmerge(self, y: Array) -> Array:
        return _gather_or_zero(self._check_unmerge(y), self.assignment)

    def _weights(self, size: Array, sums: Array) -> Array:
        """`(B,N)`, each token's share of its slot; equal shares where the sizes add up to zero.

        Args:
            sums: `(B,P,2)`, of the sizes in every slot and of ones.
        """
        total, count = jnp.moveaxis(_gather_or_zero(sums, self.assignment), 2, 0)
        return safe_divide(jnp.where(total == 0, 1, size), jnp.where(total == 0, count, total))

    def _sum_groups(self, values: Array) -> Array:
        """Sum `(B,N,C)` over the members of every slot: `(B,P,C)`; dropped tokens go to a row that is not there."""
        slot = _index(self.assignment)
        slot = jnp.where(slot < 0, self.num_tokens_out, slot)
        return scatter_add(values, slot, self.num_tokens_out)


@pytree("indices", "mask")
@dataclass(frozen=True, eq=False)
class SelectionPlan(Plan):
    """Some tokens are kept as they are: `W` has one-hot rows, and an all-zero row for a padded slot.

    Args:
        indices: `(B,P)` integer, the token in every slot, no token twice; 0 in a padded slot.
        mask: `(B,P)` bool, False for padded slots; None when every slot is real.
        num_tokens_in: N; None for the largest index plus one, which must be read and so is not known under `jax.jit`.

    >>> plan = SelectionPlan(jnp.array([[0, 2]]), num_tokens_in=3)
    >>> plan.unmerge(jnp.array([[[7.0], [8.0]]])).tolist()
    [[[7.0], [0.0], [8.0]]]
    """

    indices: Array
    mask: Array | None = None
    num_tokens_in: int = None  # type: ignore[assignment]  # resolved below

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_tokens_in", check.selection(self.indices, self.mask, self.num_tokens_in))
        object.__setattr__(self, "num_tokens_out", self.indices.shape[1])

    @property
    def _first(self) -> Array:
        return self.indices

    def matrix(self, size: Array | None = None) -> Array:
        self._check_size(size)
        return self._matrix(None if size is None else working_dtype(jnp.asarray(size)))

    @partial(jax.jit, static_argnums=1)
    def _matrix(self, dtype: np.dtype[Any] | None) -> Array:
        return self._one_hot().astype(float if dtype is None else dtype)

    def merge(self, x: Array, size: Array | None = None) -> Array:
        x, _ = self._check_merge(x, size)
        return self._take(x)

    def share(self) -> Array:
        return self._share()

    @jax.jit
    def _share(self) -> Array:
        return jnp.swapaxes(self.matrix(), 1, 2)

    def merge_size(self, size: Array | None = None) -> Array:
        return self._merge_size(self._sizes(size))

    @jax.jit
    def _merge_size(self, size: Array) -> Array:
        return self._take(size[:, :, None])[:, :, 0]

    def unmerge(self, y: Array) -> Array:
        return self._unmerge(self._check_unmerge(y))

    @jax.jit
    def _unmerge(self, y: Array) -> Array:
        return _gather_or_zero(y, _assignment(self))

    def _one_hot(self) -> Array:
        one_hot = _index(self.indices)[:, :, None] == jnp.arange(self.num_tokens_in)[None, None, :]
        return one_hot if self.mask is None else one_hot & self.mask[:, :, None]

    @jax.jit
    def _take(self, values: Array) -> Array:
        taken = jnp.take_along_axis(values, _index(self.indices)[:, :, None], axis=1)
        return taken if self.mask is None else jnp.where(self.mask[:, :, None], taken, 0)


@pytree("weights", "mask")
@dataclass(frozen=True, eq=False)
class DensePlan(Plan):
    """Every output token is a mixture of all input tokens: the matrix is stored as it is, and is differentiable.

    Args:
        weights: `(B,P,N)` floating point, rows sum to one; a padded slot's row is all zero.
        mask: `(B,P)` bool, False for padded slots; None when every slot is real.

    >>> DensePlan(jnp.array([[[0.5, 0.5, 0.0]]])).share().tolist()
    [[[1.0], [1.0], [0.0]]]
    """

    weights: Array
    mask: Array | None = None

    def __post_init__(self) -> None:
        p, n = check.dense(self.weights, self.mask)
        object.__setattr__(self, "num_tokens_in", n)
        object.__setattr__(self, "num_tokens_out", p)

    @property
    def _first(self) -> Array:
        return self.weights

    def matrix(self, size: Array | None = None) -> Array:
        self._check_size(size)
        return jnp.asarray(self.weights)

    def merge(self, x: Array, size: Array | None = None) -> Array:
        x, _ = self._check_merge(x, size)
        return _apply(self.weights, x, x.dtype)

    def share(self) -> Array:
        return self._share()

    @jax.jit
    def _share(self) -> Array:
        weights = self.matrix()
        return jnp.swapaxes(safe_divide(weights, jnp.sum(weights, axis=1, keepdims=True)), 1, 2)

    def merge_size(self, size: Array | None = None) -> Array:
        size = self._sizes(size, self.matrix()) if size is None else self._sizes(size)
        return self._merge_size(size)

    @jax.jit
    def _merge_size(self, size: Array) -> Array:
        with told("highest"):
            return _apply(jnp.swapaxes(self.share(), 1, 2), size[:, :, None], size.dtype)[:, :, 0]

    def unmerge(self, y: Array) -> Array:
        return self._unmerge(self._check_unmerge(y))

    @jax.jit
    def _unmerge(self, y: Array) -> Array:
        return _apply(self.share(), y, y.dtype)


def merge_with_size(plan: Plan, x: Array, size: Array) -> tuple[Array, Array]:
    """`plan.merge(x, size), plan.merge_size(size)`, as one program where they have something in common.

    >>> plan = PartitionPlan(jnp.array([[0, 1, 0]]))
    >>> merge_with_size(plan, jnp.array([[[0.0], [5.0], [2.0]]]), jnp.ones((1, 3)))[1].tolist()
    [[2.0, 1.0]]
    """
    if isinstance(plan, PartitionPlan) and working_dtype(size, x) == size.dtype:
        return _merge_both(plan, *plan._check_merge(x, size))
    return plan.merge(x, size), plan.merge_size(size)


@jax.jit
def _merge_both(plan: PartitionPlan, x: Array, size: Array) -> tuple[Array, Array]:
    return plan._merge_both(x, size)


def compose(first: Plan, second: Plan, size: Array | None = None) -> Plan:
    """The plan of two layers after one another: `W = W_2 W_1`.

    Partitions and selections compose to a partition or a selection by one gather of integers; anything dense gives a
    dense plan, which needs the sizes `(B,N)` that enter `first` (ones without them).

    Raises:
        ValueError: `second` does not take as many tokens as `first` gives.

    >>> first, second = PartitionPlan(jnp.array([[0, 1, 1, 2]])), PartitionPlan(jnp.array([[0, 1, 0]]))
    >>> compose(first, second).assignment.tolist()
    [[0, 1, 1, 0]]
    """
    check_plans(first, second, Plan)
    check_composable(first.num_tokens_out, second.num_tokens_in)
    first._check_size(size)
    if isinstance(first, DensePlan) or isinstance(second, DensePlan):
        return DensePlan(_product(second.matrix(first.merge_size(size)), first.matrix(size)), second.mask)
    if isinstance(first, SelectionPlan) and isinstance(second, SelectionPlan):
        step = _index(second.indices)
        indices = jnp.take_along_axis(_index(first.indices), step, axis=1)
        if first.mask is None and second.mask is None:
            return SelectionPlan(indices, None, first.num_tokens_in)
        mask = jnp.take_along_axis(_real(first), step, axis=1) & _real(second)
        return SelectionPlan(jnp.where(mask, indices, 0), mask, first.num_tokens_in)
    return PartitionPlan(_traced(first, second), second.num_tokens_out, second.mask)


def compose_layers(made: Sequence[tuple[Plan, Array | None]]) -> Plan:
    """The plan of all layers of a network: every layer's plan and the sizes that it took, None for ones.

    What is dense is multiplied with those sizes, which a composed dense plan no longer knows.

    >>> first, second = PartitionPlan(jnp.array([[0, 1, 1, 2]])), PartitionPlan(jnp.array([[0, 1, 0]]))
    >>> compose_layers([(first, None), (second, first.merge_size())]).assignment.tolist()
    [[0, 1, 1, 0]]
    """
    composed = made[0][0]
    for plan, size in made[1:]:
        if isinstance(composed, DensePlan) or isinstance(plan, DensePlan):
            composed = DensePlan(matmul(plan.matrix(size), composed.matrix()), plan.mask)
        else:
            composed = compose(composed, plan)
    return composed


@jax.jit
def _traced(first: Plan, second: Plan) -> Array:
    """The slot of the second plan where every token of the first arrives; what was dropped stays dropped."""
    return _gather_or_zero(_assignment(second)[:, :, None] + 1, _assignment(first))[:, :, 0] - 1


def _index(array: Array) -> Array:
    """Integers in the default index type."""
    return jnp.asarray(array).astype(int)


def _real(plan: Plan) -> Array:
    return plan._ones(np.dtype(bool), plan.num_tokens_out) if plan.mask is None else jnp.asarray(plan.mask)


@jax.jit
def _assignment(plan: Plan) -> Array:
    """A partition's assignment, or a selection's: kept tokens have a slot of their own, the others are dropped."""
    if isinstance(plan, PartitionPlan):
        return _index(plan.assignment)
    assert isinstance(plan, SelectionPlan)
    token = jnp.where(_real(plan), _index(plan.indices), plan.num_tokens_in)
    return place_of(token, plan.num_tokens_in)


@jax.jit
def _gather_or_zero(y: Array, slot: Array) -> Array:
    """Row `slot` of `y (B,P,C)` for every token; zeros for slot -1."""
    slot = _index(slot)
    row = jnp.where(slot < 0, y.shape[1], slot)  # JAX counts a negative index from the end
    return jnp.take_along_axis(y, row[:, :, None], axis=1, mode="fill", fill_value=0)


@partial(jax.jit, static_argnums=2)
def _apply(matrix: Array, vectors: Array, dtype: np.dtype[Any]) -> Array:
    """`matrix @ vectors` in the working precision of both, then in a dtype; a zero entry keeps even NaN out."""
    work = working_dtype(matrix, vectors)
    return product(matrix.astype(work), vectors.astype(work)).astype(dtype)


@jax.jit
def _product(matrix: Array, vectors: Array) -> Array:
    work = working_dtype(matrix, vectors)
    return matmul(matrix.astype(work), vectors.astype(work))
