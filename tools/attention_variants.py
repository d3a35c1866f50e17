"""Ways to get `log size` into the logits of attention, timed beside each other (docs/performance.md).

    python tools/attention_variants.py [cpu|cuda]

Microseconds, median; in brackets the largest error against float64, as a share of the largest value. `flex_attention`
compiles for every shape, which takes a while.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter

import torch
from torch.nn.functional import pad
from torch.nn.functional import scaled_dot_product_attention as fused

from tokenmerge.backends.torch.attention import attention

Tensor = torch.Tensor
SHAPES = ((8, 12, 197, 64), (64, 12, 197, 64), (64, 12, 181, 64), (16, 16, 577, 64), (64, 16, 577, 64))


def bias_of(size: Tensor, dtype: torch.dtype) -> Tensor:
    return size.log().to(dtype)[:, None, None, :]


def without_sizes(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
    return fused(q, k, v)


def ours(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
    return attention(q, k, v, size=size)


def in_float32(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
    return fused(q.float(), k.float(), v.float(), bias_of(size, torch.float32)).to(q.dtype)


def own_dtype(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
    return fused(q, k, v, bias_of(size, q.dtype))


def aligned(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
    """Rows of the bias begin at multiples of eight numbers."""
    n = size.shape[1]
    bias = pad(bias_of(size, q.dtype), (0, -n % 8)).expand(len(q), 1, q.shape[2], -1)
    return fused(q, k, v, bias[..., :n].expand(-1, q.shape[1], -1, -1))


def channels(q: Tensor, k: Tensor, v: Tensor, size: Tensor, width: int = 80) -> Tensor:
    """In further channels of the keys, in pieces as fine as the dtype; the queries have ones there."""
    rest, pieces = size.log() * q.shape[-1] ** 0.5, []
    for _ in range(1 if q.dtype == torch.float32 else 3):
        pieces.append(rest.to(q.dtype))
        rest = rest - pieces[-1].to(rest.dtype)
    more = width - q.shape[-1]
    added = pad(torch.stack(pieces, dim=-1), (0, more - len(pieces)))[:, None].expand(-1, q.shape[1], -1, -1)
    ones = pad(q.new_ones((*q.shape[:3], len(pieces))), (0, more - len(pieces)))
    wide = fused(torch.cat([q, ones], -1), torch.cat([k, added], -1), pad(v, (0, more)), scale=q.shape[-1] ** -0.5)
    return wide[..., : q.shape[-1]]


def flex(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
    log = size.log()
    return COMPILED(q, k, v, score_mod=lambda score, b, h, i, j: score + log[b, j])


def written_out(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
    logits = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5 + bias_of(size, torch.float32)
    return logits.softmax(-1).to(q.dtype) @ v


def _flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.config.recompile_limit = 100
    return torch.compile(flex_attention, dynamic=False)


def microseconds(call: Callable[[], Tensor], device: str) -> float:
    if device == "cuda":
        from triton.testing import do_bench_cudagraph

        return float(do_bench_cudagraph(call, rep=40, return_mode="median")) * 1e3  # without the time to launch
    call()
    taken = []
    for _ in range(7):
        start = perf_counter()
        call()
        taken.append(perf_counter() - start)
    return median(taken) * 1e6


def main(device: str) -> None:
    ways = [without_sizes, ours, in_float32, own_dtype, aligned, channels, written_out]
    ways += [flex] if device == "cuda" else []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for shape in SHAPES:
            q, k, v = (torch.randn(shape, device=device).to(dtype) for _ in range(3))
            size = torch.randint(1, 40, (shape[0], shape[2]), device=device).float()
            logits = q.double() @ k.double().transpose(-1, -2) * shape[3] ** -0.5 + bias_of(size, torch.float64)
            exact = logits.softmax(-1) @ v.double()
            said = []
            for way in ways:
                error = (way(q, k, v, size).double() - exact).abs().max() / exact.abs().max()
                time = microseconds(partial(way, q, k, v, size), device)
                said.append(f"{way.__name__} {time:.0f}" + ("" if way is without_sizes else f" ({error:.0e})"))
            print(str(dtype).removeprefix("torch."), *shape, "|", ", ".join(said), flush=True)


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    COMPILED = _flex()
    with torch.no_grad():
        main(where)
