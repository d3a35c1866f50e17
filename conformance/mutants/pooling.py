"""Pooling, broken."""

from __future__ import annotations

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.mutant import Mutant


def _mutant(name: str, rule: str, what: str, old: str, new: str) -> Mutant:
    return Mutant(f"pooling-{name}", rule, what, (Edit("pooling", old, new),))


MUTANTS = (
    _mutant(
        "plain",
        "POOL-1",
        "Every token counts once, whatever its size.",
        "np.ones(x.shape[:2], work) if size is None else size.astype(work)",
        "np.ones(x.shape[:2], work)",
    ),
    _mutant(
        "padding-counts",
        "POOL-1",
        "Padding takes part in the mean.",
        "weight = np.where(mask, weight, 0)",
        "weight = np.where(mask, weight, 1)",
    ),
)
