"""The bias that a patched model gives to its own attention: a tensor that still knows the sizes.

Half precision rounds a logarithm, and with any bias PyTorch's fused attention is slow. So where the kernel of ours runs
(`kernels.attends`), it takes the place of PyTorch's: a subclass of `torch.Tensor` is asked before a function gets it.
Everything else that a model does with its bias is done with an ordinary tensor, and makes ordinary tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._pytree import tree_map

from tokenmerge.backends.torch import kernels
from tokenmerge.backends.torch.attention import aligned
from tokenmerge.backends.torch.kernels.attention import HALVES
from tokenmerge.backends.torch.precision import is_recorded, safe_log

Tensor = torch.Tensor


class KeyBias(Tensor):
    """`log size` `(B,1,1,N)` in half precision, -inf for padding.

    Attributes:
        counted: sizes `(B,N)` and mask `(B,N)`, one of them may be None; None when the bias is no longer theirs.
    """

    counted: tuple[Tensor | None, Tensor | None] | None = None

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(kind is not KeyBias for kind in types):  # somebody else's tensors, who are asked again
            args, kwargs = tree_map(plain, (args, kwargs))
            return func(*args, **kwargs)
        if func is scaled_dot_product_attention:
            return attend(*args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **kwargs)
        if writes(func) and isinstance(args[0], KeyBias):
            args[0].counted = None
        return kept(func, args, out) if isinstance(out, Tensor) else out


def key_bias(size: Tensor | None, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """`log size`, and -inf for padding, as `(B,1,1,N)` to be added to logits; None where it would be zero.

    Args:
        size: `(B,N)`, None where every token counts one. mask: `(B,N)` bool, None where all are real.
        dtype: of the queries.
    """
    like = mask if size is None else size
    if like is None:
        return None
    if dtype not in HALVES or not kernels.usable(like.new_empty(0, dtype=dtype)):
        return aligned(_logarithms(size, mask)[:, None, None, :].to(dtype))
    if size is None or mask is not None or is_recorded(size):
        bias = _logarithms(size, mask)[:, None, None, :].to(dtype)
    else:  # in a single step, because nobody may ever look at it
        bias = torch.log(size[:, None, None, :], out=size.new_empty((size.shape[0], 1, 1, size.shape[1]), dtype=dtype))
    return counting(bias, size, mask)


def counting(bias: Tensor, size: Tensor | None, mask: Tensor | None) -> KeyBias:
    """A bias that knows what it was made of."""
    known = bias.as_subclass(KeyBias)
    known.counted = (size, mask)
    return known


def _logarithms(size: Tensor | None, mask: Tensor | None) -> Tensor:
    bias = None if size is None else safe_log(size)
    if mask is not None:
        bias = torch.where(mask, 0.0 if bias is None else bias, -torch.inf)
    assert bias is not None
    return bias


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention`, by our kernel if it can."""
    counted = attn_mask.counted if isinstance(attn_mask, KeyBias) else None
    if counted is not None and dropout_p == 0 and not is_causal:
        size, mask = counted
        q, k, v = autocast(query), autocast(key), autocast(value)
        if fits(q, k, v, size if mask is None else mask) and kernels.attends(q, k, v, size):
            return kernels.attention(q, k, v, size, mask, scale)
    query, key, value, bias = plain(query), plain(key), plain(value), plain(attn_mask)
    if counted is not None and bias.shape[1:3] == (1, 1):
        bias = aligned(bias)
    return scaled_dot_product_attention(
        query, key, value, bias, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def fits(query: Tensor, key: Tensor, value: Tensor, of_keys: Tensor | None) -> bool:
    """Whether each key of `(B,H,N,d)` has its size: PyTorch's attention takes other shapes, and repeats what is one."""
    return (
        of_keys is not None
        and query.ndim == key.ndim == value.ndim == 4
        and query.shape[:2] == key.shape[:2]
        and key.shape[:3] == value.shape[:3]
        and of_keys.shape == (key.shape[0], key.shape[2])
    )


def autocast(tensor: Tensor) -> Tensor:
    """What PyTorch's attention makes of a tensor under autocast."""
    return tensor.to(attention_dtype(tensor))


def attention_dtype(x: Tensor) -> torch.dtype:
    """The dtype of queries and keys that are made of `x`."""
    if not x.is_meta and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def kept(func: Callable[..., Any], args: tuple[Any, ...], out: Tensor) -> Tensor:
    """What a function made of a bias: an ordinary tensor, unless it has the same keys."""
    counted = args[0].counted if args and isinstance(args[0], KeyBias) else None
    if counted is None or not (func in (Tensor.to, Tensor.expand) or (func is Tensor.__getitem__ and whole(args[1]))):
        return plain(out)
    size, mask = counted
    like = mask if size is None else size
    if like is None or out.ndim != 4 or (out.shape[0], out.shape[3]) != like.shape:
        return plain(out)
    return counting(plain(out), size, mask)


def whole(index: Any) -> bool:
    """Whether an index that leaves the shape as it is leaves everything in its place."""
    return all(isinstance(part, slice) for part in (index if isinstance(index, tuple) else (index,)))


def writes(func: Callable[..., Any]) -> bool:
    """Whether a method changes its tensor: `add_`, `__iadd__`, `__setitem__`."""
    name = func.__name__
    return (name.endswith("_") and not name.endswith("__")) or name == "__setitem__" or name.startswith("__i")


def plain(value: Any) -> Any:
    """A bias as an ordinary tensor; anything else as it is."""
    if not isinstance(value, KeyBias):
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.view(value.shape)  # `as_subclass` the compiler does not know in this direction
