"""ATS, vectorized over the batch (docs/ats.md)."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch import exported
from tokenmerge.backends.torch.check import check
from tokenmerge.backends.torch.merger import Merger
from tokenmerge.backends.torch.plan import SelectionPlan
from tokenmerge.backends.torch.precision import exporting, safe_divide, working_dtype
from tokenmerge.backends.torch.ties import descending, first_max, true_first
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.constants import GUMBEL_FLOOR
from tokenmerge.spec.shared.merged import Merged

Tensor = torch.Tensor


def draw_uniforms(
    generator: torch.Generator | None, batch: int, max_tokens: int, device: torch.device | str | None = None
) -> Tensor:
    """Random sample points `(B,K)` in [0, 1) for inverse transform sampling; the generator must live on the device.

    >>> draw_uniforms(torch.Generator(), 2, 3).shape
    torch.Size([2, 3])
    """
    batch, max_tokens = check.draw("draw_uniforms", generator, batch=batch, max_tokens=max_tokens)
    return torch.rand((batch, max_tokens), generator=generator, dtype=torch.float32, device=device)


def draw_noise(
    generator: torch.Generator | None,
    batch: int,
    max_tokens: int,
    num_tokens: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard Gumbel noise `(B,K,N-1)` for `sampling="gumbel"`; the generator must live on the device.

    >>> draw_noise(torch.Generator(), 2, 3, 5).shape
    torch.Size([2, 3, 4])
    """
    batch, max_tokens, num_tokens = check.draw(
        "draw_noise",
        generator,
        batch=batch,
        max_tokens=max_tokens,
        num_tokens=num_tokens,
    )
    shape = (batch, max_tokens, max(num_tokens - 1, 0))
    # the logarithm of an exponential variable, which is never 0, where the textbook's -log(-log(u)) can meet u = 0
    return -torch.empty(shape, dtype=torch.float32, device=device).exponential_(generator=generator).log()


def scores(attn: Tensor, value: Tensor, *, score: str = "per_head", mask: Tensor | None = None) -> Tensor:
    """Significance `(B,N-1)` of the tokens after the class token, see `tokenmerge.spec.ats.scores`.

    Args:
        attn: `(B,H,N,N)` after softmax, or the class row alone `(B,H,N)`; value: `(B,H,N,d)`.
        score: "per_head" or "concat"; mask: `(B,N)` bool, masked tokens score 0.
    """
    check.ats_scores(attn, value, score, mask)
    significance = _significance(attn, value, score)[:, 1:]
    return significance if mask is None else torch.where(mask[:, 1:], significance, 0)


def _significance(attn: Tensor, value: Tensor, score: str) -> Tensor:
    """`scores` of all tokens `(B,N)`, the class token too."""
    work = working_dtype(attn, value)
    row, value = (attn[:, :, 0] if attn.ndim == 4 else attn).to(work), value.to(work)
    if score == "per_head":
        return (row * torch.linalg.vector_norm(value, dim=3)).sum(dim=1)
    return row.sum(dim=1) * torch.linalg.vector_norm(value, dim=(1, 3))


def plan(
    attn: Tensor,
    value: Tensor,
    *,
    max_tokens: int,
    score: str = "per_head",
    sampling: str = "inverse_transform",
    mask: Tensor | None = None,
    uniforms: Tensor | None = None,
    noise: Tensor | None = None,
) -> SelectionPlan:
    """Decide which tokens stay; the semantics are those of `tokenmerge.spec.ats.plan`, for every sample.

    Args:
        attn: `(B,H,N,N)` after softmax, or the class row alone `(B,H,N)`; token 0 is the class token. No gradient.
        value: `(B,H,N,d)`; no gradient.
        max_tokens: K >= 1, the class token not counted.
        score: "per_head" or "concat".
        sampling: "inverse_transform", "gumbel" or "released".
        mask: `(B,N)` bool, True where a token is real.
        uniforms: `(B,K)` sample points, with "inverse_transform" only; None for `(2k-1)/(2K)`.
        noise: `(B,K,N-1)` standard Gumbel noise, with "gumbel" only.

    Returns:
        SelectionPlan with `P = 1 + min(K, N-1)` slots: class token, chosen tokens ascending, padding.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range.

    >>> attn, value = torch.tensor([[[0.2, 0.5, 0.0, 0.3]]]), torch.ones(1, 1, 4, 1)
    >>> plan(attn, value, max_tokens=3).indices
    tensor([[0, 1, 3, 0]])
    """
    max_tokens = arguments.check_ats(max_tokens, score, sampling)
    _, n, _ = check.ats(attn, value, mask, uniforms, noise, max_tokens, sampling)
    b, others = value.shape[0], max(n - 1, 0)
    slots = min(1, n) + min(max_tokens, others)
    if exporting() and others and noise is None and sampling == "inverse_transform":
        return exported_plan(attn, value, max_tokens, score, mask, uniforms)
    chosen = value.new_ones((b, n), dtype=torch.bool)
    if others:
        significance = scores(attn.detach(), value.detach(), score=score, mask=mask)
        real = chosen[:, 1:] if mask is None else mask[:, 1:]
        if noise is not None:
            marked = _gumbel(significance, real, noise.detach())
        elif sampling == "released":
            marked = _released(significance, real, max_tokens)
        else:
            points = _midpoints(max_tokens, significance) if uniforms is None else uniforms.detach()
            marked = _inverse_transform(significance, real, points.to(significance.dtype))
        chosen = torch.cat([chosen[:, :1], marked], dim=1)
    slot = torch.arange(slots, device=value.device)
    filled = slot < chosen.sum(dim=1, keepdim=True)
    indices = torch.where(filled, true_first(chosen)[:, :slots], 0)
    if mask is not None:
        filled = filled & ((slot > 0) | mask[:, :1])
    return SelectionPlan.trusted(indices, filled, n)


def exported_plan(
    attn: Tensor,
    value: Tensor,
    max_tokens: int,
    score: str,
    mask: Tensor | None,
    uniforms: Tensor | None = None,
    front: int = 1,
) -> SelectionPlan:
    """`plan` as `torch.export` looks at it; the tokens in front behind the class token are kept, and not scored."""
    significance = _significance(attn.detach(), value.detach(), score)
    points = _midpoints(max_tokens, significance) if uniforms is None else uniforms.detach()
    n = significance.shape[1]
    slots = front + min(max_tokens, n - front)
    indices, filled = exported.nearest(significance, mask, points.to(significance.dtype), slots, front)
    return SelectionPlan.trusted(indices, filled, n)


def _midpoints(max_tokens: int, like: Tensor) -> Tensor:
    """`(1,K)`, the sample points `(2k-1)/(2K)`, rounded once."""
    return torch.arange(1, 2 * max_tokens, 2, dtype=like.dtype, device=like.device)[None] / (2 * max_tokens)


def _inverse_transform(significance: Tensor, real: Tensor, points: Tensor) -> Tensor:
    """`(B,N-1)` bool: the token whose cumulated share is nearest to one of the points."""
    significance = _or_uniform(significance, real)
    eligible = significance > 0
    cdf = torch.cumsum(safe_divide(significance, significance.sum(dim=1, keepdim=True)), dim=1)
    nearness = -(cdf[:, None, :] - points[:, :, None]).abs()
    return _mark(nearness.masked_fill(~eligible[:, None, :], -torch.inf), eligible)


def _or_uniform(significance: Tensor, real: Tensor) -> Tensor:
    """The scores; where all are zero, ones over the real tokens."""
    total = significance.sum(dim=1, keepdim=True)
    return torch.where(total == 0, real.to(significance.dtype), significance)


def _gumbel(significance: Tensor, real: Tensor, noise: Tensor) -> Tensor:
    probability = significance / (significance.sum(dim=1, keepdim=True) + GUMBEL_FLOOR)
    perturbed = torch.log(probability + GUMBEL_FLOOR)[:, None, :] + noise.to(significance.dtype)
    return _mark(perturbed.masked_fill(~real[:, None, :], -torch.inf), real)


def _released(significance: Tensor, real: Tensor, max_tokens: int) -> Tensor:
    """`(B,N-1)` bool: as `_inverse_transform`, with shares cumulated in ascending order and points between them."""
    significance = _or_uniform(significance, real)
    share = safe_divide(significance, significance.sum(dim=1, keepdim=True))
    # padding goes in front, where it adds nothing to the sum
    ranking = descending(-torch.where(real, share, -1))
    ranked, is_real = share.gather(1, ranking), real.gather(1, ranking)
    lowest = torch.where(is_real, ranked, torch.inf).amin(dim=1, keepdim=True)
    c = torch.where(is_real, torch.cumsum(ranked, dim=1) - lowest, 0)
    last = c[:, -1:]
    first = torch.where(c > 0, c, last).amin(dim=1, keepdim=True)
    # both sides times (max c - min c) and (K - 1): where scores are exact, so is this
    step = torch.arange(max_tokens, dtype=c.dtype, device=c.device) if max_tokens > 1 else c.new_ones(1)
    nearness = -((c - first)[:, None, :] * max(max_tokens - 1, 1) - ((last - first) * step)[:, :, None]).abs()
    return _mark(nearness.masked_fill(~is_real[:, None, :], -torch.inf), real, ranking)


def _mark(preference: Tensor, eligible: Tensor, ranking: Tensor | None = None) -> Tensor:
    """`(B,N-1)` bool: the tokens that some row of `preference (B,K,N-1)`, in some order of them, likes best."""
    chosen = first_max(preference)[1]
    chosen = chosen if ranking is None else ranking.gather(1, chosen)
    return torch.zeros_like(eligible).scatter(1, chosen, 1) & eligible


class ATS(Merger):
    """Adaptive token sampling as a module; options as in `ats.plan`, checked when it is made.

    >>> attn, value = torch.full((1, 2, 9), 1 / 9), torch.ones(1, 2, 9, 4)
    >>> ATS(max_tokens=4)(torch.ones(1, 9, 8), attn=attn, value=value).tokens.shape
    torch.Size([1, 5, 8])
    """

    NAME = "ats"
    OPTIONS = ("max_tokens", "score", "sampling")

    def __init__(self, max_tokens: int, score: str = "per_head", sampling: str = "inverse_transform") -> None:
        super().__init__()
        arguments.check_ats(max_tokens, score, sampling)
        self.max_tokens, self.score, self.sampling = max_tokens, score, sampling

    def plan(
        self,
        attn: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        uniforms: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> SelectionPlan:
        """The plan of one attention layer, see `plan` of this module."""
        return plan(
            attn,
            value,
            max_tokens=self.max_tokens,
            score=self.score,
            sampling=self.sampling,
            mask=mask,
            uniforms=uniforms,
            noise=noise,
        )

    def forward(
        self,
        x: Tensor,
        *,
        attn: Tensor,
        value: Tensor,
        size: Tensor | None = None,
        mask: Tensor | None = None,
        uniforms: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Merged:
        """Keep the chosen tokens of `x (B,N,C)`."""
        check.tokens("ats", x, size, ("value", value, "H N d"))
        made = self.plan(attn, value, mask=mask, uniforms=uniforms, noise=noise)
        size = x.new_ones(x.shape[:2], dtype=working_dtype(x)) if size is None else size
        return Merged(made.merge(x, size), made.merge_size(size), made.mask, made)
