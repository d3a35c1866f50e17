"""LTM: learnable token merging (arXiv 2407.15219; docs/ltm.md).

The paper fixes what goes in and out of its mask module but the released code leaves the module out. This one is
derived in docs/ltm.md: one mirror-descent step `G <- softmax(log G0 - step)` from a prior mask, the label-dependent
factor of the information-bottleneck gradient being replaced by a learned per-channel map of the target tokens.

Released code: Statistical-Deep-Learning/LTM at 395b959.

Rules:
    LTM-1: n = N - protected tokens become P' = ceil(rho n), with rho read as a decimal number.
    LTM-2: The first mask is adaptive average pooling, smoothed: (1 - epsilon) * pool + epsilon / n.
    LTM-3: A mask that is given takes the place of the first one, as it is; an entry of 0 keeps weight 0.
    LTM-4: The mask is the softmax over the tokens of log G0 + (z * weight) T^T / sqrt(C) with the targets T = G0^T
        z.
    LTM-5: The first `protected` tokens are copied through, in front.
    LTM-6: In a padded batch the real tokens of a sample are treated as if they were alone, and the result is padded
        on the right.
    LTM-7: The weight is learned and starts at zero, which leaves the first mask as it is.
    LTM-8: The grid prior is the Kronecker product, row by row, of average pooling over rows and over columns, smoothed
        as the first mask is.
    LTM-9: Of a grid h' = ceil(sqrt(rho) h) rows and w' = ceil(sqrt(rho) w) columns are left, with the root read as a
        decimal number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenmerge.spec.plan import DensePlan
from tokenmerge.spec.precision import working_dtype
from tokenmerge.spec.shared.arguments import check_ltm, check_real
from tokenmerge.spec.shared.calls import Calls
from tokenmerge.spec.shared.description import (
    BRANCHES,
    REQUIRED,
    Description,
    Merging,
    Move,
    check_around_option,
    check_prefix_option,
    protected_tokens,
)
from tokenmerge.spec.shared.grid import Grid, check_grid_prior, grid_tokens_out
from tokenmerge.spec.shared.schedule import ltm_tokens_out
from tokenmerge.spec.softmax import softmax

if TYPE_CHECKING:
    from tokenmerge.spec.shared.vit_config import ViTConfig
    from tokenmerge.spec.shared.vit_steps import Step

__all__ = ["DESCRIPTION", "LTMMerging", "chain", "grid_prior", "grid_tokens_out", "plan", "pooling_prior"]

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray, batched=False)


def pooling_prior(n: int, p: int, smoothing: float = 0.1) -> Array:
    """The first mask `G0 (n,p)`: adaptive average pooling, smoothed; columns sum to 1.

    Column `j` averages the tokens `floor(j n / p) ... ceil((j+1) n / p) - 1`; then
    `(1 - smoothing) * pool + smoothing / n`, so that no token starts with weight 0.

    >>> pooling_prior(3, 2, smoothing=0.0)
    array([[0.5, 0. ],
           [0.5, 0.5],
           [0. , 0.5]])
    """
    pool = np.zeros((n, p))
    for column in range(p):
        start, stop = column * n // p, -(-(column + 1) * n // p)
        pool[start:stop, column] = 1 / (stop - start)
    return (1 - smoothing) * pool + smoothing / max(n, 1)


def grid_prior(grid: Grid, merged: Grid, smoothing: float = 0.1) -> Array:
    """A mask of tokens that lie on a grid: `(h w, h' w')`, average pooling over rows and over columns, smoothed.

    `(1 - smoothing) pool_h (x) pool_w + smoothing / (h w)`, with the Kronecker product row by row: slot `p` of the
    merged tokens lies at row `p // w'` and column `p % w'`, so that the branch which runs on them finds a map.

    Args:
        grid: `(h, w)`, rows and columns of the tokens; merged: `(h', w')`, at most as many, see `grid_tokens_out`.
        smoothing: share of the uniform distribution that is mixed in, in [0, 1].

    Returns:
        float64; columns sum to 1. A `prior` of `plan` where `h' w'` tokens are what the ratio leaves.

    Raises:
        TypeError, ValueError: an argument of the wrong type or range.

    >>> grid_prior((2, 2), (1, 2), smoothing=0.0).tolist()
    [[0.5, 0.0], [0.0, 0.5], [0.5, 0.0], [0.0, 0.5]]
    """
    (rows, columns), (fewer_rows, fewer_columns) = check_grid_prior(grid, merged, smoothing)
    pool = np.kron(pooling_prior(rows, fewer_rows, 0.0), pooling_prior(columns, fewer_columns, 0.0))
    return (1 - smoothing) * pool + smoothing / len(pool)


def plan(
    z: Array,
    *,
    weight: Array,
    compression_ratio: float,
    protected: int = 0,
    prior_smoothing: float = 0.1,
    prior: Array | None = None,
    mask: Array | None = None,
) -> DensePlan:
    """`G = softmax over tokens (log G0 + (z * weight) T^T / sqrt(C))` with the targets `T = G0^T z`; `W = G^T`.

    Args:
        z: `(N,C)` floating point, the residual stream after attention.
        weight: `(C,)`, learned; zero gives `G = G0`, smoothed adaptive average pooling.
        compression_ratio: rho in (0, 1]; `n = N - protected` tokens become `P' = ceil(rho n)`.
        protected: leading tokens, copied through unchanged in front; at most N.
        prior_smoothing: epsilon in [0, 1], see `pooling_prior`.
        prior: `(n,P')` floating point, the mask of the layer before, in place of the pooling prior (`chain`). It is
            used as it is; a token whose entry is 0 keeps weight 0.
        mask: `(N,)` bool, True where a token is real. The real tokens are treated as if they were alone and the
            result is padded on the right; of a given prior the real tokens' rows and the first columns are used.

    Returns:
        DensePlan with `P = protected + P'` slots; rows sum to 1, a padded slot's row is zero.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range.

    >>> z = np.array([[1.0], [3.0], [5.0], [7.0]])
    >>> plan(z, weight=np.zeros(1), compression_ratio=0.5, prior_smoothing=0.0).merge(z)
    array([[2.],
           [6.]])
    """
    protected = check_ltm(1, compression_ratio, protected, prior_smoothing)
    n, c = check.ltm(z, weight, prior, mask, compression_ratio, protected)
    width = ltm_tokens_out(n - protected, compression_ratio)

    work = working_dtype(z.dtype)
    real = np.arange(n) if mask is None else np.flatnonzero(mask)
    first, rest = real[:protected], real[protected:]
    columns = ltm_tokens_out(len(rest), compression_ratio)
    if prior is None:
        g0 = pooling_prior(len(rest), columns, prior_smoothing).astype(work)
    else:
        g0 = prior[rest - protected, :columns].astype(work)
    tokens = z[rest].astype(work)
    targets = g0.T @ tokens
    step = (tokens * weight.astype(work)) @ targets.T / np.sqrt(work.type(c))
    with np.errstate(divide="ignore"):  # log 0 = -inf: weight 0
        logits = np.log(g0) + step

    w = np.zeros((protected + width, n), work)
    w[np.arange(len(first)), first] = 1
    w[np.ix_(protected + np.arange(columns), rest)] = softmax(logits.T)
    if mask is None:
        return DensePlan(w)
    slot = np.arange(protected + width)
    return DensePlan(w, (slot < len(first)) | ((slot >= protected) & (slot < protected + columns)))


def chain(plan: DensePlan, protected: int = 0) -> Array:
    """The mask `G (n,P')` inside a plan, to give to the next layer as its `prior` where the shapes repeat.

    >>> chain(plan(np.ones((4, 1)), weight=np.zeros(1), compression_ratio=0.5)).shape
    (4, 2)
    """
    protected = check.chain(plan, protected, DensePlan)
    return plan.weights[protected:, protected:].T


# In a network


@dataclass(frozen=True)
class LTMMerging(Merging):
    """Learnable token merging, around the MLP if not said otherwise (arXiv 2407.15219).

    Attributes:
        compression_ratio: rho in (0, 1].
        protected: leading tokens that are copied through; None for class, distillation and register tokens.
        prior_smoothing: epsilon, see `tokenmerge.spec.ltm.plan`.
        around: "mlp" or "block", where only that branch works on merged tokens and the stream keeps all of them; None,
            where tokens merge for good, between attention and MLP.
    """

    compression_ratio: float
    protected: int | None = None
    prior_smoothing: float = 0.1
    around: str | None = "mlp"

    def __post_init__(self) -> None:
        check_real("LTMMerging", "compression_ratio", self.compression_ratio, 0.0, 1.0, "(0, 1]")
        check_prefix_option("LTMMerging", self.protected)
        check_real("LTMMerging", "prior_smoothing", self.prior_smoothing, 0.0, 1.0, "[0, 1]")
        check_around_option("LTMMerging", self.around, BRANCHES)
        self._plain()

    def move(self, amount: int, tokens: int, prefix: int) -> Move:
        protected = protected_tokens(self.protected, prefix, tokens)
        shape = (tokens - protected, ltm_tokens_out(tokens - protected, self.compression_ratio))
        options = (
            ("compression_ratio", self.compression_ratio),
            ("protected", protected),
            ("prior_smoothing", self.prior_smoothing),
        )
        return Move(protected + shape[1], options, shape)


def _multiply_adds(step: Step, config: ViTConfig) -> int:
    """Targets, step and merge, and unmerging around a branch, of the tokens that are not protected."""
    protected = dict(step.options)["protected"]
    products = 3 if step.around is None else 4
    return products * (step.tokens_in - protected) * (step.tokens_merged - protected) * config.dim


DESCRIPTION = Description(
    name="ltm",
    title="LTM",
    rules="LTM",
    options={"dim": REQUIRED, "compression_ratio": REQUIRED, "protected": 0, "prior_smoothing": 0.1},
    check=check_ltm,
    inputs={"x": "N C"},
    decides=False,
    place="mlp",
    merging=LTMMerging,
    knob="compression_ratio",
    read=float,
    symbol="ρ",
    hint="share of the tokens that a block leaves",
    multiply_adds=_multiply_adds,
    plan=plan,
    hand_on=chain,
    parameters={"weight": "C"},
    around=BRANCHES,
)
LTMMerging.DESCRIPTION = DESCRIPTION
