"""A mutant: a backend that is broken on purpose, so that the suite can show that it notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tokenmerge.backends import get_backend
from tokenmerge.conformance.mutants.edited import Edit, edited

Change = Callable[[ModuleType], ModuleType]


@dataclass(frozen=True)
class Mutant:
    """A correct backend with one small change.

    Args:
        name: `room-change`, unique.
        rule: id of the one rule that it breaks.
        what: what it does, one sentence.
        change: edits of the source, or a function that makes the broken backend from the correct one.
        mergers: those in which it shows; none if it shows in what networks need around them.
        backend: the one that is changed.
        dtype: in which it shows.
    """

    name: str
    rule: str
    what: str
    change: tuple[Edit, ...] | Change
    mergers: tuple[str, ...] = ()
    backend: str = "numpy"
    dtype: str = "float32"

    @contextmanager
    def built(self) -> Iterator[ModuleType]:
        """The broken backend.

        Raises:
            ImportError: the backend's framework is not installed.
            ValueError: the backend has changed and an edit has no place in it any more.
        """
        backend = get_backend(self.backend)
        if isinstance(self.change, tuple):
            with edited(backend.__name__, "mutant", self.change) as module:
                yield module
        else:
            yield self.change(backend)


def variant(module: ModuleType, **attributes: Any) -> ModuleType:
    """A module with some attributes replaced.

    >>> import math
    >>> variant(math, pi=3).pi, math.pi > 3
    (3, True)
    """
    made = ModuleType(module.__name__)
    vars(made).update(vars(module), **attributes)
    return made
