"""ToMe, vectorized over the batch (docs/tome.md).

With a mask the real tokens are moved to the front by one gather, matched there, and the plan is moved back; without one
nothing is moved.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.backends.numpy.check import check
from tokenmerge.backends.numpy.matching import nearest
from tokenmerge.backends.numpy.merger import Merger
from tokenmerge.backends.numpy.plan import PartitionPlan
from tokenmerge.backends.numpy.precision import working_dtype
from tokenmerge.backends.numpy.ties import descending, inverse, true_first
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.merged import Merged
from tokenmerge.spec.shared.schedule import kth_tokens_out, kth_width, tokens_removed

Array = np.ndarray[Any, Any]


def draw_permutation(rng: np.random.Generator, batch: int, num_tokens: int) -> Array:
    """Random permutations `(B,N)` for `matching="random"`.

    >>> draw_permutation(np.random.default_rng(0), 2, 5).shape
    (2, 5)
    """
    batch, num_tokens = check.draw("draw_permutation", rng, batch=batch, num_tokens=num_tokens)
    return rng.permuted(np.tile(np.arange(num_tokens), (batch, 1)), axis=1)


def normalize(metric: Array) -> Array:
    """`metric / ||metric||` per token `(B,N,D)`, in working precision; zero where there is no direction."""
    check.sample("normalize", "metric", metric, "N D")
    m = metric.astype(working_dtype(metric))
    largest = np.abs(m).max(axis=-1, keepdims=True, initial=0)
    has_direction = np.isfinite(largest) & (largest > 0)
    m = np.divide(m, largest, out=np.zeros_like(m), where=has_direction)  # keeps the squares in range
    norm = np.sqrt(np.einsum("bnd,bnd->bn", m, m))[:, :, None]
    return np.divide(m, norm, out=m, where=has_direction)


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

    >>> metric = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    >>> plan(metric, r=1).assignment
    array([[1, 1, 0, 2]])
    """
    r, protected, k = arguments.check_tome(r, protected, order, matching, k)
    n, _ = check.tome(metric, mask, permutation, matching, protected)

    r, k = r or 0, k or 1  # only one of the two is used
    real = np.ones(metric.shape[:2], bool) if mask is None else mask
    rank = np.cumsum(real, axis=1) - 1  # position among the real tokens
    count = real.sum(axis=1, keepdims=True)
    m = normalize(metric)
    if permutation is not None:
        assignment, used = _random(m, permutation, real, rank, count, r, protected)
    else:
        if mask is not None:
            m = np.take_along_axis(m, true_first(mask)[:, :, None], axis=1)
        if matching == "kth":
            slots, used = _kth(m, count, k, protected)
        else:
            slots, used = _bipartite(m, count, r, protected, order)
        assignment = np.where(real, np.take_along_axis(slots, np.maximum(rank, 0), axis=1), -1)

    if mask is None:
        width = kth_tokens_out(n, k, protected) if matching == "kth" else n - tokens_removed(n, r, protected, matching)
        return PartitionPlan.trusted(assignment, width)
    width = kth_width(n, k, protected) if matching == "kth" else n - tokens_removed(n, r, protected, matching)
    return PartitionPlan.trusted(assignment, width, np.arange(width) < used)


def _bipartite(m: Array, count: Array, r: int, protected: int, order: str) -> tuple[Array, Array]:
    """Slots `(B,N)` of tokens whose first `count` are real, and how many slots are used."""
    b, n, _ = m.shape
    position = np.broadcast_to(np.arange(n), (b, n))
    if tokens_removed(n, r, protected) == 0:
        return position, count
    removed = np.clip((count - protected) // 2, 0, r)
    positions_a, positions_b = np.arange(0, n, 2), np.arange(1, n, 2)
    mergeable_a = (positions_a >= protected) & (positions_a < count)
    mergeable_b = (positions_b >= protected) & (positions_b < count)
    best, target = nearest(m[:, 0::2], m[:, 1::2], mergeable_b)
    best[~mergeable_a] = -np.inf
    place = inverse(descending(best))  # place of each a in the ranking
    merged = place < removed

    if order == "positional":
        survives = np.ones((b, n), bool)
        survives[:, 0::2] = ~merged
        slots = np.cumsum(survives, axis=1) - 1
    else:
        unmerged_a = mergeable_a & ~merged
        slots = np.empty((b, n), np.intp)
        slots[:, 0::2] = protected + (place - removed if order == "score" else np.cumsum(unmerged_a, axis=1) - 1)
        slots[:, 1::2] = protected + unmerged_a.sum(axis=1, keepdims=True) + np.cumsum(mergeable_b, axis=1) - 1
        slots[:, :protected] = position[:, :protected]
    slots[:, 0::2] = np.where(merged, np.take_along_axis(slots[:, 1::2], target, axis=1), slots[:, 0::2])
    return np.where(removed == 0, position, slots), count - removed


def _kth(m: Array, count: Array, k: int, protected: int) -> tuple[Array, Array]:
    """As `_bipartite`, for runs of `k`; a run that is not full of real tokens belongs to the tail."""
    b, n, d = m.shape
    position = np.broadcast_to(np.arange(n), (b, n))
    runs = (n - protected) // k
    if runs == 0:
        return position, count
    full_runs = np.maximum(count - protected, 0) // k
    place = np.arange(n) - protected
    run = place // k
    in_run = m[:, protected : protected + runs * k].reshape(b, runs, k, d)
    kept, sources = in_run[:, :, -1], in_run[:, :, :-1].reshape(b, runs * (k - 1), d)
    most_similar = np.zeros((b, n), np.intp)
    is_source = (place >= 0) & (run < runs) & (place % k != k - 1)
    most_similar[:, is_source] = nearest(sources, kept, np.arange(runs) < full_runs)[1]

    slots = protected + np.where(is_source, most_similar, run)
    slots = np.where(run < full_runs, slots, protected + full_runs + place - full_runs * k)
    slots = np.where(place < 0, position, slots)
    return slots, count - full_runs * (k - 1)


def _random(
    m: Array, permutation: Array, real: Array, rank: Array, count: Array, r: int, protected: int
) -> tuple[Array, Array]:
    """Assignment `(B,N)` and slots used, straight in the padded positions."""
    n = m.shape[1]
    most_removed = tokens_removed(n, r, protected, "random")
    if most_removed == 0:
        return np.where(real, rank, -1), count
    removed = np.clip(count - protected - 1, 0, r)
    shuffled_in = np.take_along_axis(real & (rank >= protected), permutation, axis=1)
    shuffled = np.take_along_axis(permutation, true_first(shuffled_in), axis=1)
    column, remaining = np.arange(n), np.maximum(count - protected, 0)
    m = np.take_along_axis(m, shuffled[:, :, None], axis=1)
    target = nearest(m[:, :most_removed], m, (column >= removed) & (column < remaining))[1]
    column_of = np.broadcast_to(column, shuffled.shape).copy()
    column_of[:, :most_removed] = np.where(column[:most_removed] < removed, target, column[:most_removed])
    assignment = np.full(shuffled.shape, -1)
    np.put_along_axis(assignment, shuffled, protected + column_of - removed, axis=1)
    assignment = np.where((rank < protected) | (removed == 0), rank, assignment)
    return np.where(real, assignment, -1), count - removed


class ToMe(Merger):
    """Bipartite soft matching as an object; options as in `tome.plan`, checked when it is made.

    >>> merger = ToMe(r=2, protected=1)
    >>> merger(np.random.default_rng(0).standard_normal((1, 9, 4))).tokens.shape
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
        size = np.ones(x.shape[:2], working_dtype(x)) if size is None else size
        return Merged(made.merge(x, size), made.merge_size(size), made.mask, made)
