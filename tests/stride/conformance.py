"""How stride is proved."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.conformance.bad import FLOAT_MASK, INTEGERS, SHORT_MASK, SIZE, X
from tokenmerge.conformance.case import Case, Outcome
from tokenmerge.conformance.plan import check_laws
from tokenmerge.conformance.proof import Proof
from tokenmerge.conformance.verdict import Finding, exactly
from tokenmerge.spec.stride import DESCRIPTION, plan

Array = np.ndarray[Any, Any]


def certify(case: Case, outcome: Outcome) -> list[Finding]:
    """The tokens that stay are those of the law."""
    x, mask = outcome.inputs["x"], outcome.inputs.get("mask")
    findings = []
    for i in range(len(x)):
        want = plan(x[i], protected=case.config["protected"], mask=None if mask is None else mask[i])
        findings.append(exactly(f"indices[{i}]", outcome.plan["indices"][i].astype(int), want.indices, "STRIDE-1"))
    return [*findings, *check_laws(outcome)]


def cases(draw: Any, kind: str, shape: tuple[int, int], mask: Array | None, choice: dict[str, Any]) -> Case:
    """A case of a kind; `choice` has an option each of the space."""
    from tokenmerge.conformance.draws import CHANNELS, tokens

    config = {"protected": min(choice["protected"], shape[1])}
    return Case("stride", config, {"x": draw(tokens(kind, (*shape, CHANNELS)))})


PROOF = Proof(
    description=DESCRIPTION,
    certify=certify,
    cases=cases,
    space={"protected": (0, 1, 2)},
    config={"protected": 1},
    bad=(
        ({"protected": -1}, {}),
        ({}, {"x": X[0]}),
        ({}, {"x": INTEGERS}),
        ({}, {"x": X, "size": SIZE[:1]}),
        ({}, {"x": X, "mask": SHORT_MASK}),
        ({}, {"x": X, "mask": FLOAT_MASK}),
    ),
    padding="STRIDE-1",
    differences=lambda case, outcome, want: ("STRIDE-1",),
)
