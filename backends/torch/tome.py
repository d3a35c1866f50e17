"""ToMe, vectorized over the batch (docs/tome.md).

With a mask the real tokens are moved to the front by one gather, matched there, and the plan is moved back; without one
nothing is moved. Nothing here waits for the device: shapes depend on shapes alone.
"""

from __future__ import annotations

import torch

from tokenmerge.backends.torch import exported, kernels, small
from tokenmerge.backends.torch.check import check
from tokenmerge.backends.torch.constants import grouped, sides
from tokenmerge.backends.torch.gathers import gather_rows, within
from tokenmerge.backends.torch.matching import best_pairs, nearest
from tokenmerge.backends.torch.merger import Merger
from tokenmerge.backends.torch.plan import PartitionPlan
from tokenmerge.backends.torch.precision import exporting, reads_at_once, working_dtype
from tokenmerge.backends.torch.ties import descending, inverse, true_first
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.merged import Merged
from tokenmerge.spec.shared.schedule import kth_tokens_out, kth_width, tokens_removed

Tensor = torch.Tensor

SMALL, LARGE = 2.0**-40, 2.0**50  # entries whose squares add up in float32; others are scaled first


def draw_permutation(
    generator: torch.Generator | None, batch: int, num_tokens: int, device: torch.device | str | None = None
) -> Tensor:
    """Random permutations `(B,N)` for `matching="random"`; the generator must live on the device.

    >>> draw_permutation(torch.Generator(), 2, 5).shape
    torch.Size([2, 5])
    """
    batch, num_tokens = check.draw("draw_permutation", generator, batch=batch, num_tokens=num_tokens)
    return torch.rand((batch, num_tokens), generator=generator, device=device).argsort(dim=1)


def normalize(metric: Tensor) -> Tensor:
    """`metric / ||metric||` per token `(B,N,D)`, in working precision; zero where there is no direction."""
    check.sample("normalize", "metric", metric, "N D")
    return _normalize(metric)


def _normalize(metric: Tensor) -> Tensor:
    """`normalize` of a metric that is looked at already."""
    work = working_dtype(metric)
    m = (metric if metric.dtype == work else metric.to(work)).contiguous()
    if m.numel() == 0:
        return m
    if reads_at_once(m):
        norm = torch.linalg.vector_norm(m, dim=-1, keepdim=True)
        lengths = norm.numpy()
        if lengths.min() >= SMALL * m.shape[-1] ** 0.5 and lengths.max() <= LARGE:
            return m * norm.reciprocal()
    elif exporting():
        return exported.normalize(m)
    # neither |m| nor the infinity norm: both take longer
    largest = torch.maximum(m.amax(dim=-1, keepdim=True), -m.amin(dim=-1, keepdim=True))
    ordinary = (largest >= SMALL) & (largest <= LARGE)
    m = m / torch.where(ordinary, 1, torch.where(largest < torch.inf, largest, torch.nan))
    m = m * torch.linalg.vector_norm(m, dim=-1, keepdim=True).reciprocal()
    return m.nan_to_num(nan=0.0)  # nothing else makes a NaN than a vector without a direction; faster than a choice


def plan(
    metric: Tensor,
    *,
    r: int | None = None,
    protected: int = 0,
    order: str = "grouped",
    matching: str = "bipartite",
    k: int | None = None,
    mask: Tensor | None = None,
    permutation: Tensor | None = None,
) -> PartitionPlan:
    """Decide which tokens merge; the semantics are those of `tokenmerge.spec.tome.plan`, for every sample.

    Args:
        metric: `(B,N,D)` floating point, what similarity is measured on; it gets no gradient.
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

    >>> metric = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    >>> plan(metric, r=1).assignment
    tensor([[1, 1, 0, 2]])
    """
    r, protected, k = arguments.check_tome(r, protected, order, matching, k)
    n, _ = check.tome(metric, mask, permutation, matching, protected)

    r, k = r or 0, k or 1  # only one of the two is used
    m = metric.detach()
    by_kernels = kernels.usable(m)
    if mask is None and matching == "bipartite" and order == "grouped" and not by_kernels and small.takes(m):
        removed = tokens_removed(n, r, protected)
        if removed:
            return PartitionPlan.trusted(small.grouped(_normalize(m), protected, removed), n - removed)
    m = m if by_kernels else _normalize(m)  # the kernels normalize what they read
    count = None if mask is None else mask.sum(dim=1, keepdim=True)
    if permutation is not None:
        assignment, used = _random(m, permutation, mask, count, r, protected)
    else:
        if mask is not None:
            m = gather_rows(m, true_first(mask))
        if matching == "kth":
            assignment, used = _kth(m, count, k, protected)
        else:
            assignment, used = _bipartite(m, count, r, protected, order, by_kernels)
        if mask is not None:
            assignment = torch.where(mask, assignment.gather(1, _rank(mask).clamp(min=0)), -1)

    if used is None:
        width = kth_tokens_out(n, k, protected) if matching == "kth" else n - tokens_removed(n, r, protected, matching)
        return PartitionPlan.trusted(assignment, width)
    width = kth_width(n, k, protected) if matching == "kth" else n - tokens_removed(n, r, protected, matching)
    return PartitionPlan.trusted(assignment, width, torch.arange(width, device=m.device) < used)


def _rank(real: Tensor) -> Tensor:
    """Each real token's position among the real ones; the others have that of the real one before them."""
    return torch.cumsum(real, dim=1) - 1


def _bipartite(
    m: Tensor, count: Tensor | None, r: int, protected: int, order: str, by_kernels: bool
) -> tuple[Tensor, Tensor | None]:
    """Slots `(B,N)` of tokens whose first `count` are real, and how many slots are used; None where all are."""
    b, n, _ = m.shape
    most_removed = tokens_removed(n, r, protected)
    if most_removed == 0:
        return torch.arange(n, device=m.device).repeat(b, 1), count
    if by_kernels:
        return kernels.bipartite(m, count, r, protected, order)
    set_a, set_b = sides(n, protected)
    if exporting():
        return exported.bipartite(m, most_removed, (set_a, set_b), protected, order, count)
    mergeable = None
    if count is not None:
        position = torch.arange(n, device=m.device)
        mergeable = position[set_a] < count, position[set_b] < count
    sources, target, best = best_pairs(m[:, set_a], m[:, set_b], most_removed, mergeable)
    if count is None and order == "grouped":
        return _grouped(sources, target, n, protected), None
    removed: Tensor | int = most_removed
    chosen = None
    kept = torch.ones_like(best, dtype=torch.int64)
    if count is None or mergeable is None:
        kept = kept.scatter(1, sources, 0)
    else:
        removed = ((count - protected) // 2).clamp(0, most_removed)
        chosen = torch.arange(most_removed, device=m.device) < removed
        kept = kept.scatter(1, sources, (~chosen).long()) * mergeable[0]

    slots = sources.new_empty((b, n))
    if order == "positional":
        survives = torch.ones_like(slots)
        survives[:, set_a] = kept if mergeable is None else kept + ~mergeable[0]
        slots = torch.cumsum(survives, dim=1) - 1
        slots_a = slots[:, set_a]
        into = slots[:, set_b].gather(1, target)
    else:
        in_front = kept.shape[1] - removed if mergeable is None else kept.sum(dim=1, keepdim=True)
        if order == "score":
            slots_a = inverse(descending(best)) + (protected - removed)
        else:
            slots_a = torch.cumsum(kept, dim=1) + (protected - 1)
        into = target + (protected + in_front)
        if protected:
            slots[:, :protected] = torch.arange(protected, device=m.device)
        slots[:, set_b] = torch.arange(n - protected - kept.shape[1], device=m.device) + (protected + in_front)
    if chosen is not None:
        into = torch.where(chosen, into, slots_a.gather(1, sources))
    slots[:, set_a] = slots_a.scatter(1, sources, into)
    if count is None:
        return slots, None
    too_few = count < protected + 2
    return torch.where(too_few, torch.arange(n, device=m.device), slots), count - removed


def _grouped(sources: Tensor, target: Tensor, n: int, protected: int) -> Tensor:
    """`_bipartite` in grouped order, where all tokens are real: protected ones, what is left of set A, set B."""
    b, removed = sources.shape
    ones, slots = grouped(n, protected, removed, sources.device)
    slots_a = ones.expand(b, -1).scatter(1, sources, 0).cumsum(1)
    if protected != 1:
        slots_a = slots_a + (protected - 1)
    into = target + (protected + ones.shape[1] - removed)
    slots = sources.new_empty((b, n)).copy_(slots)  # what is mapped by `torch.vmap` can be written to a mapped one only
    slots[:, sides(n, protected)[0]] = slots_a.scatter(1, sources, into)
    return slots


def _kth(m: Tensor, count: Tensor | None, k: int, protected: int) -> tuple[Tensor, Tensor | None]:
    """As `_bipartite`, for runs of `k`; a run that is not full of real tokens belongs to the tail."""
    b, n, d = m.shape
    position = torch.arange(n, device=m.device)
    runs = (n - protected) // k
    if runs == 0 or k == 1:  # no run has anybody to merge
        return position.repeat(b, 1), count
    in_run = m[:, protected : protected + runs * k].reshape(b, runs, k, d)
    kept, sources = in_run[:, :, -1], in_run[:, :, :-1].reshape(b, runs * (k - 1), d)
    run = torch.arange(runs, device=m.device)
    full_runs: Tensor | int = runs
    full = None
    if count is not None:
        full_runs = (count - protected).clamp(min=0) // k
        full = full_runs[:, 0]
    most_similar = nearest(sources, kept, end=full)[1].reshape(b, runs, k - 1)
    in_slot = torch.cat([most_similar, run[:, None].expand(b, runs, 1)], dim=2).reshape(b, runs * k)

    in_tail = (position - full_runs * (k - 1)).expand(b, n)
    end = protected + runs * k
    in_run_or_tail = torch.where(position[: runs * k] // k < full_runs, protected + in_slot, in_tail[:, protected:end])
    slots = torch.cat([position[:protected].expand(b, protected), in_run_or_tail, in_tail[:, end:]], dim=1)
    return slots, None if count is None else count - full_runs * (k - 1)


def _random(
    m: Tensor, permutation: Tensor, mask: Tensor | None, count: Tensor | None, r: int, protected: int
) -> tuple[Tensor, Tensor | None]:
    """Assignment `(B,N)` and slots used, straight in the padded positions."""
    b, n, _ = m.shape
    column = torch.arange(n, device=m.device)
    rank = column if mask is None else torch.where(mask, _rank(mask), -1)
    most_removed = tokens_removed(n, r, protected, "random")
    if most_removed == 0:
        return rank.expand(b, n).clone(), count
    removed: Tensor | int = most_removed
    remaining: Tensor | int = n - protected
    if count is not None:
        removed = (count - protected - 1).clamp(0, most_removed)
        remaining = (count - protected).clamp(min=0)
    permutation = within(permutation, n)
    shuffled_in = (rank >= protected).expand(b, n).gather(1, permutation)
    shuffled = permutation.gather(1, true_first(shuffled_in))
    m = gather_rows(m, shuffled)
    begin, end = (
        limit[:, 0] if isinstance(limit, Tensor) else column.new_full((b,), limit) for limit in (removed, remaining)
    )
    target = nearest(m[:, :most_removed], m, begin, end)[1]
    sources, others = column[:most_removed], column[most_removed:]
    merged_into = torch.where(sources < removed, target, sources)
    column_of = torch.cat([merged_into, others.expand(b, n - most_removed)], dim=1)
    assignment = torch.full_like(shuffled, -1).scatter(1, shuffled, protected + column_of - removed)
    keeps_place = rank < protected  # protected tokens, and padding, which has rank -1
    if count is None:
        return torch.where(keeps_place, rank, assignment), None
    too_few = count < protected + 2
    return torch.where(keeps_place | too_few, rank, assignment), count - removed


class ToMe(Merger):
    """Bipartite soft matching as a module; options as in `tome.plan`, checked when it is made.

    >>> merger = ToMe(r=2, protected=1)
    >>> merger(torch.randn(1, 9, 4)).tokens.shape
    torch.Size([1, 7, 4])
    """

    NAME = "tome"
    OPTIONS = ("r", "protected", "order", "matching", "k")

    def __init__(
        self,
        r: int | None = None,
        protected: int = 0,
        order: str = "grouped",
        matching: str = "bipartite",
        k: int | None = None,
    ) -> None:
        super().__init__()
        arguments.check_tome(r, protected, order, matching, k)
        self.r, self.protected, self.order, self.matching, self.k = r, protected, order, matching, k

    def plan(self, metric: Tensor, *, mask: Tensor | None = None, permutation: Tensor | None = None) -> PartitionPlan:
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

    def forward(
        self,
        x: Tensor,
        *,
        metric: Tensor | None = None,
        size: Tensor | None = None,
        mask: Tensor | None = None,
        permutation: Tensor | None = None,
    ) -> Merged:
        """Merge `x (B,N,C)` by the similarity of `metric (B,N,D)`, or of `x` itself."""
        check.tokens("tome", x, size, ("metric", metric, "N D"))
        made = self.plan(x if metric is None else metric, mask=mask, permutation=permutation)
        tokens, size = made.merge_checked(x, size, complete=mask is None)
        return Merged(tokens, size, made.mask, made)
