"""What becomes of the sizes in a plan that mixes every token into every slot."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.precision import looks, matmul, safe_divide, working_dtype
from tokenmerge.backends.torch.products import all_finite, product

Tensor = torch.Tensor

TINY = 2.0**-40  # a column that adds up to less; the derivative divides by its square
HUGE = 2.0**40  # a size above it


def dense_sizes(weights: Tensor, size: Tensor | None) -> Tensor:
    """`U^T size` with `U = W^T / column sums`, of `weights (B,P,N)` and `size (B,N)` or ones: `(B,P)`.

    >>> dense_sizes(torch.tensor([[[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]]), None).tolist()
    [[1.5, 1.5]]
    """
    fine = working_dtype(weights) if size is None else torch.promote_types(torch.float32, size.dtype)
    # `W (size / sum_p W)` needs no second matrix, but where the sum is so small that the division overflows; rows
    # from the left, because a product with a column takes four times as long
    w = weights if weights.dtype == fine else weights.to(torch.promote_types(weights.dtype, fine))
    whole = matmul(w.new_ones((w.shape[0], 1, w.shape[1])), w)
    sees = looks(whole)
    if sees and whole.numel() and whole.detach().amin().item() >= TINY and not _out_of_range(whole, size):  # no NaN is
        row = whole.reciprocal() if size is None else size.to(fine)[:, None] / whole
        total = matmul(row, w.transpose(1, 2))
        if all_finite(total):
            return total[:, 0].to(fine)
    is_one = size is None
    size = w.new_ones((w.shape[0], w.shape[2]), dtype=fine) if size is None else size.to(fine)
    tiny = (whole < TINY) | (size[:, None] > HUGE)
    row = torch.where(tiny, 0, size[:, None] / torch.where(tiny, 1, whole))
    total = matmul(row, w.transpose(1, 2))
    if not (all_finite(total) if sees else is_one):
        # NaN beside a weight of zero, or a quotient that is out of range: size by size
        share = safe_divide(w, whole)
        careful = product(share, size.to(w.dtype)[:, :, None]).transpose(1, 2)
        # what is odd in one sample leaves the last bits of the others alone
        total = torch.where(total.isfinite().all(dim=-1, keepdim=True), total, careful) if sees else careful
    elif not sees or tiny.any():
        share = safe_divide(torch.where(tiny, w, 0), whole)
        total = total + product(share, size.to(w.dtype)[:, :, None]).transpose(1, 2)
    return total[:, 0].to(fine)


def _out_of_range(whole: Tensor, size: Tensor | None) -> bool:
    """Whether the derivative of `size / whole` may be, where one is asked for."""
    return size is not None and whole.requires_grad and size.detach().amax().item() > HUGE
