"""Decisions, values and the laws of the plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tokenmerge.conformance.case import context, to_numpy
from tokenmerge.conformance.checks.check import DECIDING, blame, check, check_each
from tokenmerge.conformance.draws import seeds
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.strategies import cases
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.conformance.verdict import exactly


@check_each(
    "exact",
    1,
    "On inputs whose arithmetic is exact in every precision every decision is the spec's; ties go to the lower index.",
    "TOME-*",
    "ATS-*",
    mergers=DECIDING,
)
def exact(subject: Subject, data: Any, merger: str) -> None:
    subject.judge(data.draw(subject.cases(merger, "exact", padded=False)), exact=True)


@check_each(
    "generic",
    2,
    "On ordinary floats every decision is optimal, and every value exact, within the bound of its rounding errors.",
    "TOME-*",
    "ATS-*",
    "PM-*",
    "LTM-*",
    "PLAN-*",
    everywhere=True,
)
def generic(subject: Subject, data: Any, merger: str) -> None:
    subject.judge(data.draw(subject.cases(merger, "generic", padded=False)))


# a vector that is so long has some bits left, and only subnormal entries
SUBNORMAL = {"float16": 2.0**-18, "bfloat16": 2.0**-130, "float32": 2.0**-136, "float64": 2.0**-1060}


def keeps_subnormal(subject: Subject) -> bool:
    """Whether the framework's own multiplication does not flush such numbers to zero, as it may."""
    module, dtype = subject.module, subject.dtype
    with context(module, dtype):
        tiny, one = (module.from_numpy(np.array([value]), dtype, subject.device) for value in (SUBNORMAL[dtype], 1.0))
        return bool(to_numpy(module, tiny * one)[0])


@check(
    "tome-range",
    2,
    "The similarity of very large and very small vectors is that of their directions: squares stay in range; "
    "a vector that is zero or not finite is similar to none.",
    "TOME-2",
    share=0.3,
)
def very_large_and_very_small(subject: Subject, data: Any) -> None:
    case = data.draw(subject.cases("tome", "generic"))
    subject.judge(case)  # where ordinary vectors are compared wrongly, too, their range is not to blame
    scales = [0.0, 1.0, np.inf] if subject.dtype == "float16" else [0.0, 1e-25, 1.0, 1e25, np.inf]  # it ends at 65504
    scales += [SUBNORMAL[subject.dtype]] * keeps_subnormal(subject)
    scale = np.random.default_rng(data.draw(seeds, label="seed of the scales")).choice(
        scales, case.inputs["x"].shape[:2]
    )
    with np.errstate(invalid="ignore"):  # some of them become NaN
        case.inputs["metric"] = case.inputs["metric"] * scale[:, :, None]
    with blame("TOME-2"):
        subject.judge(case)


@check_each(
    "large",
    2,
    "The same holds for many tokens, up to N = 1024.",
    "TOME-5",
    "TOME-6",
    "ATS-4",
    "ATS-5",
    "PM-2",
    "LTM-4",
    share=0.1,
)
def large(subject: Subject, data: Any, merger: str) -> None:
    if subject.level == "quick" and subject.compiles:  # so large a shape is compiled once, for both checks
        largest(subject, data, merger)
    else:
        subject.judge(data.draw(subject.cases(merger, "large")))


@check_each(
    "largest",
    2,
    "The same holds for the tokens of a whole large image, N = 4096 (577 in a quick look).",
    "TOME-5",
    "TOME-6",
    "ATS-4",
    "ATS-5",
    "PM-2",
    "LTM-4",
    share=0.025,
    shrinks=False,  # its shape is what it is, and a failure in fewer tokens is for the other checks to find
)
def largest(subject: Subject, data: Any, merger: str) -> None:
    shape = (1, 577 if subject.level == "quick" else 4096)
    subject.judge(
        data.draw(cases(merger, "large", options="typical", shape=shape, fixed=dict(MERGERS[merger].largest)))
    )


@check_each(
    "degenerate",
    1,
    "Empty and tiny shapes, equal and zero tokens, options larger than possible: the same rules, no NaN, no crash.",
    "CALL-5",
    "TOME-1",
    "TOME-2",
    "ATS-3",
    "ATS-8",
    "PM-4",
    "LTM-1",
)
def degenerate(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "degenerate"))
    outcome = subject.judge(case)
    subject.demand(case, exactly("NaN among the tokens", bool(np.isnan(outcome.tokens).any()), False))
    if subject.compiles:
        return
    for name in {"x", "metric", "value"} & case.inputs.keys() if merger in DECIDING else ():  # others have a `dim`
        with blame("CALL-5"):
            subject.judge(replace(case, inputs=case.inputs | {name: case.inputs[name][..., :0]}))


@check_each(
    "padded",
    1,
    "A sample in a padded batch gives what it gives alone, then is padded on the right; padding reaches nothing.",
    "TOME-12",
    "ATS-7",
    "PM-4",
    "LTM-6",
)
def padded(subject: Subject, data: Any, merger: str) -> None:
    kind = MERGERS[merger].kind
    case = data.draw(subject.cases(merger, kind, padded=True))
    try:
        outcome = subject.judge(case, exact=kind == "exact")
    except Mismatch:
        # where it is wrong without a mask, too, padding is not to blame
        subject.judge(replace(case, inputs={n: a for n, a in case.inputs.items() if n != "mask"}), kind == "exact")
        with blame(MERGERS[merger].padding):
            raise
    # whatever stands in the padding, even NaN, must not be seen
    padding = ~case.inputs["mask"]
    for filler in (np.nan, 1.0):
        dirty = {name: array.copy() for name, array in case.inputs.items()}
        dirty["x"][padding] = filler
        if "metric" in dirty:
            dirty["metric"][padding] = np.inf if np.isnan(filler) else filler
        if "value" in dirty:
            dirty["value"] = np.where(padding[:, None, :, None], filler, dirty["value"])
            columns = padding[:, None, :] if dirty["attn"].ndim == 3 else padding[:, None, None, :]
            dirty["attn"] = np.where(columns, filler, dirty["attn"])
        again = subject.run(replace(case, inputs=dirty))
        subject.demand(
            case,
            exactly(f"tokens with {filler} in the padding", again.tokens, outcome.tokens, MERGERS[merger].padding),
            exactly(f"size with {filler} in the padding", again.size, outcome.size, MERGERS[merger].padding),
            exactly(f"plan with {filler} in the padding", again.matrix, outcome.matrix, MERGERS[merger].padding),
        )


@check(
    "tome-unmerge",
    1,
    "unmerge puts every token back at its own position, for every `protected` and every `order`; mass is conserved.",
    "PLAN-4",
    "PLAN-3",
    "TOME-4",
)
def unmerge(subject: Subject, data: Any) -> None:
    case = data.draw(subject.cases("tome", "generic"))
    # tokens that know their position; in integers, so that every dtype holds them
    b, n, _ = case.inputs["x"].shape
    case.inputs["x"][:] = np.arange(n)[None, :, None]
    case.inputs["size"] = np.ones((b, n))
    outcome = subject.run(case)
    groups = outcome.plan["assignment"]
    for i in range(b):
        for token in range(n):
            members = np.flatnonzero(groups[i] == groups[i, token])
            if groups[i, token] >= 0 and len(members) == 1:
                got = outcome.unmerged[i, token, 0]
                subject.demand(case, exactly(f"unmerged[{i}, {token}]", float(got), float(token), "PLAN-4"))
    real = case.inputs.get("mask", np.ones((b, n), bool)).sum(axis=1)
    subject.demand(case, exactly("sum of the sizes", outcome.size.sum(axis=1), real.astype(float), "PLAN-3"))
