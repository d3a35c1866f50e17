"""Proportional attention, vectorized over the batch (docs/tome.md)."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch import exported, kernels
from tokenmerge.backends.torch.check import check
from tokenmerge.backends.torch.kernels.attention import differentiated, transformed
from tokenmerge.backends.torch.precision import exporting, matmul, safe_log, softmax, without_autocast, working_dtype
from tokenmerge.spec.shared.arguments import check_real

Tensor = torch.Tensor


def attention_weights(
    query: Tensor, key: Tensor, *, size: Tensor | None = None, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """`softmax(scale * Q K^T + log size)` over the keys, written out: for a few queries, such as the class row.

    Args:
        query: `(B,H,M,d)` floating point; key: `(B,H,N,d)`.
        size: `(B,N)` floating point; size 0 is the same as masked. mask: `(B,N)` bool.
        scale: None for `d**-0.5`, which needs a channel.

    Returns:
        `(B,H,M,N)` in float32 at least.

    >>> q, k = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 3, 1)
    >>> attention_weights(q, k, size=torch.tensor([[2.0, 1.0, 1.0]])).tolist()
    [[[[0.5, 0.25, 0.25]]]]
    """
    check.attention(query, key, size, mask, scale)
    work = working_dtype(query, key)
    query = query.to(work) * (query.shape[3] ** -0.5 if scale is None else scale)
    logits = matmul(query, key.to(work).transpose(2, 3))
    if size is not None:
        logits = logits + safe_log(size.to(work))[:, None, None, :]  # log 0 = -inf: not attended to
    if mask is not None:
        logits = torch.where(mask[:, None, None, :], logits, -torch.inf)
    return softmax(logits)


def class_row(query: Tensor, key: Tensor, *, size: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """What the first token attends to, `(B,H,N)`: `attention_weights` of the first of the queries `(B,H,N,d)`.

    It is what ATS reads, which looks at no masked token.

    >>> class_row(torch.zeros(1, 1, 2, 1), torch.ones(1, 1, 2, 1)).tolist()
    [[[0.5, 0.5]]]
    """
    if exporting():
        check.attention(query, key, size, mask, None)
        work = working_dtype(query, key)
        return exported.class_row(query.to(work), key.to(work), mask, None if size is None else size.to(work))
    return attention_weights(query[:, :, :1], key, size=size, mask=mask)[:, :, 0]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    size: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """`softmax(scale * Q K^T + log size) V`: `(B,H,M,d)` in the dtype of `query`; arguments as in `attention_weights`.

    `dropout` is the rate at which attention weights are dropped, for training; 0 for none.

    PyTorch's fused attention does the work. With sizes it is given float32 at least: in bfloat16 the bias `log size`
    itself would be rounded, by 1.6 % of a weight at size 197. On a GPU a kernel of ours, which adds it in float32,
    does it for half precision.

    >>> q, k, v = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 2, 1), torch.tensor([[[[0.0], [3.0]]]])
    >>> attention(q, k, v, size=torch.tensor([[2.0, 1.0]])).round(decimals=6).tolist()
    [[[[1.0]]]]
    """
    check_real("attention", "dropout", dropout, 0.0, 1.0, "[0, 1]")
    check.sample("attention", "value", value, "H N d", **check.attention(query, key, size, mask, scale))
    if (size is not None or mask is not None) and dropout == 0 and kernels.attends(query, key, value, size):
        return kernels.attention(query, key, value, size, mask, scale)
    dtype = query.dtype
    if size is not None or not dtype == key.dtype == value.dtype:
        work = working_dtype(query, key)
        query, key, value = query.to(work), key.to(work), value.to(work)
    if mask is not None:  # a weight of zero does not stop a NaN
        key, value = (torch.where(mask[:, None, :, None], tensor, 0) for tensor in (key, value))
    if size is not None and _only_sizes_learn(size, query, key, value):  # PyTorch's attention would crash
        weights = attention_weights(query, key, size=size, mask=mask, scale=scale)
        return matmul(torch.nn.functional.dropout(weights, dropout), value).to(dtype)
    bias, attended = _bias(size, mask, query.dtype)
    with without_autocast(query):  # the dtype is decided above
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, bias, dropout, scale=scale)
    if attended is not None:
        out = torch.where(attended[:, None, None, :], out, 0)
    return out.to(dtype)


def _only_sizes_learn(size: Tensor, *others: Tensor) -> bool:
    """Whether, on a GPU, a gradient is wanted of the sizes and of nothing else.

    PyTorch's kernel then keeps no logarithms of the sums, and on the way back reads them all the same: an illegal
    memory access (issue 148476 of pytorch/pytorch). What a transform of `torch.func` differentiates, nobody knows here.
    """
    if not size.is_cuda or not torch.is_grad_enabled() or not differentiated(size):
        return False
    return transformed() or not any(map(differentiated, others))


def _bias(size: Tensor | None, mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """What is added to the logits, and which samples `(B,1)` have a real key; both None where every key is alike.

    A sample without a real key attends to all of them instead: kernels differ in what they make of nothing.
    """
    if size is None and mask is None:
        return None, None
    real = mask if size is None else (size != 0 if mask is None else mask & (size != 0))
    assert real is not None
    attended = real.any(dim=1, keepdim=True)
    used = real | ~attended
    if size is not None:
        bias = torch.where(used, safe_log(torch.where(real, size, 1).to(dtype)), -torch.inf)
    else:
        bias = torch.where(used, 0, -torch.inf).to(dtype) if used.is_cuda else used
    return aligned(bias[:, None, None, :]), attended


def aligned(bias: Tensor) -> Tensor:
    """On a GPU, the same numbers `(B,1,1,N)` in rows whose length in memory is a multiple of 8.

    PyTorch's kernel reads such rows where they are, for all heads and queries; other ones it copies first.
    """
    n = bias.shape[3]
    if bias.is_cuda and n % 8:
        bias = torch.nn.functional.pad(bias, (0, -n % 8))[..., :n]
    return bias
