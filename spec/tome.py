"""ToMe: bipartite soft matching (arXiv 2210.09461, section 3; docs/tome.md).

Tokens at even positions (A) each look for their most similar token at an odd position (B); the `r` most similar pairs
are merged. The plan is a partition: the merged token is the size-weighted mean of its group.

Released code: facebookresearch/ToMe at af95e4b.

Rules:
    TOME-1: r_eff tokens are removed, max(0, min(r, (N - protected) // 2)) in bipartite matching; if it is 0 the plan
        is the identity.
    TOME-2: Similarity is the cosine; a vector without a direction (zero, or not finite) has similarity 0 with
        everything, and squares never leave the range of the dtype.
    TOME-3: Tokens at even positions look for a partner among the tokens at odd positions.
    TOME-4: The first `protected` tokens never merge, never receive, and come first in their original order.
    TOME-5: A token goes to its most similar partner; ties go to the lower position.
    TOME-6: The r_eff tokens with the most similar partners merge; ties go to the lower position.
    TOME-7: Order "grouped": unmerged even tokens by position, then odd tokens by position.
    TOME-8: Order "positional": every surviving token by position.
    TOME-9: Order "score": unmerged even tokens by descending similarity, ties to the lower position, then odd
        tokens by position.
    TOME-10: Matching "kth": the last token of each run of k is kept and receives the other k - 1 by similarity; the
        tail of n mod k tokens stays, at the end.
    TOME-11: Matching "random": the first r_eff = max(0, min(r, N - protected - 1)) tokens of the permutation go to
        the most similar of the others, which keep the permutation's order; ties go to the one that comes first there.
    TOME-12: In a padded batch the real tokens of a sample are treated as if they were alone; padding goes nowhere
        (-1) and the result is padded on the right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenmerge.spec.plan import PartitionPlan
from tokenmerge.spec.precision import working_dtype
from tokenmerge.spec.shared.arguments import check_choice, check_flag, check_tome
from tokenmerge.spec.shared.calls import Calls
from tokenmerge.spec.shared.description import (
    BRANCHES,
    Description,
    Merging,
    Move,
    check_around_option,
    check_prefix_option,
    integers,
    one_or_many,
    protected_tokens,
)
from tokenmerge.spec.shared.schedule import check_schedule, kth_width, merge_schedule, tokens_removed

if TYPE_CHECKING:
    from tokenmerge.spec.shared.vit_config import ViTConfig
    from tokenmerge.spec.shared.vit_steps import Step

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray, batched=False)


def normalize(metric: Array) -> Array:
    """`metric / ||metric||` per token, in the working precision.

    A vector without a direction (zero, or with an infinity or a NaN in it) becomes zero: similarity 0 with everything.
    Dividing by the largest entry first keeps the squares of very large and very small vectors in range.

    Args:
        metric: `(N,D)` floating point.

    >>> normalize(np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0]]))
    array([[0.6, 0.8],
           [0. , 0. ],
           [0. , 0. ]])
    """
    check.sample("normalize", "metric", metric, "N D")
    m = metric.astype(working_dtype(metric.dtype))
    largest = np.abs(m).max(axis=1, keepdims=True, initial=0)
    has_direction = np.isfinite(largest) & (largest > 0)
    m = np.divide(m, largest, out=np.zeros_like(m), where=has_direction)
    norm = np.sqrt((m * m).sum(axis=1, keepdims=True))
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
    """Decide which tokens merge.

    Args:
        metric: `(N,D)` floating point, what similarity is measured on; in a ViT block the keys averaged over heads.
        r: tokens to remove, >= 0; really removed are `r_eff = max(0, min(r, (N - protected) // 2))`, with "random"
            `max(0, min(r, N - protected - 1))`. Not read by "kth".
        protected: leading tokens that never merge and never receive; at most N.
        order: output order of bipartite matching: "grouped" (protected tokens, unmerged A, B, each ascending),
            "positional" (every surviving token ascending) or "score" (as grouped, A by descending similarity).
        matching: "bipartite"; "kth" (the last token of each run of `k` is kept and receives the other k-1; the tail of
            `n mod k` tokens stays, at the end); "random" (the first r_eff tokens of `permutation` merge, the others
            receive and keep the permutation's order).
        k: length of a run, >= 1, with "kth" only.
        mask: `(N,)` bool, True where a token is real. The real tokens are treated as if they were alone and the result
            is padded on the right; padding goes nowhere (-1).
        permutation: `(N,)` integer, with "random" only; protected and padded positions in it are passed over.

    Returns:
        PartitionPlan with `P = N - r_eff` slots; "kth" has `protected + n // k + n mod k` of `n = N - protected`.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range.

    Ties go to the lower index, in every arg-max and in the sort.

    >>> metric = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> plan(metric, r=1).assignment
    array([1, 1, 0, 2])
    """
    r, protected, k = check_tome(r, protected, order, matching, k)
    n, _ = check.tome(metric, mask, permutation, matching, protected)

    r, k = r or 0, k or 1  # only one of the two is used
    real = np.arange(n) if mask is None else np.flatnonzero(mask)
    m = normalize(metric[real])
    if matching == "kth":
        groups = _kth(m, k, protected)
    elif permutation is None:
        groups = _bipartite(m, tokens_removed(len(real), r, protected), protected, order)
    else:
        place = {token: rank for rank, token in enumerate(real)}
        among_real = np.array([place[token] for token in permutation if token in place], int)
        groups = _random(m, tokens_removed(len(real), r, protected, matching), protected, among_real)
    if mask is None:
        return PartitionPlan(groups, _slots_used(groups))

    assignment = np.full(n, -1)
    assignment[real] = groups
    width = kth_width(n, k, protected) if matching == "kth" else n - tokens_removed(n, r, protected, matching)
    return PartitionPlan(assignment, width, np.arange(width) < _slots_used(groups))


def _bipartite(m: Array, r: int, protected: int, order: str) -> Array:
    n = len(m)
    if r == 0:
        return np.arange(n)
    a, b = np.arange(0, n, 2), np.arange(1, n, 2)
    similarity = m[a] @ m[b].T
    similarity[a < protected, :] = -np.inf
    similarity[:, b < protected] = -np.inf
    best = similarity.max(axis=1)
    dst = b[similarity.argmax(axis=1)]  # argmax takes the lowest b that reaches the maximum
    ranking = np.argsort(-best, kind="stable")  # descending, ties to the lower position
    merged, unmerged = ranking[:r], a[ranking[r:]]

    first = list(range(protected))
    free_a, free_b = [p for p in unmerged if p >= protected], [p for p in b if p >= protected]
    if order == "grouped":
        survivors = first + sorted(free_a) + free_b
    elif order == "positional":
        survivors = first + sorted(free_a + free_b)
    else:
        survivors = first + free_a + free_b
    return _assign(n, survivors, sources=a[merged], targets=dst[merged])


def _kth(m: Array, k: int, protected: int) -> Array:
    n = len(m)
    ends = np.arange(protected + k - 1, n, k)  # the last token of each run
    first, tail = range(min(protected, n)), range(protected + len(ends) * k, n)
    sources = np.setdiff1d(np.arange(protected, protected + len(ends) * k), ends)
    return _assign(n, [*first, *ends, *tail], sources, _most_similar(m, sources, ends))


def _random(m: Array, r: int, protected: int, permutation: Array) -> Array:
    if r == 0:
        return np.arange(len(m))
    shuffled = permutation[permutation >= protected]
    sources, remaining = shuffled[:r], shuffled[r:]
    return _assign(len(m), [*range(protected), *remaining], sources, _most_similar(m, sources, remaining))


def _most_similar(m: Array, sources: Array, among: Array) -> Array:
    """For every source the most similar token of `among`; ties to the one that comes first there."""
    if len(sources) == 0:
        return sources
    return among[(m[sources] @ m[among].T).argmax(axis=1)]


def _assign(n: int, survivors: Sequence[int], sources: Array, targets: Array) -> Array:
    """The slot of every token: survivors in the given order, sources where their target is."""
    assignment = np.full(n, -1)
    assignment[np.array(survivors, dtype=int)] = np.arange(len(survivors))
    assignment[sources] = assignment[targets]
    return assignment


def _slots_used(groups: Array) -> int:
    return int(groups.max(initial=-1)) + 1


# In a network


@dataclass(frozen=True)
class ToMeMerging(Merging):
    """Bipartite soft matching between attention and MLP, on the keys averaged over heads (arXiv 2210.09461).

    Attributes:
        r: tokens to remove per block, a schedule as in `merge_schedule` over the blocks it is meant for.
        prop_attn: whether attention counts a token as often as it has patches, from the first of these blocks on; for
            weights that were trained with labels and without merging, and not for those of MAE off the shelf.
        order: output order, see `tokenmerge.spec.tome.plan`.
        protected: leading tokens that never merge; None for class, distillation and register tokens.
        around: None, where tokens merge for good; "mlp" or "block", where only that branch works on merged tokens and
            the stream keeps all of them, by the block's keys or by its input.
    """

    r: int | tuple[int, float] | list[int]
    prop_attn: bool = True
    order: str = "grouped"
    protected: int | None = None
    around: str | None = None

    def __hash__(self) -> int:
        return hash(repr(self))  # a schedule may be a list

    def __post_init__(self) -> None:
        check_schedule("ToMeMerging", self.r)
        check_choice("ToMeMerging", "order", self.order, ("grouped", "positional", "score"))
        check_flag("ToMeMerging", "prop_attn", self.prop_attn)
        check_prefix_option("ToMeMerging", self.protected)
        check_around_option("ToMeMerging", self.around, BRANCHES)
        self._plain()

    @property
    def proportional(self) -> bool:
        return self.prop_attn

    def spread(self, config: ViTConfig, blocks: list[int], whole: bool) -> Iterator[tuple[int, int]]:
        schedule = merge_schedule(self.r, max(len(blocks), 1))
        free = max(config.num_tokens - protected_tokens(self.protected, config.prefix_tokens, config.num_tokens), 0)
        if max(schedule) > free // 2:
            raise ValueError(
                f"ToMeMerging: `r` must be at most {free // 2}, half of the {free} tokens that may merge, "
                f"got {self.r!r}"
            )
        yield from zip(blocks, schedule, strict=False)

    def move(self, amount: int, tokens: int, prefix: int) -> Move:
        protected = protected_tokens(self.protected, prefix, tokens)
        options = (("r", amount), ("protected", protected), ("order", self.order))
        return Move(tokens - tokens_removed(tokens, amount, protected), options)


def _multiply_adds(step: Step, config: ViTConfig) -> int:
    """Similarities of every even with every odd token, on the mean of the heads' keys, or on the tokens."""
    width = config.dim if step.around == "block" else config.head_dim
    return -(-step.tokens_in // 2) * (step.tokens_in // 2) * width


DESCRIPTION = Description(
    name="tome",
    title="ToMe",
    rules="TOME",
    options={"r": None, "protected": 0, "order": "grouped", "matching": "bipartite", "k": None},
    check=check_tome,
    inputs={"metric": "N D"},
    decides=True,
    place="mlp",
    merging=ToMeMerging,
    knob="r",
    read=lambda text: one_or_many(integers(text)),
    symbol="r",
    hint="tokens to remove per block, or one number each",
    multiply_adds=_multiply_adds,
    plan=plan,
    around=BRANCHES,
)
ToMeMerging.DESCRIPTION = DESCRIPTION
