"""A foreign bug: what an honest porter gets wrong, as a change of the NumPy backend."""

from __future__ import annotations

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.mutant import Mutant


def bug(
    name: str, rule: str, what: str, mergers: str, *changes: tuple[str, str, str], dtype: str = "float32"
) -> Mutant:
    """A mutant of the NumPy backend.

    Args:
        name: short, unique among the foreign bugs.
        rule: id of the rule that it breaks.
        what: what is wrong, one sentence.
        mergers: those in which it shows, with spaces between.
        changes: file, text that stands there once, text in its place.
        dtype: in which it shows.

    >>> bug("no-padding", "PM-4", "Padding counts.", "patch_merger", ("patch_merger", "a", "b")).name
    'foreign-no-padding'
    """
    edits = tuple(Edit(file, old, new) for file, old, new in changes)
    return Mutant(f"foreign-{name}", rule, what, edits, tuple(mergers.split()), dtype=dtype)
