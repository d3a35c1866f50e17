"""LTM, vectorized over the batch (docs/ltm.md)."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import torch

from tokenmerge.backends.torch.check import check
from tokenmerge.backends.torch.constants import keeps
from tokenmerge.backends.torch.few import few_at_a_time
from tokenmerge.backends.torch.merger import Merger
from tokenmerge.backends.torch.plan import DensePlan
from tokenmerge.backends.torch.precision import (
    is_recorded,
    matmul,
    reads_at_once,
    safe_divide,
    safe_log,
    softmax,
    working_dtype,
)
from tokenmerge.backends.torch.products import product
from tokenmerge.backends.torch.sizes import dense_sizes
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.grid import Grid, check_grid_prior, grid_tokens_out
from tokenmerge.spec.shared.merged import Merged
from tokenmerge.spec.shared.schedule import ltm_tokens_out

__all__ = ["LTM", "chain", "grid_prior", "grid_tokens_out", "plan"]

Tensor = torch.Tensor

MOST_TOKENS = 2**20
MOST_KEPT = 2**16  # numbers of a prior that is made once
SUMMED_ALIKE = 4  # tokens that a mean and a pooling add in the same order, to the last bit


def pooling_prior(
    place: Tensor, count: Tensor, columns: Tensor, width: int, smoothing: float, dtype: torch.dtype
) -> Tensor:
    """The transposed first mask `G0^T (B,P',N)`: smoothed adaptive average pooling of `count` tokens to `columns`.

    Args:
        place: `(B,N)`, each token's place among those that are pooled; outside `0..count-1` for the others.
        count, columns: `(B,1)`, tokens and pooled tokens of each sample.
        width: P', the rows of the result; rows from `columns` on are zero.
        smoothing: share of the uniform distribution that is mixed in.
        dtype: of the result.
    """
    row = torch.arange(width, device=place.device)
    start = row * count // columns.clamp(min=1)
    stop = -(-(row + 1) * count // columns.clamp(min=1))
    pooled = (place[:, None, :] >= start[:, :, None]) & (place[:, None, :] < stop[:, :, None])
    pool = safe_divide(pooled.to(dtype), (stop - start)[:, :, None])
    uniform = smoothing / count.clamp(min=1)[:, :, None].to(dtype)
    return torch.where(_in_use(place, count, columns, width), (1 - smoothing) * pool + uniform, 0)


def pooled_tokens(z: Tensor, width: int, smoothing: float) -> Tensor:
    """`G0^T z` without the matrix, of `z (B,n,C)` to `(B,P',C)`, where `P'` divides `n`: no windows overlap then.

    >>> pooled_tokens(torch.tensor([[[1.0], [3.0], [5.0], [7.0]]]), 2, 0.0).tolist()
    [[[2.0], [6.0]]]
    """
    wide = z.shape[1] // width
    if wide <= SUMMED_ALIKE and z.numel() and reads_at_once(z):  # half the time, but ten times it on the way back
        pooled = torch.nn.functional.avg_pool1d(z.transpose(1, 2), wide).transpose(1, 2)
    else:
        pooled = z.unflatten(1, (width, -1)).mean(dim=2)
    return torch.lerp(pooled, pooled.mean(dim=1, keepdim=True), smoothing)  # windows are equally wide


def grid_prior(
    grid: Grid,
    merged: Grid,
    smoothing: float = 0.1,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """A mask of tokens that lie on a grid: `(h w, h' w')`, average pooling over rows and over columns, smoothed.

    `(1 - smoothing) pool_h (x) pool_w + smoothing / (h w)`, with the Kronecker product row by row: slot `p` of the
    merged tokens lies at row `p // w'` and column `p % w'`, so that the branch which runs on them finds a map.

    Args:
        grid: `(h, w)`, rows and columns of the tokens; merged: `(h', w')`, at most as many, see `grid_tokens_out`.
        smoothing: share of the uniform distribution that is mixed in, in [0, 1].
        dtype, device: of the result; None for PyTorch's defaults.

    Returns:
        In `dtype`; columns sum to 1. A `prior` of `plan` where `h' w'` tokens are what the ratio leaves.

    Raises:
        TypeError, ValueError: an argument of the wrong type or range.

    >>> grid_prior((2, 2), (1, 2), smoothing=0.0).tolist()
    [[0.5, 0.0], [0.0, 0.5], [0.5, 0.0], [0.0, 0.5]]
    """
    (rows, columns), (fewer_rows, fewer_columns) = check_grid_prior(grid, merged, smoothing)
    pool = torch.kron(_windows(rows, fewer_rows), _windows(columns, fewer_columns))
    made = (1 - smoothing) * pool + smoothing / len(pool)
    return made.to(dtype=dtype or torch.get_default_dtype(), device=device or torch.get_default_device())


def _windows(n: int, p: int) -> Tensor:
    """Average pooling of `n` rows to `p`: `(n,p)` float64."""
    place, slot = torch.arange(n, device="cpu")[:, None], torch.arange(p, device="cpu")
    start, stop = slot * n // p, -(-(slot + 1) * n // p)
    return ((place >= start) & (place < stop)).double() / (stop - start)


def plan(
    z: Tensor,
    *,
    weight: Tensor,
    compression_ratio: float,
    protected: int = 0,
    prior_smoothing: float = 0.1,
    prior: Tensor | None = None,
    mask: Tensor | None = None,
) -> DensePlan:
    """`G = softmax over tokens (log G0 + (z * weight) T^T / sqrt(C))`, `T = G0^T z`, `W = G^T`.

    The semantics are those of `tokenmerge.spec.ltm.plan`, for every sample.

    Args:
        z: `(B,N,C)` floating point.
        weight: `(C,)`.
        compression_ratio: rho in (0, 1]; `n = N - protected` tokens become `P' = ceil(rho n)`.
        protected: leading tokens, copied through in front; at most N.
        prior_smoothing: epsilon in [0, 1].
        prior: `(n,P')` or `(B,n,P')` floating point, in place of the pooling prior (`chain`).
        mask: `(B,N)` bool, True where a token is real.

    Returns:
        DensePlan `(B, protected + P', N)`; its weights have a gradient with respect to `z`, `weight` and `prior`.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range.

    >>> z = torch.tensor([[[1.0], [3.0], [5.0], [7.0]]])
    >>> plan(z, weight=torch.zeros(1), compression_ratio=0.5, prior_smoothing=0.0).merge(z).tolist()
    [[[2.0], [6.0]]]
    """
    return DensePlan(*_run(z, weight, compression_ratio, protected, prior_smoothing, prior, mask, False)[:2])


def _run(
    z: Tensor,
    weight: Tensor,
    compression_ratio: float,
    protected: int,
    prior_smoothing: float,
    prior: Tensor | None,
    mask: Tensor | None,
    merge: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Weights and mask of the plan, and the merged tokens if they are wanted."""
    protected = arguments.check_ltm(1, compression_ratio, protected, prior_smoothing)
    n, c = check.ltm(z, weight, prior, mask, compression_ratio, protected)
    width, work = _width(n - protected, compression_ratio), working_dtype(z)
    if mask is not None:
        z = torch.where(mask[:, :, None], z, 0)

    pools = prior is None and mask is None and n > protected and (n - protected) % width == 0
    scaled = weight.to(work) / c**0.5
    real = z.new_ones((1, n), dtype=torch.bool) if mask is None else mask
    if prior is None and mask is None and keeps(z.device) and n * (protected + width) <= MOST_KEPT:
        copied, g0, log_g0, columns = _kept_prior(n, width, protected, prior_smoothing, work)
    else:
        ratio = None if mask is None else compression_ratio
        copied, g0, log_g0, columns = _prior(real, ratio, width, protected, prior_smoothing, prior, work)

    def run(part: slice) -> tuple[Tensor, ...]:
        first, own, log_own = (each if each.shape[0] == 1 else each[part] for each in (copied, g0, log_g0))
        tokens = z[part].to(work)
        targets = pooled_tokens(tokens[:, protected:], width, prior_smoothing) if pools else matmul(own, tokens)
        logits = matmul(targets * scaled, tokens.transpose(1, 2)).add_(log_own)
        weights = torch.softmax(logits, dim=-1) if pools else softmax(logits)
        if protected:
            weights = torch.cat([first.expand(weights.shape[0], protected, n), weights], dim=1)
        return (weights, product(weights, tokens).to(z.dtype)) if merge else (weights,)

    # where weights are as large as tokens, caches do not hold a sample
    at_once = 2 * width > c or is_recorded(z, weight, g0)
    made = run(slice(None)) if at_once else few_at_a_time(z, run)
    weights, tokens = made[0], made[1] if merge else None
    if mask is None:
        return weights, None, tokens
    slot = torch.arange(protected + width, device=z.device)
    first = real.sum(dim=1, keepdim=True).clamp(max=protected)
    return weights, (slot < first) | ((slot >= protected) & (slot < protected + columns)), tokens


def _width(num_tokens: int, compression_ratio: float) -> int:
    """`ltm_tokens_out`, which reads a decimal number every time."""
    known = ltm_tokens_out if torch.compiler.is_compiling() else _kept_width
    return known(num_tokens, compression_ratio)


_kept_width = lru_cache(256)(ltm_tokens_out)


def _prior(
    real: Tensor,
    compression_ratio: float | None,
    width: int,
    protected: int,
    smoothing: float,
    prior: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a plan begins with, of the real tokens `(B,N)`: rows that copy `(B,protected,N)`, `G0^T (B,P',N)`, its
    logarithm, and how many columns each sample has `(B,1)`.

    Args:
        compression_ratio: None where all samples have `width` columns. prior: in place of the pooling prior.
    """
    rank = torch.where(real, torch.cumsum(real, dim=1) - 1, -1)
    place = torch.where(rank >= protected, rank - protected, -1)
    count = (real.sum(dim=1, keepdim=True) - protected).clamp(min=0)
    columns = torch.full_like(count, width) if compression_ratio is None else _tokens_out(count, compression_ratio)
    if prior is None:
        g0 = pooling_prior(place, count, columns, width, smoothing, dtype)
    else:
        given = (prior if prior.ndim == 3 else prior[None]).transpose(1, 2)
        g0 = torch.cat([given.new_zeros((given.shape[0], width, protected)), given], dim=2)
        g0 = torch.where(_in_use(place, count, columns, width), g0, 0).to(dtype)
    copied = (rank[:, None, :] == torch.arange(protected, device=real.device)[:, None]).to(dtype)
    return copied, g0, safe_log(g0), columns  # log 0 = -inf: weight 0


@lru_cache(32)
def _kept_prior(
    num_tokens: int, width: int, protected: int, smoothing: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`_prior` of as many real tokens, which depends on no number; to be read only (see `constants.py`)."""
    with torch.inference_mode(False):
        return _prior(torch.ones((1, num_tokens), dtype=torch.bool), None, width, protected, smoothing, None, dtype)


def chain(plan: DensePlan, protected: int = 0) -> Tensor:
    """The mask `G (B,n,P')` inside a plan, to give to the next layer as its `prior` where the shapes repeat.

    >>> chain(plan(torch.ones(2, 4, 1), weight=torch.zeros(1), compression_ratio=0.5)).shape
    torch.Size([2, 4, 2])
    """
    protected = check.chain(plan, protected, DensePlan)
    return plan.weights[:, protected:, protected:].transpose(1, 2)


def _in_use(place: Tensor, count: Tensor, columns: Tensor, width: int) -> Tensor:
    """`(B,P',N)` bool: a column that exists in this sample, and a token that it may draw from."""
    token = (place >= 0) & (place < count)
    return (torch.arange(width, device=place.device) < columns)[:, :, None] & token[:, None, :]


def _tokens_out(count: Tensor, compression_ratio: float) -> Tensor:
    """`ltm_tokens_out` of every sample's own number of tokens, without reading it back from the device.

    As written, rho can have 17 digits, and the product with a count may leave 64 bits. The smallest fraction that is
    not below rho and whose denominator is at most MOST_TOKENS gives the same `ceil(rho count)` for every count up to
    that: no multiple of 1/count lies between the two.
    """
    exact = Fraction(str(float(compression_ratio)))
    near = exact.limit_denominator(MOST_TOKENS)
    p, q = near.numerator, near.denominator
    if near < exact:  # the next larger fraction of such denominators: the P/Q with P q - p Q = 1 of the largest Q
        largest = MOST_TOKENS - (MOST_TOKENS + pow(p, -1, q)) % q
        p, q = (1 + p * largest) // q, largest
    return -(-p * count // q)


class LTM(Merger):
    """Learnable token merging as a module; options as in `ltm.plan`, checked when it is made.

    >>> LTM(dim=4, compression_ratio=0.5, protected=1)(torch.ones(1, 9, 4)).tokens.shape
    torch.Size([1, 5, 4])
    """

    NAME = "ltm"
    PARAMETERS = ("weight",)
    OPTIONS = ("dim", "compression_ratio", "protected", "prior_smoothing")

    def __init__(self, dim: int, compression_ratio: float, protected: int = 0, prior_smoothing: float = 0.1) -> None:
        super().__init__()
        arguments.check_ltm(dim, compression_ratio, protected, prior_smoothing)
        self.dim, self._compression_ratio = dim, str(float(compression_ratio))
        self.protected, self.prior_smoothing = protected, prior_smoothing
        self.weight = torch.nn.Parameter(torch.zeros(dim, dtype=torch.float32))

    @property
    def compression_ratio(self) -> float:
        """rho. It is kept as text: the compiler may take a module's float for a variable, and shapes depend on this."""
        return float(self._compression_ratio)

    def plan(self, x: Tensor, *, prior: Tensor | None = None, mask: Tensor | None = None) -> DensePlan:
        """The plan of `x (B,N,C)`, see `plan` of this module."""
        check.tokens("ltm", x, None, C=self.dim)
        return plan(
            x,
            weight=self.weight,
            compression_ratio=self.compression_ratio,
            protected=self.protected,
            prior_smoothing=self.prior_smoothing,
            prior=prior,
            mask=mask,
        )

    def forward(
        self, x: Tensor, *, size: Tensor | None = None, prior: Tensor | None = None, mask: Tensor | None = None
    ) -> Merged:
        """Merge `x (B,N,C)` to `(B, protected + ceil(rho n), C)`."""
        check.tokens("ltm", x, size, C=self.dim)
        options = (self.weight, self.compression_ratio, self.protected, self.prior_smoothing)
        weights, kept, tokens = _run(x, *options, prior, mask, True)
        assert tokens is not None
        return Merged(tokens, dense_sizes(weights, size), kept, DensePlan.trusted(weights, kept))
