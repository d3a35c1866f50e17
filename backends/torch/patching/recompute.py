"""Blocks that run again in a backward pass: a checkpoint keeps what went into a block and not what it made.

A block is found again by the tokens that went in. They are not kept alive: a checkpoint does that, for as long as its
backward pass can come.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch

from tokenmerge.backends.torch.patching.state import Call

Tensor = torch.Tensor


class Memory:
    """For every block the tokens that went into it, with the call that they were of."""

    def __init__(self) -> None:
        self._blocks: dict[int, list[tuple[weakref.ref[Tensor], Call]]] = {}
        self._lock = threading.Lock()  # backward passes of several devices run in several threads

    def keep(self, index: int, x: Tensor, call: Call) -> None:
        """Remember what goes into a block, if a backward pass may come."""
        if not (torch.is_grad_enabled() or x.requires_grad):
            return
        with self._lock:
            known = [(tokens, of) for tokens, of in self._blocks.get(index, ()) if tokens() is not None]
            self._blocks[index] = [*known, (weakref.ref(x), call)]

    def again(self, index: int, x: Tensor, learned: bool, restored: bool) -> Call | None:
        """The call of a block that runs again, as it was when that began; None if nobody remembers the tokens.

        Raises:
            RuntimeError: what it gave to the next block did not go through the tokens, so gradients would be wrong.
        """
        with self._lock:
            known = list(self._blocks.get(index, ()))
        for reference, call in reversed(known):
            tokens = reference()
            if tokens is not None and (tokens is x or same(tokens, x)):
                if learned or restored:
                    raise RuntimeError(
                        "patch: gradient checkpointing must be off in a patched model "
                        f"{'that restores its tokens' if restored else 'with masks that go from block to block'}, "
                        "got a block that runs again without those before it"
                    )
                return call.again(index)
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same numbers at the same place: a checkpoint detaches what it has kept."""
    return a.shape == b.shape and a.data_ptr() == b.data_ptr() and a.device == b.device
