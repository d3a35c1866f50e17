"""Matching that keeps only the running best of every token (docs/tome.md, steps 2 to 4)."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.kernels.operators import operator
from tokenmerge.backends.torch.kernels.support import block, interpreted
from tokenmerge.backends.torch.precision import working_dtype

Tensor = torch.Tensor

# Tokens of `a`, tokens of `b` and channels in a tile, and warps, by bytes of an entry (measured: docs/performance.md).
TILES = {2: (64, 64, 64, 4), 4: (64, 64, 64, 4), 8: (32, 32, 16, 4)}
NARROW, SHORT = 64, 128  # up to so many channels, and tokens of `b`, directions are found while matching
PROGRAMS = 256  # that fill a GPU: where there are fewer tiles of `a`, several programs share the tokens of `b`


def match(
    a: Tensor, b: Tensor, *, rows: Tensor | None = None, begin: Tensor | None = None, end: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The most similar token of `b` for every token of `a`, ties to the lower index.

    `best[i] = max_j S[i,j]`, `S[i,j] = (a_i / ||a_i||) . (b_j / ||b_j||)`; a vector without a direction (zero, or not
    finite) has similarity 0 with everything. Memory grows with `Na + Nb`, not with their product. Both may be views
    with any strides, such as the even and the odd positions of one tensor.

    Args:
        a: `(B,Na,D)` floating point, of any norms.
        b: `(B,Nb,D)` of the same dtype.
        rows: `(B,)` integer, how many leading tokens of `a` count in each sample; all without it.
        begin, end: `(B,)` integer, the tokens of `b` that can be chosen are `begin <= j < end`; all without them.

    Returns:
        `best (B,Na)` in working precision (float32, or float64), -inf for a token that does not count or has no choice;
        `target (B,Na)` int64, 0 for such a token.

    Source: arXiv 2210.09461, section 3.1.
    """
    return _match(a.detach(), b.detach(), rows, begin, end)


def match_tokens(
    a: Tensor, b: Tensor, rows: Tensor | None, begin: Tensor | None, end: Tensor | None
) -> tuple[Tensor, Tensor]:
    if finds_directions(a, b):
        return search(a, b, None, None, rows, begin, end)
    (a, of_a), (b, of_b) = directions(a), directions(b)
    return search(a, b, of_a, of_b, rows, begin, end)


def finds_directions(a: Tensor, b: Tensor) -> bool:
    """Whether `search` needs no `directions`; of many tokens it would find those of `b` too often."""
    return a.shape[2] <= NARROW and b.shape[1] <= SHORT


def search(
    a: Tensor,
    b: Tensor,
    of_a: Tensor | None = None,
    of_b: Tensor | None = None,
    rows: Tensor | None = None,
    begin: Tensor | None = None,
    end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`match` of tokens that are scaled, with their inverse norms, see `directions`; without them of any tokens.

    All may be views with any strides.
    """
    from tokenmerge.backends.torch.kernels.device import matching as device

    best, target = _empty(a, b, rows, begin, end)
    (batch, na, d), nb = a.shape, b.shape[1]
    if best.numel() == 0:
        return best, target
    block_a, block_b, block_d, warps = TILES[a.element_size()]
    block_a, block_b = block(na, 16, block_a), block(nb, 16, block_b)
    tiles = batch * -(-na // block_a)
    columns = -(-nb // block_b)
    splits = 1 if of_a is None else max(1, min(columns, PROGRAMS // tiles))
    block_d = block(d, 16, NARROW if d <= NARROW else block_d)
    width = -(-columns // splits) * block_b if nb else block_b
    work = device.TYPES[best.dtype]
    found = (
        (best, target) if splits == 1 else (best.new_empty((batch, splits, na)), target.new_empty((batch, splits, na)))
    )
    device.match[(tiles, splits)](
        a,
        b,
        of_a,
        of_b,
        rows,
        begin,
        end,
        *found,
        na,
        nb,
        d,
        splits,
        width,
        *a.stride(),
        *b.stride(),
        *((0, 0) if of_a is None else of_a.stride()),
        *((0, 0) if of_b is None else of_b.stride()),
        WORK=work,
        OPERAND=device.TYPES[_operand(a)],
        PRECISION=_precision(a),
        RESCALED=_rescaled(a),
        NARROW=d <= NARROW,
        SHARED=splits > 1,
        BLOCK_A=block_a,
        BLOCK_B=block_b,
        BLOCK_D=block_d,
        num_warps=warps,
    )
    if of_a is not None and splits > 1:
        size = block(na, 16, 128)
        device.first_best[(batch * -(-na // size),)](
            *found, of_a, rows, best, target, na, splits, *of_a.stride(), WORK=work, BLOCK=size, num_warps=4
        )
    return best, target


def _precision(x: Tensor) -> str:
    """How the matrix unit makes products: of float32 from three of TF32, whose errors are those of float32 itself."""
    return "tf32x3" if x.dtype == torch.float32 and torch.version.hip is None else "ieee"


def _operand(x: Tensor) -> torch.dtype:
    """Products of halves are exact in float32, whichever unit makes them; the interpreter has no bfloat16."""
    return working_dtype(x) if interpreted() else x.dtype


def _rescaled(x: Tensor) -> bool:
    """float16 needs no power of two: its squares do not overflow in float32."""
    return x.dtype != torch.float16


def _empty(
    a: Tensor, b: Tensor, rows: Tensor | None, begin: Tensor | None, end: Tensor | None
) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape[:2], dtype=working_dtype(a)), a.new_empty(a.shape[:2], dtype=torch.int64)


def directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens `(B,N,D)` times powers of two, and their inverse norms `(B,N)` then; zeros without a direction."""
    from tokenmerge.backends.torch.kernels.device import matching as device

    batch, n, d = x.shape
    scaled, inverse = x.new_empty(x.shape, dtype=_operand(x)), x.new_empty((batch, n), dtype=working_dtype(x))
    if inverse.numel():
        block_n, block_d = block(n, 1, 32), block(d, 16, 128)
        device.directions[(batch * -(-n // block_n),)](
            x,
            scaled,
            inverse,
            n,
            d,
            *x.stride(),
            WORK=device.TYPES[inverse.dtype],
            RESCALED=_rescaled(x),
            BLOCK_N=block_n,
            BLOCK_D=block_d,
            num_warps=4,
        )
    return scaled, inverse


_match = operator(match_tokens, _empty)
