"""Blocks that run again in a backward pass: a checkpoint keeps what went into a block and not what it made.

A block is found again by the tokens that went in, or by where their numbers are: FSDP gives a block another tensor of
the same numbers than the one that a checkpoint around it keeps. They are not kept alive: a checkpoint does that, for as
long as its backward pass can come.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from tokenmerge.backends.torch.patching.state import Call

Tensor = torch.Tensor


class Tokens:
    """Tokens to be known again."""

    def __init__(self, x: Tensor) -> None:
        self._tensor, self._shape, self._device = weakref.ref(x), x.shape, x.device
        self._storage: Any = None
        if type(x) in (Tensor, torch.nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(x):
            self._storage, self._begin = StorageWeakRef(x.untyped_storage()), x.data_ptr()

    def are_alive(self) -> bool:
        """Whether somebody keeps them."""
        return self._tensor() is not None or not (self._storage is None or self._storage.expired())

    def are(self, x: Tensor) -> bool:
        """Whether these are they, or the same numbers at the same place: a checkpoint detaches what it has kept."""
        if self._tensor() is x:
            return True
        there = self._storage is not None and not self._storage.expired()
        return there and x.shape == self._shape and x.device == self._device and x.data_ptr() == self._begin


class Memory:
    """For every block the tokens that went into it, with the call that they were of."""

    def __init__(self) -> None:
        self._blocks: dict[int, list[tuple[Tokens, Call]]] = {}
        self._lock = threading.Lock()  # backward passes of several devices run in several threads

    def keep(self, index: int, x: Tensor, call: Call) -> None:
        """Remember what goes into a block, if a backward pass may come."""
        if not (torch.is_grad_enabled() or x.requires_grad):
            return
        with self._lock:
            before = self._blocks.get(index, ())
            known = [(tokens, of) for tokens, of in before if tokens.are_alive() and not tokens.are(x)]
            self._blocks[index] = [*known, (Tokens(x), call)]

    def again(self, index: int, x: Tensor, learned: bool, restored: bool) -> Call | None:
        """The call of a block that runs again, as it was when that began; None if nobody remembers the tokens.

        Raises:
            RuntimeError: what it gave to the next block did not go through the tokens, so gradients would be wrong.
        """
        with self._lock:
            known = list(self._blocks.get(index, ()))
        for tokens, call in reversed(known):
            if tokens.are(x):
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
