"""The cases, one file per room; every rule has some, or is in `WITHOUT` with the reason."""

from __future__ import annotations

from tokenmerge.conformance.vectors.cases import (
    ats,
    attention,
    information_bottleneck,
    ltm,
    patch_merger,
    plan,
    tome,
    tome_decisions,
    tome_variants,
)
from tokenmerge.conformance.vectors.vector import Vector

# file of the data -> its cases
FILES: dict[str, list[Vector]] = {
    "plan": plan.VECTORS,
    "tome": [*tome.VECTORS, *tome_decisions.VECTORS, *tome_variants.VECTORS],
    "ats": ats.VECTORS,
    "patch_merger": patch_merger.VECTORS,
    "ltm": ltm.VECTORS,
    "information_bottleneck": information_bottleneck.VECTORS,
    "attention": attention.VECTORS,
}

WITHOUT = {
    "CALL-1": "errors are exceptions, not data",
    "CALL-2": "about the caller's memory: compare your inputs before and after a call",
    "CALL-3": "about two calls: run every case twice",
    "CALL-6": "about automatic differentiation",
    "CALL-7": "about compilation: run the cases compiled",
    "CALL-8": "about names of parameters and their loading; the names are those under params",
    "CALL-9": "about memory layout: run the cases on strided arrays",
    "CALL-10": "about pickling",
    "CALL-11": "about the caller's memory: change the arrays after loading and after reading parameters",
    "CALL-12": "about how options are given: give them by position, and leave out those that are the defaults",
    "PLAN-9": "about the result beside its plan; the plan's mask is under expected",
    "PLAN-10": "about setting fields of a plan",
    "LTM-9": "about numbers of rows and columns: examples are in `grid_tokens_out` of the spec",
    **{f"VIT-{number}": "about networks: compare yours with `tokenmerge.spec.vit`" for number in range(1, 7)},
}
