"""The mutants: backends that are broken on purpose, at least one per rule.

A check that cannot fail proves nothing. `tokenmerge conformance --self-test` runs the suite on every mutant, which has
to fail and to name the rule that is broken.
"""

from __future__ import annotations

from tokenmerge.conformance.mutants import (
    ats,
    attention,
    calls,
    frameworks,
    information_bottleneck,
    ltm,
    network,
    patch_merger,
    plan,
    pooling,
    tome,
)
from tokenmerge.conformance.mutants.mutant import Mutant

_ROOMS = (plan, tome, ats, patch_merger, ltm, information_bottleneck, attention, pooling, network, calls, frameworks)

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for room in _ROOMS for mutant in room.MUTANTS}

__all__ = ["MUTANTS", "Mutant"]
