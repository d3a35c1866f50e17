"""Inputs of one call in several dtypes: each counts in its own, and what comes out has that of the tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import Case
from tokenmerge.conformance.checks.check import blame, check_each
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.strategies import any_cases
from tokenmerge.conformance.subject import Subject

# the rule about an input in a dtype of its own, where it is not that about precision
ABOUT = {"size": "PLAN-3", "prior": "LTM-3"}
# so much that half precision cannot hold them; directions and shares stay what they are
SCALED = {"metric": 2.0**20, "attn": 2.0**-26}
HALF = ("float16", "bfloat16")


# dtypes of indices, any of which a permutation may have; the narrowest that holds it
INDICES = (np.uint8, np.int16, np.int32)


def others(subject: Subject) -> list[str]:
    """Dtypes in which a second input may be: float64 only where all is float64, which some frameworks must be told."""
    known = [dtype for dtype in subject.module.DTYPES if dtype not in (subject.dtype, "float64")]
    return [dtype for dtype in known if subject.dtype != "float64" or dtype not in HALF]


@check_each(
    "mixed",
    2,
    "A metric, attention, values, sample points, noise, a prior and sizes may have another dtype than the tokens: "
    "nothing is rounded to that of the tokens first.",
    "PLAN-8",
    "PLAN-3",
    "LTM-3",
    share=0.15,
    shrinks=False,
)
def mixed(subject: Subject, data: Any, merger: str) -> None:
    known = others(subject)
    if not known:
        return
    if subject.compiles:
        case: Case = data.draw(subject.cases(merger, "generic", fixed=dict(MERGERS[merger].most_inputs)))
    else:
        case = data.draw(any_cases(merger, sized=True))
    subject.judge(case)
    if "permutation" in case.inputs:
        most = case.inputs["permutation"].max(initial=0)
        narrow = next(kind for kind in INDICES if most <= np.iinfo(kind).max)
        with blame("TOME-11"):
            subject.judge(
                replace(case, inputs=case.inputs | {"permutation": case.inputs["permutation"].astype(narrow)})
            )
    for name in [name for name, array in case.inputs.items() if name != "x" and array.dtype.kind == "f"]:
        if name == "size" and subject.dtype == "float64":  # then they may be counted in float32
            continue
        dtype = data.draw(st.sampled_from(known), label=f"dtype of {name}")
        changed = dict(case.inputs)
        if name in SCALED and dtype == "float32" and subject.dtype != "float64":
            changed[name] = changed[name] * SCALED[name]
        if name == "size":  # whole numbers that every dtype holds, but not their sums
            changed[name] = np.minimum(changed[name], 128.0)
        with blame(ABOUT.get(name, "PLAN-8")):
            subject.judge(replace(case, inputs=changed, dtypes={name: dtype}))
