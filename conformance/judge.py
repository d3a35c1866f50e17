"""The verdict on one outcome: every decision certified, every value within its budget."""

from __future__ import annotations

import numpy as np

from tokenmerge.conformance import ats, ltm, patch_merger, tome
from tokenmerge.conformance.case import Case, Outcome, make_merger
from tokenmerge.conformance.verdict import Finding, Verdict, exactly
from tokenmerge.spec import batch

TIES = {
    "bipartite": ("TOME-5", "TOME-6"),
    "kth": ("TOME-10",),
    "random": ("TOME-11",),
    "ats": ("ATS-5",),
    "patch_merger": (),
    "ltm": (),
}
CERTIFY = {"tome": tome.certify, "ats": ats.certify, "patch_merger": patch_merger.certify, "ltm": ltm.certify}


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
    findings = CERTIFY[case.merger](case, outcome)
    differences = decisions(case, outcome)
    if exact:
        findings = [*findings, *differences]
    equal = all(finding.ok for finding in differences) if differences else None
    return Verdict(equal, tuple(findings))


def decisions(case: Case, outcome: Outcome) -> list[Finding]:
    """The integers of the plan against those of the spec in float64, on the inputs as the backend saw them."""
    # what the certificates let pass is a tie, or close to one
    ties = TIES[case.config.get("matching", "bipartite") if case.merger == "tome" else case.merger]
    reference = make_merger(case, batch)
    inputs = {
        name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in outcome.inputs.items()
    }
    made = reference(inputs.pop("x"), **inputs).plan
    return [
        exactly(name, outcome.plan[name].astype(int), getattr(made, name).astype(int), *ties)
        for name in ("assignment", "indices")
        if name in outcome.plan
    ]
