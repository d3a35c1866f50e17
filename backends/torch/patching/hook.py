"""What every hook knows: whose it is. And what all hooks of one patched model share."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.patching.recompute import Memory
from tokenmerge.backends.torch.patching.state import Call, Thread

if TYPE_CHECKING:
    from tokenmerge.backends.torch.patching.method import Method


FORGOTTEN = ("thread", "memory", "said", "looked_at")  # by a copy


class Patch:
    """What all hooks of one patched model share.

    Attributes:
        method: the merger and its options. depth: number of blocks. prefix: tokens in front of the patches.
        name: the network, for sentences.
        restore: whether everybody outside of the blocks sees all tokens. learned: whether mergers have parameters.
        thread: the calls of each thread; memory: what a backward pass needs; a copy of the model begins with none.
        said: the warnings that were given; looked_at: the callers that were asked what they do with parameters.
    """

    def __init__(self, method: Method, depth: int, prefix: int, name: str = "", restore: bool = False) -> None:
        self.method, self.depth, self.prefix, self.name, self.restore = method, depth, prefix, name, restore
        self.learned = False
        self._forget()

    def _forget(self) -> None:
        self.thread, self.memory = Thread(), Memory()
        self.said: set[str] = set()
        self.looked_at: weakref.WeakSet[Any] = weakref.WeakSet()
        PATCHES[id(self)] = self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in FORGOTTEN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def running(self) -> Call | None:
        """The innermost call, if it is inside a block."""
        stack = self.thread.stack  # every hook asks: without a function call
        return stack[-1] if stack and stack[-1].inside else None

    def say(self, text: str, about: str = "") -> None:
        """Warn, once of each thing; while a compiler reads this as well."""
        _say(id(self), text, about or text)


PATCHES: weakref.WeakValueDictionary[int, Patch] = weakref.WeakValueDictionary()


def _say(identity: int, text: str, about: str) -> None:
    patch = PATCHES[identity]
    if about not in patch.said:
        patch.said.add(about)
        observers.warn(f"patch: {text}")


_say._dynamo_marked_constant = True  # type: ignore[attr-defined]  # the compiler calls it, and does not read it


class Hook:
    """Base of all hooks; `patch` tells whose they are."""

    def __init__(self, patch: Patch) -> None:
        self.patch = patch
