"""Numbers that are legal and rare: zeros with a sign, and scores far below one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import Case
from tokenmerge.conformance.checks.check import blame, check
from tokenmerge.conformance.draws import seeds
from tokenmerge.conformance.strategies import any_cases
from tokenmerge.conformance.subject import Subject

# In float16, and in all others: attention and values that are so small, where the smallest number is far away.
SMALL = {"float16": (2.0**-8, 2.0**-6), "": (2.0**-20, 2.0**-12)}


@check(
    "tome-signed-zeros",
    1,
    "Similarities of zero are equal whatever their sign: ties go to the lower position.",
    "TOME-5",
    "TOME-6",
    "TOME-9",
    share=0.4,
)
def signed_zeros(subject: Subject, data: Any) -> None:
    if subject.compiles:
        case: Case = data.draw(subject.cases("tome", "exact"))
    else:
        case = data.draw(any_cases("tome", "exact"))
    b, n, width = case.inputs["metric"].shape
    rng, half = np.random.default_rng(data.draw(seeds, label="seed of the metric")), max(width // 2, 1)
    # even tokens in one half of the channels, odd ones in the other: no two of them have a channel in common
    hot = rng.integers(half, size=(b, n)) + np.arange(n) % 2 * (width - half)
    case.inputs["metric"] = rng.choice([-1.0, 1.0], (b, n, 1)) * np.eye(width)[hot]
    subject.judge(case, exact=True)


@check(
    "ats-small-scores",
    2,
    "Scores count by their share, however small they are; only a row of zeros is uniform.",
    "ATS-3",
    "ATS-4",
    "ATS-5",
    share=0.3,
)
def small_scores(subject: Subject, data: Any) -> None:
    random = data.draw(st.sampled_from([None, "uniforms"]), label="sample points")
    if subject.compiles:
        case: Case = data.draw(subject.cases("ats", "generic", fixed={"random": random}))
    else:
        case = data.draw(any_cases("ats", random=random))
    subject.judge(case)
    attention, values = SMALL.get(subject.dtype, SMALL[""])
    small = {"attn": case.inputs["attn"] * attention, "value": case.inputs["value"] * values}
    with blame("ATS-3", "ATS-4"):
        subject.judge(replace(case, inputs=case.inputs | small))


@check(
    "ats-far-noise",
    2,
    "Noise far from zero decides by its differences: it is not rounded to less than working precision.",
    "ATS-6",
    share=0.2,
)
def far_noise(subject: Subject, data: Any) -> None:
    if subject.compiles:
        case: Case = data.draw(subject.cases("ats", "generic", fixed={"random": "noise"}))
    else:
        case = data.draw(any_cases("ats", random="noise"))
    case.inputs["noise"] = case.inputs["noise"] + 512.0
    subject.judge(case)
