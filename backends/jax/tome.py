"""ToMe, vectorized over the batch (docs/tome.md).

With a mask the real tokens are moved to the front by one gather, matched there, and the plan is moved back; without one
nothing is moved. Nothing here has a gradient: which tokens merge is a decision, how they merge is differentiable.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tokenmerge.backends.jax.batches import ones, repeat
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.matching import nearest
from tokenmerge.backends.jax.merger import Merger
from tokenmerge.backends.jax.plan import PartitionPlan
from tokenmerge.backends.jax.precision import working_dtype
from tokenmerge.backends.jax.ties import before, inverse, places, true_first
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.merged import Merged
from tokenmerge.spec.shared.schedule import kth_tokens_out, kth_width, tokens_removed

Array = jax.Array


def draw_permutation(key: Array, batch: int, num_tokens: int) -> Array:
    """Random permutations `(B,N)` for `matching="random"`.

    >>> draw_permutation(jax.random.key(0), 2, 5).shape
    (2, 5)
    """
    batch, num_tokens = check.draw("draw_permutation", key, batch=batch, num_tokens=num_tokens)
    ordered = jnp.tile(jnp.arange(num_tokens), (batch, 1))
    return jax.random.permutation(key, ordered, axis=1, independent=True)


def normalize(metric: Array) -> Array:
    """`metric / ||metric||` per token `(B,N,D)`, in working precision; zero where there is no direction."""
    check.sample("normalize", "metric", metric, "N D")
    return _normalize(metric)


@jax.jit
def _normalize(metric: Array) -> Array:
    m = jnp.asarray(metric)
    m = m.astype(working_dtype(m))
    # squares stay in range: the largest vectors are made smaller and the smallest larger, by a power of two, which
    # rounds nothing
    kind = np.finfo(m.dtype)
    far = 2.0 ** (kind.maxexp // 3)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(m), axis=-1, keepdims=True, initial=0))
    smallest = _enlarged(m, 2.0 ** (3 * kind.maxexp // 4))
    m = jnp.where(largest > far, m / far**2, jnp.where(largest < 1 / far, smallest, m))
    m = jnp.where(jnp.isfinite(largest), m, 0)
    squared = jnp.sum(jnp.square(m), axis=-1, keepdims=True)
    return m / jnp.sqrt(jnp.where(squared == 0, 1, squared))


def _enlarged(m: Array, factor: float) -> Array:
    """`m * factor`, a power of two; XLA takes subnormal numbers for 0, so they are read from their bits."""
    kind = np.finfo(m.dtype)
    bits = jax.lax.bitcast_convert_type(m, jnp.int32 if kind.bits == 32 else jnp.int64)
    mantissa = bits & ((1 << kind.nmant) - 1)
    subnormal = (bits & ((1 << (kind.bits - 1)) - 1)) == mantissa
    tiny = mantissa.astype(m.dtype) * (float(kind.smallest_subnormal) * factor)
    return jnp.where(subnormal, jnp.where(bits < 0, -tiny, tiny), m * factor)


def plan(
    metric: Array,
    *,
    r: int | None = None,
    protected: int = 0,
    order: str = "grouped",
    matching: str = "bipartite",
    k: int | None = None,
    mask: Array | None = None,
    permutation: Array | None = None,
) -> PartitionPlan:
    """Decide which tokens merge; the semantics are those of `tokenmerge.spec.tome.plan`, for every sample.

    Args:
        metric: `(B,N,D)` floating point, what similarity is measured on.
        r: tokens to remove, >= 0; really removed are `max(0, min(r, (N - protected) // 2))`, with "random"
            `max(0, min(r, N - protected - 1))`. Not read by "kth".
        protected: leading tokens that never merge and never receive; at most N.
        order: "grouped", "positional" or "score"; bipartite only.
        matching: "bipartite", "kth" or "random".
        k: length of a run, with "kth" only.
        mask: `(B,N)` bool, True where a token is real.
        permutation: `(B,N)` integer, with "random" only.

    Returns:
        PartitionPlan with `P = N - r_eff` slots ("kth": one per run, and the tail).

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range.

    >>> metric = jnp.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    >>> plan(metric, r=1).assignment.tolist()
    [[1, 1, 0, 2]]
    """
    r, protected, k = arguments.check_tome(r, protected, order, matching, k)
    check.tome(metric, mask, permutation, matching, protected)

    metric = jax.lax.stop_gradient(metric)
    r, k = r or 0, k or 1  # only one of the two is used
    return _plan(metric, mask, permutation, r=r, protected=protected, order=order, matching=matching, k=k)


@partial(jax.jit, static_argnames=("r", "protected", "order", "matching", "k"))
def _plan(
    metric: Array,
    mask: Array | None,
    permutation: Array | None,
    r: int,
    protected: int,
    order: str,
    matching: str,
    k: int,
) -> PartitionPlan:
    n = metric.shape[1]
    if mask is None and matching == "bipartite":
        return PartitionPlan(_unpadded(_normalize(metric), r, protected, order), n - tokens_removed(n, r, protected))
    real = ones(metric, np.dtype(bool)) if mask is None else mask
    rank = jnp.cumsum(real, axis=1, dtype=int) - 1  # position among the real tokens
    count = jnp.sum(real, axis=1, keepdims=True, dtype=int)
    m = _normalize(metric)
    if permutation is not None:
        assignment, used = _random(m, permutation, real, rank, count, r, protected)
    else:
        if mask is not None:
            m = jnp.take_along_axis(m, true_first(mask)[:, :, None], axis=1)
        if matching == "kth":
            assignment, used = _kth(m, count, k, protected)
        else:
            assignment, used = _bipartite(m, count, r, protected, order)
        if mask is not None:
            assignment = jnp.where(mask, jnp.take_along_axis(assignment, jnp.maximum(rank, 0), axis=1), -1)

    if mask is None:
        width = kth_tokens_out(n, k, protected) if matching == "kth" else n - tokens_removed(n, r, protected, matching)
        return PartitionPlan(assignment, width)
    width = kth_width(n, k, protected) if matching == "kth" else n - tokens_removed(n, r, protected, matching)
    return PartitionPlan(assignment, width, jnp.arange(width)[None] < used)


def _unpadded(m: Array, r: int, protected: int, order: str) -> Array:
    """Slots `(B,N)` of tokens that are all real: what `_bipartite` counts is known here, and need not be compiled."""
    n = m.shape[1]
    removed = tokens_removed(n, r, protected)
    if removed == 0:
        return repeat(jnp.arange(n), m)
    positions_a, positions_b = np.arange(0, n, 2), np.arange(1, n, 2)
    first_a, first_b = (protected + 1) // 2, protected // 2  # of those that may merge
    best, target = nearest(m[:, 0::2], m[:, 1::2], jnp.asarray(positions_b >= protected)[None])
    place = places(jnp.where(jnp.asarray(positions_a >= protected)[None], best, -jnp.inf))
    merged = place < removed
    earlier = before(merged)
    if order == "positional":
        slots_b = jnp.asarray(positions_b)[None] - (earlier + merged)[:, : len(positions_b)]
        slots_a = jnp.where(
            merged, jnp.take_along_axis(slots_b, target, axis=1), jnp.asarray(positions_a)[None] - earlier
        )
        return _interleave(slots_a, slots_b)
    nth = place - removed if order == "score" else np.arange(len(positions_a))[None] - first_a - earlier
    first = protected + len(positions_a) - first_a - removed - first_b  # slot of the first b, were none protected
    slots_a = jnp.where(merged, first + target, protected + nth)
    slots_a = jnp.where(jnp.asarray(positions_a < protected)[None], positions_a[None], slots_a)
    known = np.where(positions_b < protected, positions_b, first + np.arange(len(positions_b)))
    return _interleave(slots_a, repeat(jnp.asarray(known), m))


def _bipartite(m: Array, count: Array, r: int, protected: int, order: str) -> tuple[Array, Array]:
    """Slots `(B,N)` of tokens whose first `count` are real, and how many slots are used."""
    n = m.shape[1]
    position = repeat(jnp.arange(n), m)
    if tokens_removed(n, r, protected) == 0:
        return position, count
    removed = jnp.clip((count - protected) // 2, 0, min(r, n))
    positions_a, positions_b = position[:, 0::2], position[:, 1::2]
    mergeable_a = (positions_a >= protected) & (positions_a < count)
    mergeable_b = (positions_b >= protected) & (positions_b < count)
    best, target = nearest(m[:, 0::2], m[:, 1::2], mergeable_b)
    best = jnp.where(mergeable_a, best, -jnp.inf)
    place = places(best)
    merged = place < removed

    if order == "positional":
        slots = jnp.cumsum(_interleave(~merged, jnp.ones_like(mergeable_b)), axis=1, dtype=int) - 1
        slots_a, slots_b = slots[:, 0::2], slots[:, 1::2]
    else:
        unmerged = mergeable_a & ~merged
        if order == "score":  # place of each a in the ranking
            nth_unmerged = place - removed
        else:
            nth_unmerged = jnp.cumsum(unmerged, axis=1, dtype=int) - 1
        nth_b = jnp.sum(unmerged, axis=1, keepdims=True, dtype=int) + jnp.cumsum(mergeable_b, axis=1, dtype=int) - 1
        slots_a = jnp.where(positions_a < protected, positions_a, protected + nth_unmerged)
        slots_b = jnp.where(positions_b < protected, positions_b, protected + nth_b)
    slots_a = jnp.where(merged, jnp.take_along_axis(slots_b, target, axis=1), slots_a)
    return jnp.where(removed == 0, position, _interleave(slots_a, slots_b)), count - removed


def _interleave(a: Array, b: Array) -> Array:
    """`(B,N)`: `a` at the even positions, `b` at the odd ones."""
    odd = a.shape[1] - b.shape[1]  # 1 if the last token is at an even position
    none = jnp.zeros((), a.dtype)
    evens = jax.lax.pad(a, none, ((0, 0, 0), (0, 1 - odd, 1)))
    return evens | jax.lax.pad(b.astype(a.dtype), none, ((0, 0, 0), (1, odd, 1)))


def _kth(m: Array, count: Array, k: int, protected: int) -> tuple[Array, Array]:
    """As `_bipartite`, for runs of `k`; a run that is not full of real tokens belongs to the tail."""
    n = m.shape[1]
    position = repeat(jnp.arange(n), m)
    runs = (n - protected) // k
    if runs == 0:
        return position, count
    full_runs = jnp.maximum(count - protected, 0) // k
    place = position - protected
    run = place // k
    in_run = m[:, protected : protected + runs * k]
    target = nearest(in_run, in_run[:, k - 1 :: k], jnp.arange(runs)[None, :] < full_runs)[1]
    most_similar = jnp.pad(target, ((0, 0), (protected, n - protected - runs * k)))

    slots = protected + jnp.where(place % k == k - 1, run, most_similar)  # the last token of a run is kept
    slots = jnp.where(run < full_runs, slots, protected + full_runs + place - full_runs * k)
    slots = jnp.where(place < 0, position, slots)
    return slots, count - full_runs * (k - 1)


def _random(
    m: Array, permutation: Array, real: Array, rank: Array, count: Array, r: int, protected: int
) -> tuple[Array, Array]:
    """Assignment `(B,N)` and slots used, straight in the padded positions."""
    n = m.shape[1]
    most_removed = tokens_removed(n, r, protected, "random")
    if most_removed == 0:
        return jnp.where(real, rank, -1), count
    removed = jnp.clip(count - protected - 1, 0, min(r, n))
    permutation = jnp.clip(jnp.asarray(permutation).astype(int), 0, max(n - 1, 0))
    shuffled_in = jnp.take_along_axis(real & (rank >= protected), permutation, axis=1)
    shuffled = jnp.take_along_axis(permutation, true_first(shuffled_in), axis=1)
    column, remaining = jnp.arange(n)[None], jnp.maximum(count - protected, 0)
    m = jnp.take_along_axis(m, shuffled[:, :, None], axis=1)
    target = nearest(m[:, :most_removed], m, (column >= removed) & (column < remaining))[1]
    target = jnp.pad(target, ((0, 0), (0, n - most_removed)))
    column_of = jnp.where(column < removed, target, column)
    assignment = jnp.take_along_axis(protected + column_of - removed, inverse(shuffled), axis=1)
    assignment = jnp.where((rank < protected) | (removed == 0), rank, assignment)
    return jnp.where(real, assignment, -1), count - removed


class ToMe(Merger):
    """Bipartite soft matching as an object; options as in `tome.plan`, checked when it is made.

    >>> merger = ToMe(r=2, protected=1)
    >>> merger(jax.random.normal(jax.random.key(0), (1, 9, 4))).tokens.shape
    (1, 7, 4)
    """

    NAME = "tome"
    FUNCTION = staticmethod(plan)

    def __init__(
        self,
        r: int | None = None,
        protected: int = 0,
        order: str = "grouped",
        matching: str = "bipartite",
        k: int | None = None,
    ) -> None:
        arguments.check_tome(r, protected, order, matching, k)
        self.r, self.protected, self.order, self.matching, self.k = r, protected, order, matching, k

    def plan(self, metric: Array, *, mask: Array | None = None, permutation: Array | None = None) -> PartitionPlan:
        """The plan of `metric (B,N,D)`, see `plan` of this module."""
        return plan(
            metric,
            r=self.r,
            protected=self.protected,
            order=self.order,
            matching=self.matching,
            k=self.k,
            mask=mask,
            permutation=permutation,
        )

    def __call__(
        self,
        x: Array,
        *,
        metric: Array | None = None,
        size: Array | None = None,
        mask: Array | None = None,
        permutation: Array | None = None,
    ) -> Merged:
        """Merge `x (B,N,C)` by the similarity of `metric (B,N,D)`, or of `x` itself."""
        check.tokens("tome", x, size, ("metric", metric, "N D"))
        made = self.plan(x if metric is None else metric, mask=mask, permutation=permutation)
        size = ones(x, working_dtype(x)) if size is None else size
        return Merged(made.merge(x, size), made.merge_size(size), made.mask, made)
