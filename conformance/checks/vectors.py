"""The golden vectors, played back: small inputs that somebody chose, each with the results that it must have."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.checks.check import MERGERS, Function, check
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.conformance.vectors.replay import Entry, differences, read, replay

Array = np.ndarray[Any, Any]

PLANS = ("partition", "selection", "dense")
# of a plan's results the law that they show first
LAWS = {"tokens": "PLAN-1", "share": "PLAN-2", "size": "PLAN-3", "unmerged": "PLAN-4"}
# room of the check -> functions of the vectors that it plays, and what the backend must have for them
ROOMS: dict[str, tuple[tuple[str, ...], str | None]] = {
    **{merger: ((merger,), None) for merger in MERGERS},
    "plan": (PLANS, "PartitionPlan SelectionPlan DensePlan"),
    "composition": (("compose",), "compose PartitionPlan SelectionPlan DensePlan"),
    "attention": (("attention_weights", "attention", "mean_pool"), "attention pooling"),
    "information_bottleneck": (
        ("cluster_scores", "estimate_q", "ib_bound", "mutual_information", "mask_scores", "ib_gradient"),
        "information_bottleneck",
    ),
}


@cache
def vectors() -> tuple[list[Entry], dict[str, Array]]:
    """The vectors of the package, read once."""
    return read()


def _of(functions: tuple[str, ...]) -> list[Entry]:
    return [case for case in vectors()[0] if case["function"] in functions]


def _played(functions: tuple[str, ...]) -> Function:
    def function(subject: Subject, data: Any) -> None:
        own = [case for case in _of(functions) if subject.dtype in case["dtypes"]]
        if subject.compiles and own:  # new shapes and operations are compiled for every one
            own = [data.draw(st.sampled_from(own), label="vector")]
        for case in own:
            _play(subject, case)

    return function


def _play(subject: Subject, case: Entry) -> None:
    tensors = vectors()[1]
    program = "\n".join(
        [
            "from tokenmerge.backends import get_backend",
            "from tokenmerge.conformance.vectors.replay import differences, read, replay",
            "",
            "cases, tensors = read()",
            f"case = next(case for case in cases if case['id'] == {case['id']!r})",
            f"got = replay(case, tensors, get_backend({subject.name!r}), {subject.dtype!r})",
            f"print(case['about'], *differences(case, tensors, got, {subject.dtype!r}), sep='\\n')",
        ]
    )
    try:
        got = replay(case, tensors, subject.module, subject.dtype, subject.device)
        found = differences(case, tensors, got, subject.dtype)
    except Exception as error:
        found = [f"{case['id']}: raised {type(error).__name__}: {error}, but should return a result"]
    if found:
        laws = [
            LAWS[name] for sentence in found for name in LAWS if case["function"] in PLANS and f"`{name}`" in sentence
        ]
        raise Mismatch("\n".join([case["about"], *found]), program, tuple(dict.fromkeys([*laws, *case["rules"]])))


for room, (functions, needs) in ROOMS.items():
    about = tuple(dict.fromkeys(rule for case in _of(functions) for rule in case["rules"]))
    if not about:  # a merger that has no vectors yet
        continue
    name = f"{room}-vectors"
    statement = "The golden vectors have the results that they must have."
    # one example plays all of them
    check(name, 3, statement, *about, share=0.025, needs=needs)(_played(functions))
