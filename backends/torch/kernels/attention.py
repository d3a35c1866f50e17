"""Proportional attention in one pass over the keys (docs/tome.md); no `M x N` matrix is stored."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from tokenmerge.backends.torch.kernels.operators import operator
from tokenmerge.backends.torch.kernels.support import block, interpreted, usable

Tensor = torch.Tensor

WIDEST = 128  # channels of a head: a tile has all of them
HALVES = (torch.float16, torch.bfloat16)


class Tile(NamedTuple):
    """How a kernel is launched: queries and keys in a tile, warps, stages of the pipeline of loads, registers at most.

    Fewer registers let more programs run at a time on a processor of the GPU, which hides how long each waits.
    """

    queries: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None


# By bytes of an entry and channels in a tile, for the result, the gradient of the queries and that of keys and values.
FORWARD = {(2, 64): Tile(128, 32, 4, 3, 168), (2, 128): Tile(128, 64, 8, 2), (4, 64): Tile(32, 32, 4, 1)}
HALVED = FORWARD | {(2, 64): Tile(64, 32, 4, 3)}  # where the last 128 queries would be half of them at most
OF_QUERIES = {(2, 64): Tile(64, 64, 4, 2), (2, 128): Tile(128, 64, 8, 2), (4, 64): Tile(32, 32, 4, 1)}
OF_KEYS = {(2, 64): Tile(64, 64, 4, 2), (2, 128): Tile(32, 128, 8, 2), (4, 64): Tile(32, 32, 4, 1)}
for _tiles in (FORWARD, HALVED, OF_QUERIES, OF_KEYS):
    _tiles[4, 128] = _tiles[4, 64]


def attention(
    query: Tensor, key: Tensor, value: Tensor, size: Tensor | None, mask: Tensor | None, scale: float | None
) -> Tensor:
    """Attention in which a key counts as often as its size says.

    `out_i = sum_j w_ij v_j`, `w_ij = exp(scale q_i . k_j + log s_j) / sum_l exp(scale q_i . k_l + log s_l)`, with the
    logarithms and the sums in float32; a weight is rounded once, to the dtype of the values. A row without a key is
    zero. Tensors are read where they lie, such as three views of one.

    Args:
        query: `(B,H,M,d)` float16, bfloat16 or float32, d <= 128, any strides.
        key, value: `(B,H,N,d)` of the same dtype.
        size: `(B,N)` floating point; a key of size 0 is not attended to. All 1 without it.
        mask: `(B,N)` bool, the keys that count; the others are not read, so they may be NaN. All without it.
        scale: None for `d**-0.5`.

    Returns:
        `(B,H,M,d)` in the dtype of `query`, in memory `(B,M,H,d)`. Differentiable, once, with respect to query, key and
        value; not with respect to `size`.

    Source: arXiv 2205.14135, algorithms 1 and 4; arXiv 2307.08691, algorithms 1 and 2; arXiv 2210.09461, equation 1.
    """
    scale = query.shape[3] ** -0.5 if scale is None else float(scale)
    size = None if size is None else size.detach()
    if torch.is_grad_enabled() and any(map(differentiated, (query, key, value))):
        return _Attention.apply(query, key, value, size, mask, scale)[0]
    return _attention(query, key, value, size, mask, scale)[0]


def attends(query: Tensor, key: Tensor, value: Tensor, size: Tensor | None) -> bool:
    """Whether `attention` runs on these halves, and has the derivative that is asked for."""
    if not (query.dtype == key.dtype == value.dtype and query.dtype in HALVES and usable(query)):
        return False
    if query.shape[3] > WIDEST or query.shape[3] != value.shape[3]:
        return False
    if size is not None and torch.is_grad_enabled() and differentiated(size):
        return False
    # A map alone is no obstacle, unless compiled: whether a mapped size wants a gradient is nothing a compiler can ask.
    return not transformed() or (not torch.compiler.is_compiling() and _only_mapped())


def differentiated(tensor: Tensor) -> bool:
    """Whether anyone wants a gradient of a tensor; what a transform makes of it need not say."""
    if transformed() and not torch.compiler.is_compiling():
        while not tensor.requires_grad and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.requires_grad


def transformed() -> bool:
    """Whether a transform of `torch.func` or a derivative in forward mode is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _only_mapped() -> bool:
    """Whether it is nothing but `torch.vmap`: the others want derivatives forward, or derivatives of derivatives."""
    transforms = torch._C._functorch.get_interpreter_stack() or ()
    mapped = all(transform.key() == torch._C._functorch.TransformType.Vmap for transform in transforms)
    return mapped and forward_ad._current_level < 0


# The compiler cannot trace the question. It keeps the answer, and compiles again when the transforms change.
transformed._dynamo_marked_constant = True  # type: ignore[attr-defined]


def attention_tokens(
    query: Tensor, key: Tensor, value: Tensor, size: Tensor | None, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    from tokenmerge.backends.torch.kernels.device import attention as device

    out, lse = _empty(query, key, value, size, mask, scale)
    if out.numel() == 0:
        return out, lse
    (batch, heads, m, _), n = query.shape, key.shape[2]
    written = _written(out)
    tile, constants = _launch(HALVED if -(-m // 64) % 2 else FORWARD, query, n)
    device.attention[(batch * heads * -(-m // tile.queries),)](
        query,
        key,
        value,
        _logarithms(size),
        _rows(mask),
        written,
        lse,
        m,
        n,
        heads,
        scale * math.log2(math.e),
        *query.stride(),
        *key.stride(),
        *value.stride(),
        *written.stride(),
        RAISED=2.0**15 if query.dtype == torch.float16 else 1.0,  # else small weights would be subnormal
        STAGES=tile.stages,
        **constants,
    )
    return written.to(out.dtype), lse


def _empty(
    query: Tensor, key: Tensor, value: Tensor, size: Tensor | None, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    return _tokens_first(query), query.new_empty(query.shape[:3], dtype=torch.float32)


def attention_gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    size: Tensor | None,
    mask: Tensor | None,
    scale: float,
    out: Tensor,
    lse: Tensor,
    of_out: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    from tokenmerge.backends.torch.kernels.device import attention as device

    gradients = _empty_gradients(query, key, value, size, mask, scale, out, lse, of_out)
    (batch, heads, m, _), n = query.shape, key.shape[2]
    of_q, of_k, of_v = map(_written, gradients)
    bias, mask, lse = _logarithms(size), _rows(mask), lse.contiguous()
    delta = torch.empty_like(lse)
    if of_q.numel():
        tile, constants = _launch(OF_QUERIES, query, n)
        device.of_queries[(batch * heads * -(-m // tile.queries),)](
            query,
            key,
            value,
            bias,
            mask,
            out,
            lse,
            of_out,
            delta,
            of_q,
            m,
            n,
            heads,
            scale,
            scale * math.log2(math.e),
            *query.stride(),
            *key.stride(),
            *value.stride(),
            *out.stride(),
            *of_out.stride(),
            *of_q.stride(),
            **constants,
        )
    if of_k.numel():
        tile, constants = _launch(OF_KEYS, query, n)
        device.of_keys[(batch * heads * -(-n // tile.keys),)](
            query,
            key,
            value,
            bias,
            mask,
            lse,
            of_out,
            delta,
            of_k,
            of_v,
            m,
            n,
            heads,
            scale,
            scale * math.log2(math.e),
            *query.stride(),
            *key.stride(),
            *value.stride(),
            *of_out.stride(),
            *of_k.stride(),
            **constants,
        )
    return of_q.to(query.dtype), of_k.to(query.dtype), of_v.to(query.dtype)


def _empty_gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    size: Tensor | None,
    mask: Tensor | None,
    scale: float,
    out: Tensor,
    lse: Tensor,
    of_out: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return _tokens_first(query), _tokens_first(key), _tokens_first(value)


def _tokens_first(like: Tensor) -> Tensor:
    """Empty `(B,H,N,d)`, in memory `(B,N,H,d)`: the heads of a token side by side, as the next layer wants them."""
    b, h, n, d = like.shape
    return like.new_empty((b, n, h, d)).transpose(1, 2)


def _written(result: Tensor) -> Tensor:
    """What a kernel writes a result to: the interpreter cannot round to bfloat16."""
    return torch.empty_like(result, dtype=torch.float32) if interpreted() else result


def _logarithms(size: Tensor | None) -> Tensor | None:
    """To base 2, -inf for a size of zero."""
    return None if size is None else size.float().log2().contiguous()


def _rows(of_keys: Tensor | None) -> Tensor | None:
    return None if of_keys is None else of_keys.contiguous()


def _launch(tiles: dict[tuple[int, int], Tile], query: Tensor, n: int) -> tuple[Tile, dict[str, Any]]:
    """The tile for these lengths, and what every launch has in common."""
    from tokenmerge.backends.torch.kernels.device.matching import TYPES

    m, d = query.shape[2:]
    tile = tiles[query.element_size(), 64 if d <= 64 else 128]
    tile = tile._replace(queries=block(m, 16, tile.queries), keys=block(n, 16, tile.keys))
    no_bfloat16 = interpreted() and query.dtype == torch.bfloat16
    return tile, {
        "D": d,
        "OPERAND": TYPES[torch.float32 if no_bfloat16 else query.dtype],
        "BLOCK_M": tile.queries,
        "BLOCK_N": tile.keys,
        "BLOCK_D": block(d, 16, WIDEST),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        **({} if tile.registers is None or torch.version.hip else {"maxnreg": tile.registers}),
    }


class _Attention(torch.autograd.Function):
    """`attention_tokens` with a gradient, which has none.

    `dV = P^T dO`, `dP = dO V^T`, `dS_ij = P_ij (dP_ij - dO_i . O_i)`, `dQ = scale dS K`, `dK = scale dS^T Q`, where `P`
    is made again from the logarithm of the sums, block by block.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, size: Tensor | None, mask: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        return _attention(query, key, value, size, mask, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, of_out: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        *tensors, out, lse = ctx.saved_tensors
        gradients = _attention_gradients if torch.compiler.is_compiling() else _Gradients.apply
        return (*gradients(*tensors, ctx.scale, out, lse, of_out), None, None, None)


class _Gradients(torch.autograd.Function):
    """`attention_gradients`, which says that there are no second ones, instead of seeming constant.

    A compiled program says so by itself.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        return _attention_gradients(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise NotImplementedError("attention: its kernel has no second derivative; float32 tokens have one")


_attention = operator(attention_tokens, _empty)
_attention_gradients = operator(attention_gradients, _empty_gradients)
