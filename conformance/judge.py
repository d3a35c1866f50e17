"""The verdict on one outcome: every decision certified, every value within its budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tokenmerge.conformance.case import Case, Outcome, make_merger
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.rounding import UNIT
from tokenmerge.conformance.verdict import Finding, Verdict, exactly
from tokenmerge.spec import batch

# How much coarser the next lower precision is.
COARSER = {dtype: UNIT[dtype] / UNIT["float32"] for dtype in ("float16", "bfloat16")}
COARSER["float64"] = UNIT["float32"] / UNIT["float64"]


def judge(case: Case, outcome: Outcome, exact: bool = False) -> Verdict:
    """Hold an outcome against the spec.

    Args:
        case: what was run.
        outcome: what a backend made of it.
        exact: demand the spec's own decisions; for inputs whose arithmetic is exact in every precision.

    >>> import numpy as np
    >>> from tokenmerge.conformance.case import Case, run_case
    >>> case = Case("tome", {"r": 1}, {"x": np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])})
    >>> print(judge(case, run_case(case, "numpy")))
    agrees with the spec; 0 of the rounding budget used
    """
    findings = [precision_first(finding, outcome.dtype) for finding in MERGERS[case.merger].certify(case, outcome)]
    differences = decisions(case, outcome)
    if exact:
        findings = [*findings, *differences]
    equal = all(finding.ok for finding in differences) if differences else None
    return Verdict(equal, tuple(findings))


def precision_first(finding: Finding, dtype: str) -> Finding:
    """The finding, which is about precision first if the error is one that the next lower precision makes."""
    lowered = 1 < finding.used <= COARSER.get(dtype, 1.0)
    return replace(finding, rules=("PLAN-8", *finding.rules)) if lowered else finding


def decisions(case: Case, outcome: Outcome) -> list[Finding]:
    """The integers of the plan against those of the spec in float64, on the inputs as the backend saw them."""
    reference = make_merger(case, batch)
    inputs = {
        name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in outcome.inputs.items()
    }
    made = reference(inputs.pop("x"), **inputs).plan
    # what the certificates let pass is a tie, or close to one
    for name in ("assignment", "indices"):
        if name in outcome.plan:
            want = getattr(made, name).astype(int)
            rules = MERGERS[case.merger].differences(case, outcome, want)
            return [exactly(name, outcome.plan[name].astype(int), want, *rules)]
    return []
