"""Foreign bugs: what people who ported a backend got wrong, and others of the same kinds.

The mutants beside this folder were made for the rules, one by one; these were made for backends, with no look at the
suite. So they show what the suite does not look at. `survivors.txt` has the names of those that it still calls green;
a test holds the list against what happens, in both directions, so it can only become shorter or be a mistake.
"""

from __future__ import annotations

from pathlib import Path

from tokenmerge.conformance.mutants.foreign import (
    conventions,
    doors,
    gradients,
    networks,
    options,
    shapes,
    state,
    values,
    wide,
)
from tokenmerge.conformance.mutants.mutant import Mutant

ROOMS = (shapes, wide, doors, options, conventions, state, values, gradients, networks)
FOREIGN: dict[str, Mutant] = {mutant.name: mutant for room in ROOMS for mutant in room.MUTANTS}
SURVIVORS_FILE = Path(__file__).with_name("survivors.txt")


def survivors() -> tuple[str, ...]:
    """Names of the foreign bugs that level ci with the seed of every run does not find yet.

    Raises:
        ValueError: a name that no foreign bug has, or that stands there twice.
    """
    lines = [line.strip() for line in SURVIVORS_FILE.read_text(encoding="utf-8").splitlines()]
    names = tuple(line for line in lines if line and not line.startswith("#"))
    unknown = [name for name in names if name not in FOREIGN or names.count(name) > 1]
    if unknown:
        raise ValueError(f"survivors.txt: every line must name one foreign bug, once, got {unknown[0]!r}")
    return names


__all__ = ["FOREIGN", "SURVIVORS_FILE", "Mutant", "survivors"]
