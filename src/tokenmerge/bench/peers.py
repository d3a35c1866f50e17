"""Other people's packages, where they are installed; called through their public names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

from tokenmerge.bench.subject import Subject

Peers = Iterator[tuple[str, Callable[..., Any]]]


def operators(operation: str, subject: Subject, shape: dict[str, int]) -> Peers:
    """Name and function for our operator's inputs."""
    if subject.name == "jax" and operation == "attention":
        yield "jax.nn.dot_product_attention", _jax_attention
    if subject.name != "torch":
        return
    for theirs in THEIRS.get(operation, ()):
        yield from theirs(subject, shape)


def _vit_pytorch(slots: str, subject: Subject, shape: dict[str, int]) -> Peers:
    if module := _found("vit_pytorch.vit_with_patch_merger"):
        theirs = module.PatchMerger(dim=shape["C"], num_tokens_out=shape[slots])
        yield "vit-pytorch's PatchMerger", theirs.to(device=subject.where, dtype=_torch_dtype(subject))


def _tomesd(subject: Subject, shape: dict[str, int]) -> Peers:
    side = round((shape["N"] - 1) ** 0.5)
    if side % 2 or side**2 != shape["N"] - 1 or not (module := _found("tomesd.merge")):
        return

    def tomesd(metric: Any, x: Any, size: Any) -> Any:
        # no class token, no sizes: every second column of the grid is merged into the others
        merge, _ = module.bipartite_soft_matching_random2d(metric[:, 1:], side, side, 2, 1, shape["r"], no_rand=True)
        return merge(x[:, 1:], mode="mean")

    yield "tomesd (no class token, no sizes)", tomesd


THEIRS: dict[str, tuple[Callable[[Subject, dict[str, int]], Peers], ...]] = {
    "tome": (_tomesd,),
    "patch_merger": (partial(_vit_pytorch, "M"),),
    "ltm": (partial(_vit_pytorch, "P"),),
}


def _jax_attention(query: Any, key: Any, value: Any, size: Any) -> Any:
    """With a bias, which must be as fine as the queries are."""
    import jax
    import jax.numpy as jnp

    query, key, value = (jnp.swapaxes(each, 1, 2) for each in (query, key, value))
    bias = jnp.log(size).astype(query.dtype)[:, None, None, :]
    return jnp.swapaxes(jax.nn.dot_product_attention(query, key, value, bias=bias), 1, 2)


def _torch_dtype(subject: Subject) -> Any:
    import torch

    return getattr(torch, subject.dtype)


def _found(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None
