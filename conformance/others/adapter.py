"""What stands between a golden vector and somebody else's package: it imports the package, and copies nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Entry = dict[str, Any]
Run = Callable[[Entry, dict[str, Array], dict[str, Array]], dict[str, Array]]


class MissingError(Exception):
    """The project has no such thing, and does not say that it has."""


class DiffersError(Exception):
    """The project has it, and does something else. The text says what, and on which input."""


@dataclass(frozen=True)
class Adapter:
    """One function of one project.

    Args:
        name: for people, such as "vit-pytorch: PatchMerger".
        package: in the package index, or the module that was given by path.
        merger: which of the four it is.
        run: takes a case of the golden vectors, its inputs and its parameters, and gives some of the results by name;
            raises `MissingError` where the project has no such option or result.
        same: makes of a result what can be compared, where the project is free in the rest (the order of slots, say).
        without: rules of which the project has nothing, with the reason.
        probes: rules that no vector shows; each function raises one of the two errors, or returns.
    """

    name: str
    package: str
    merger: str
    run: Run
    same: Callable[[str, Array], Array] = lambda name, array: array
    without: dict[str, str] = field(default_factory=dict)
    probes: dict[str, Callable[[], None]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Of the package, or "from a path"."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return "from a path"
