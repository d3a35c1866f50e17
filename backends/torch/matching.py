"""Who is most similar to whom: the largest entries of a product of matrices that need not be in memory at once."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch import kernels
from tokenmerge.backends.torch.gathers import gather_rows
from tokenmerge.backends.torch.precision import matmul, reads_at_once
from tokenmerge.backends.torch.ties import descending, first_max, first_place, largest

Tensor = torch.Tensor

MOST = 2**21  # similarities in memory at once
CHUNK = 64  # partners that are searched together
AT_ONCE = 2**12  # similarities of which maxima with indices are found sooner than maxima, and indices of some
FEW = 2**17  # similarities of merged rows, of which no chunks need be made


def nearest(a: Tensor, b: Tensor, begin: Tensor | None = None, end: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Similarity and index of the most similar row of `b (B,M,D)` for every row of `a (B,L,D)`, both `(B,L)`.

    Of several the first. `begin`, `end`: `(B,)` integer, the rows of `b` that can be meant are `begin <= j < end`; all
    without them. The rows are normalized, except where the kernels run, which normalize by themselves.

    >>> nearest(torch.eye(2)[None], torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]))
    (tensor([[1., 1.]]), tensor([[0, 1]]))
    """
    if kernels.usable(a):
        return kernels.match(a, b, begin=begin, end=end)
    return _searched(a, b, _between(b, begin, end))


def _between(b: Tensor, begin: Tensor | None, end: Tensor | None) -> Tensor | None:
    """`(B,M)` bool, `begin <= j < end`; None where there is no limit."""
    row = torch.arange(b.shape[1], device=b.device)
    limits = [] if begin is None else [row >= begin[:, None]]
    limits += [] if end is None else [row < end[:, None]]
    return None if not limits else limits[0] if len(limits) == 1 else limits[0] & limits[1]


def _searched(a: Tensor, b: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """`nearest`, as many similarities at once as fit. `allowed`: `(B,M)` bool, the rows of `b` that can be meant."""
    (samples, length, _), partners = a.shape, b.shape[1]
    if _fits(samples, length, partners):
        return _nearest(a, b, allowed)
    together = max(1, MOST // (length * partners))
    rows = max(1, MOST // (together * partners))
    # results are written into memory of their own: small ones kept between the large blocks would leave holes in the
    # heap that no later block fits into, gigabytes of them for a long sequence
    best, index = a.new_empty((samples, length)), a.new_empty((samples, length), dtype=torch.int64)
    for first in range(0, samples, together):
        part = slice(first, first + together)
        usable = None if allowed is None else allowed[part]
        for row in range(0, length, rows):
            block = slice(row, row + rows)
            best[part, block], index[part, block] = _nearest(a[part, block], b[part], usable)
    return best, index


def best_pairs(
    a: Tensor, b: Tensor, count: int, mergeable: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` rows of `a (B,L,D)` that are most similar to their nearest row of `b (B,M,D)`.

    Args:
        a, b: neither may hold a NaN.
        count: at most L.
        mergeable: `(B,L)` and `(B,M)` bool, rows of `a` that come after all others, and rows of `b` that can be meant.

    Returns:
        The rows of `a`, best first if there is `mergeable`, and the row of `b` for each, `(B,count)`; and the
        similarities `(B,L)`.
    """
    (samples, length, _), partners = a.shape, b.shape[1]
    allowed_a, allowed_b = mergeable or (None, None)
    if not _fits(samples, length, partners):
        best, target = _searched(a, b, allowed_b)
        best = best if allowed_a is None else best.masked_fill(~allowed_a, -torch.inf)
        sources = largest(best, count) if mergeable is None else descending(best)[:, :count]
        return sources, target.gather(1, sources), best
    if mergeable is None and samples * length * partners <= AT_ONCE and reads_at_once(a):
        best, target = matmul(a, b.transpose(1, 2)).max(dim=-1)  # the kernel of the CPU takes the first of several
        sources = largest(best, count)
        return sources, target.gather(1, sources), best
    chunks = _chunks(a, b, allowed_b, _together(samples) * count * partners > FEW)
    maxima = chunks.amax(dim=-1)
    best = maxima.amax(dim=-1) if maxima.shape[-1] > 1 else maxima[..., 0]
    best = best if allowed_a is None else best.masked_fill(~allowed_a, -torch.inf)
    sources = largest(best, count) if mergeable is None else descending(best)[:, :count]
    # only these rows are searched for where the maximum is: that costs more than the maximum
    return sources, _found(chunks, maxima, sources), best


def _fits(samples: int, length: int, partners: int) -> bool:
    """Whether the similarities may be in memory at once."""
    return _together(samples) * length * partners <= MOST


def _together(samples: int) -> int:
    """The number of samples, where a choice may depend on it: a compiled or exported graph serves any number."""
    return 1 if torch.compiler.is_compiling() else samples


def _nearest(a: Tensor, b: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """`nearest`, in one block."""
    chunks = _chunks(a, b, allowed)
    best, place = first_max(chunks.amax(dim=-1))
    return best, _inside(chunks, torch.arange(a.shape[1], device=a.device).expand_as(place), place)


def _chunks(a: Tensor, b: Tensor, allowed: Tensor | None, several: bool = True) -> Tensor:
    """Similarities `(B,L,chunks,width)`, -inf where there is no partner; one chunk unless there are to be several."""
    partners = b.shape[1]
    width = CHUNK if several and partners > 2 * CHUNK else partners
    missing = -partners % width
    if missing:
        b = torch.nn.functional.pad(b, (0, 0, 0, missing))
    similarity = matmul(a, b.transpose(1, 2))
    if missing:
        similarity[..., partners:] = -torch.inf
    if allowed is not None:
        allowed = torch.nn.functional.pad(allowed, (0, missing))
        similarity = similarity.masked_fill(~allowed[..., None, :], -torch.inf)
    return similarity.reshape(*similarity.shape[:2], (partners + missing) // width, width)


def _found(chunks: Tensor, maxima: Tensor, rows: Tensor) -> Tensor:
    """Index of the first maximum of `rows (B,R)`, given the maxima of all chunks."""
    if maxima.shape[-1] == 1:
        return first_place(gather_rows(chunks.flatten(2), rows))
    return _inside(chunks, rows, first_place(gather_rows(maxima, rows)))


def _inside(chunks: Tensor, rows: Tensor, place: Tensor) -> Tensor:
    """Index of the first maximum of `rows (B,R)`, which lies in chunk `place (B,R)`."""
    number, width = chunks.shape[2:]
    return place * width + first_place(gather_rows(chunks.flatten(1, 2), rows * number + place))
