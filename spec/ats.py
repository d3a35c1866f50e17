"""ATS: adaptive token sampling (arXiv 2111.15667, section 3; docs/ats.md).

A token's score is how much the class token attends to it, times the length of its value. Sample points on the running
sum of the scores choose tokens; how many different ones are chosen depends on the image.

Released code: adaptivetokensampling/ATS at 9271257.

Rules:
    ATS-1: Score "per_head" is sum_h attn[h,0,j] * ||value[h,j]||.
    ATS-2: Score "concat" is (sum_h attn[h,0,j]) * ||concat_h value[h,j]||.
    ATS-3: A row of zero scores counts as uniform over the real tokens.
    ATS-4: The cumulated share runs in token order, and the sample points are (2k - 1) / (2K) or those given.
    ATS-5: A sample point chooses the token whose cumulated share is nearest; ties go to the lower index; a token of
        score 0 is never chosen.
    ATS-6: Sampling "gumbel" takes argmax_j(log(score_j / (sum score + 1e-6) + 1e-6) + noise[k,j]) for every k.
    ATS-7: A masked token scores 0 and is never chosen.
    ATS-8: The class token comes first, then every chosen token once, ascending, then padding (index 0, mask False),
        in 1 + min(K, N - 1) slots.
    ATS-9: Only the class token's row of the attention matters.
    ATS-10: Sampling "released" sorts the real tokens by ascending score, ties to the lower index, and scales their
        running sum to go from 0 to 1; each of K points, evenly spaced from its smallest positive entry to 1 (a single
        one is 1), chooses the token whose entry is nearest, ties to the one that comes first in the sorting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenmerge.spec.plan import SelectionPlan
from tokenmerge.spec.precision import working_dtype
from tokenmerge.spec.shared.arguments import check_ats, check_choice, check_integer
from tokenmerge.spec.shared.calls import Calls
from tokenmerge.spec.shared.constants import GUMBEL_FLOOR
from tokenmerge.spec.shared.description import (
    REQUIRED,
    Description,
    Merging,
    Move,
    check_around_option,
    integers,
    one_or_many,
)

if TYPE_CHECKING:
    from tokenmerge.spec.shared.vit_config import ViTConfig
    from tokenmerge.spec.shared.vit_steps import Step

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray, batched=False)


def scores(attn: Array, value: Array, *, score: str = "per_head", mask: Array | None = None) -> Array:
    """Significance of the tokens 1..N-1.

    "per_head" (the paper): `score_j = sum_h attn[h,0,j] * ||value[h,j]||`.
    "concat" (the released code): `score_j = (sum_h attn[h,0,j]) * ||concat_h value[h,j]||`.

    Args:
        attn: `(H,N,N)` after softmax, or the class row alone `(H,N)`.
        value: `(H,N,d)`.
        score: "per_head" or "concat".
        mask: `(N,)` bool; a masked token scores 0.

    Returns:
        `(N-1,)`, float32 at least.

    >>> attn, value = np.array([[0.2, 0.5, 0.3]]), np.array([[[9.0], [2.0], [-1.0]]])
    >>> scores(attn, value)
    array([1. , 0.3])
    """
    check.ats_scores(attn, value, score, mask)
    work = working_dtype(attn.dtype, value.dtype)
    row = (attn[:, 0, :] if attn.ndim == 3 else attn).astype(work)[:, 1:]
    length_squared = (value.astype(work) ** 2).sum(axis=2)[:, 1:]
    if score == "per_head":
        significance = (row * np.sqrt(length_squared)).sum(axis=0)
    else:
        significance = row.sum(axis=0) * np.sqrt(length_squared.sum(axis=0))
    return significance if mask is None else np.where(mask[1:], significance, 0)


def plan(
    attn: Array,
    value: Array,
    *,
    max_tokens: int,
    score: str = "per_head",
    sampling: str = "inverse_transform",
    mask: Array | None = None,
    uniforms: Array | None = None,
    noise: Array | None = None,
) -> SelectionPlan:
    """Decide which tokens stay.

    "inverse_transform": `cdf` is the running sum of `score / sum(score)` in token order; each sample point
    `u_k = (2k-1)/(2K)` chooses the token whose `cdf` is nearest. Tokens with score 0 are never chosen.
    "gumbel": `argmax_j(log(score_j / (sum(score) + 1e-6) + 1e-6) + noise[k,j])` for every `k`.
    "released" (the released code): the real tokens by ascending score; `c` is the running sum of `score / sum(score)`
    in that order, `c = (c - min c) / (max c - min c)`; `K` points evenly spaced from the smallest `c > 0` to 1 choose
    the token whose `c` is nearest. The lowest-scored token is never chosen, unless it is the only one.

    Args:
        attn: `(H,N,N)` after softmax, or the class row alone `(H,N)`. Token 0 is the class token.
        value: `(H,N,d)`.
        max_tokens: K >= 1, the class token not counted.
        score: "per_head" or "concat", see `scores`.
        sampling: "inverse_transform", "gumbel" or "released".
        mask: `(N,)` bool, True where a token is real; masked tokens score 0 and are never chosen.
        uniforms: `(K,)` in [0, 1], the sample points in place of `u_k`; with "inverse_transform" only.
        noise: `(K,N-1)`, standard Gumbel noise; with "gumbel" only, and there it must be given.

    Returns:
        SelectionPlan with `P = 1 + min(K, N-1)` slots: the class token, then every chosen token once, ascending, then
        padding with `mask` False.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range.

    A row of zero scores counts as uniform over the real tokens. Ties go to the lower index.

    >>> attn, value = np.array([[0.2, 0.5, 0.0, 0.3]]), np.ones((1, 4, 1))
    >>> chosen = plan(attn, value, max_tokens=3)
    >>> chosen.indices, chosen.mask
    (array([0, 1, 3, 0]), array([ True,  True,  True, False]))
    """
    max_tokens = check_ats(max_tokens, score, sampling)
    _, n, _ = check.ats(attn, value, mask, uniforms, noise, max_tokens, sampling)
    if n == 0:
        return SelectionPlan(np.zeros(0, int), np.zeros(0, bool), 0)
    others = n - 1

    significance = scores(attn, value, score=score, mask=mask)
    real = np.ones(others, bool) if mask is None else mask[1:]
    if noise is not None:
        chosen = _gumbel(significance, real, noise)
    elif sampling == "released":
        chosen = _released(significance, real, max_tokens)
    else:
        points = (2 * np.arange(1, max_tokens + 1) - 1) / (2 * max_tokens) if uniforms is None else uniforms
        chosen = _inverse_transform(significance, real, points.astype(significance.dtype))

    slots = 1 + min(max_tokens, others)
    kept = [0, *(1 + token for token in sorted(set(chosen)))][:slots]
    indices = np.array(kept + [0] * (slots - len(kept)), dtype=int)
    filled = np.arange(slots) < len(kept)
    if mask is not None:
        filled[:1] &= mask[:1]
    return SelectionPlan(indices, filled, n)


def _inverse_transform(significance: Array, real: Array, points: Array) -> list[int]:
    if significance.sum() == 0:
        significance = real.astype(significance.dtype)
    eligible = significance > 0
    if not eligible.any():
        return []
    cdf = np.cumsum(significance / significance.sum())
    distance = np.where(eligible, np.abs(cdf - points[:, None]), np.inf)
    return [int(row.argmin()) for row in distance]  # argmin takes the lowest of several nearest


def _gumbel(significance: Array, real: Array, noise: Array) -> list[int]:
    if not real.any():
        return []
    probability = significance / (significance.sum() + GUMBEL_FLOOR)
    perturbed = np.where(real, np.log(probability + GUMBEL_FLOOR) + noise.astype(significance.dtype), -np.inf)
    return [int(row.argmax()) for row in perturbed]


def _released(significance: Array, real: Array, max_tokens: int) -> list[int]:
    tokens = np.flatnonzero(real)
    if len(tokens) == 0:
        return []
    if significance.sum() == 0:
        significance = real.astype(significance.dtype)
    ranking = tokens[np.argsort(significance[tokens], kind="stable")]
    c = np.cumsum(significance[ranking] / significance.sum())
    c = c - c[0]
    first, last = c[c > 0].min(initial=c[-1]), c[-1]
    # Points and entries are compared without the two divisions, by max c - min c and by K - 1: where scores are exact,
    # so is this, and ties are ties.
    steps, whole = (np.arange(max_tokens), max_tokens - 1) if max_tokens > 1 else (np.ones(1, int), 1)
    distance = np.abs(whole * (c - first) - steps[:, None] * (last - first))
    return [int(ranking[row.argmin()]) for row in distance.astype(c.dtype)]


# In a network


@dataclass(frozen=True)
class ATSMerging(Merging):
    """Adaptive token sampling inside attention, scored from the class row (arXiv 2111.15667).

    Attributes:
        max_tokens: most tokens that a block keeps, class, distillation and register tokens not counted: one number for
            every block it is meant for, or one each for the first, second, ... of them; the others sample nothing then.
            A block that has no more than that keeps all.
        score: "per_head" or "concat", see `tokenmerge.spec.ats.plan`.
        around: None: tokens are chosen for good.
    """

    max_tokens: int | tuple[int, ...]
    score: str = "per_head"
    around: None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.max_tokens, Iterable) and not isinstance(self.max_tokens, (str, bytes, dict, np.ndarray)):
            object.__setattr__(self, "max_tokens", tuple(self.max_tokens))
        for budget in self.max_tokens if isinstance(self.max_tokens, tuple) else (self.max_tokens,):
            check_integer("ATSMerging", "max_tokens", budget, minimum=1)
        check_choice("ATSMerging", "score", self.score, ("per_head", "concat"))
        check_around_option("ATSMerging", self.around)
        self._plain()

    def spread(self, config: ViTConfig, blocks: list[int], whole: bool) -> Iterator[tuple[int, int]]:
        if not config.class_token:
            raise ValueError("ViTConfig: `class_token` must be True with ATSMerging, whose scores are its, got False")
        budgets = self.max_tokens if isinstance(self.max_tokens, tuple) else (self.max_tokens,) * len(blocks)
        if len(budgets) > len(blocks):
            raise ValueError(
                f"ATSMerging: `max_tokens` must have at most {len(blocks)} entries, one per block, got {len(budgets)}"
            )
        yield from zip(blocks, budgets, strict=False)

    def move(self, amount: int, tokens: int, prefix: int) -> Move:
        return Move(prefix + min(amount, tokens - prefix), (("max_tokens", amount), ("score", self.score)))


def _multiply_adds(step: Step, config: ViTConfig) -> int:
    """The class row, in every head."""
    return step.tokens_in * config.dim


DESCRIPTION = Description(
    name="ats",
    title="ATS",
    rules="ATS",
    options={"max_tokens": REQUIRED, "score": "per_head", "sampling": "inverse_transform"},
    check=check_ats,
    inputs={"attn": "H N", "value": "H N d"},
    decides=True,
    place="attention",
    merging=ATSMerging,
    knob="max_tokens",
    read=lambda text: one_or_many(integers(text)),
    symbol="K",
    hint="most tokens of a block, or one number each for the first blocks",
    multiply_adds=_multiply_adds,
    plan=plan,
    sizes="kept",
    pads=True,
)
ATSMerging.DESCRIPTION = DESCRIPTION
