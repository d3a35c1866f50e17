"""A copy of a backend with a few lines of its source changed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Edit:
    """One change of a file.

    Args:
        file: name in the backend's folder, without `.py`.
        old: text that stands there exactly once, or everywhere that it stands.
        new: text in its place.
        everywhere: whether `old` may stand there several times.
    """

    file: str
    old: str
    new: str
    everywhere: bool = False

    def apply(self, source: str) -> str:
        """The changed source.

        >>> Edit("tome", "1", "2").apply("a = 1, 1")
        Traceback (most recent call last):
        ...
        ValueError: mutant: `old` must stand once in tome.py, got 2 times: '1'
        """
        found = source.count(self.old)
        if found == 0 or (found > 1 and not self.everywhere):
            raise ValueError(f"mutant: `old` must stand once in {self.file}.py, got {found} times: {self.old!r}")
        return source.replace(self.old, self.new)


@contextmanager
def edited(backend: str, name: str, edits: Sequence[Edit]) -> Iterator[ModuleType]:
    """The backend with edits, as a package of its own that exists while the context lasts.

    Args:
        backend: dotted name of the package.
        name: of the copy. One that begins with `tokenmerge` would fall under the rules for our own warnings.
        edits: what to change.

    Raises:
        ValueError: a text to be replaced is not there, because the backend has changed.

    >>> with edited("tokenmerge.backends.numpy", "copied", [Edit("__init__", '"numpy"', '"copy"')]) as module:
    ...     module.NAME, module.ToMe.__module__
    ('copy', 'copied.tome')
    """
    finder = _Finder(backend, name, edits)
    sys.meta_path.insert(0, finder)
    try:
        module = importlib.import_module(name)
        missed = {edit.file for edit in edits} - finder.loaded
        if missed:
            raise ValueError(f"mutant: `file` must be a module that {backend} imports, got {', '.join(missed)}")
        yield module
    finally:
        sys.meta_path.remove(finder)
        for copied in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
            del sys.modules[copied]


class _Finder(MetaPathFinder, InspectLoader):
    """Finds the copy's modules and makes each from the source of the original."""

    def __init__(self, backend: str, name: str, edits: Sequence[Edit]) -> None:
        self.backend, self.name, self.edits = backend, name, edits
        self.loaded: set[str] = set()

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != self.name and not fullname.startswith(f"{self.name}."):
            return None
        original = self._original(fullname)
        if original is None:
            return None
        is_package = original.submodule_search_locations is not None
        return spec_from_loader(fullname, self, origin=original.origin, is_package=is_package)

    def get_source(self, fullname: str) -> str:
        original = self._original(fullname)
        if original is None or original.origin is None:
            raise ImportError(f"mutant: {self.backend} must have source to be copied, got {original}")
        # from the file, not from its loader: pytest's loader, which rewrites assertions, gives no source
        source = Path(original.origin).read_text().replace(self.backend, self.name)
        file = fullname[len(self.name) + 1 :] or "__init__"
        for edit in self.edits:
            if edit.file == file:
                source = edit.apply(source)
        self.loaded.add(file)
        return source

    def _original(self, fullname: str) -> ModuleSpec | None:
        return find_spec(self.backend + fullname[len(self.name) :])
