"""The checks, in the order in which they run: one file per room, a decorator collects them."""

from __future__ import annotations

from tokenmerge.conformance.checks import (
    attention,
    backward,
    backward_attention,
    composition,
    decisions,
    doors,
    errors,
    formulas,
    gradients,
    independence,
    information_bottleneck,
    odd,
    options,
    promises,
    refusals,
    state,
    storage,
    unweighted,
    vectors,
)
from tokenmerge.conformance.checks.check import CHECKS, Check

__all__ = [
    "CHECKS",
    "Check",
    "attention",
    "backward",
    "backward_attention",
    "composition",
    "decisions",
    "doors",
    "errors",
    "formulas",
    "gradients",
    "independence",
    "information_bottleneck",
    "odd",
    "options",
    "promises",
    "refusals",
    "state",
    "storage",
    "unweighted",
    "vectors",
]
