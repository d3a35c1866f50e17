"""One run of a patched network: what its blocks tell one another, gone when the run is over.

Nothing stays on the model, so the same one runs under `jit`, `grad` and `vmap`, and in several threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax

from tokenmerge.backends.jax.patching.adapter import Stream
from tokenmerge.backends.jax.plan import Plan, compose_layers
from tokenmerge.backends.jax.pytrees import Static

Array = jax.Array


class Merging(NamedTuple):
    """What a run of a patched network merged; a pytree.

    Attributes:
        plans: for every block its plan, or None where it merged nothing.
        sizes: for every block the sizes of the tokens that its plan takes; None where every token counts one.
        size, mask: of the final tokens; None where every one counts one, and is real.
        around: for every block "mlp" or "block" where its plan acts around that branch; None for the stream.
    """

    plans: tuple[Plan | None, ...]
    sizes: tuple[Array | None, ...]
    size: Array | None
    mask: Array | None
    around: Static


class Call:
    """The run that goes on: the stream after the last block, which is where the next one begins."""

    def __init__(self) -> None:
        self.stream: Stream | None = None


_current: ContextVar[Call | None] = ContextVar("tokenmerge_call", default=None)


def current() -> Call | None:
    """The run that goes on, if any."""
    return _current.get()


@contextmanager
def running() -> Iterator[Call]:
    """A run of its own; inside another one, that."""
    before = _current.get()
    if before is not None and before.stream is None:
        yield before
        return
    token = _current.set(Call())
    try:
        call = _current.get()
        assert call is not None
        yield call
    finally:
        _current.reset(token)


def with_plans(model: Any, *args: Any, **kwargs: Any) -> tuple[Any, Merging]:
    """`model(*args, **kwargs)` and what was merged on the way, as values: the pair goes through `jit` and `vmap`.

    Raises:
        RuntimeError: a model that is not patched.
    """
    token = _current.set(Call())
    try:
        out = model(*args, **kwargs)
        call = _current.get()
        assert call is not None
        if call.stream is None:
            raise RuntimeError(f"patch: `model` must be patched, got {type(model).__name__} in which no block merges")
        stream = call.stream
    finally:
        _current.reset(token)
    around = Static(None if plan is None else stream.around for plan in stream.plans)
    return out, Merging(stream.plans, stream.sizes, stream.size, stream.mask, around)


def unmerged(stream: Stream) -> Array:
    """All the tokens again, `(B,N,C)`; dropped ones are zeros."""
    if not stream.merged:
        return stream.x
    of_blocks = zip(stream.plans, stream.sizes, strict=True)
    return compose_layers([(plan, size) for plan, size in of_blocks if plan is not None]).unmerge(stream.x)
