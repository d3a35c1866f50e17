"""Every door to the same answer: a plan's own methods and the merger's `plan`, beside the call."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

from tokenmerge.conformance.case import Case, Outcome, context, give, make_merger, to_numpy
from tokenmerge.conformance.checks.check import check_each
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.plan import check_laws
from tokenmerge.conformance.subject import Subject
from tokenmerge.conformance.verdict import exactly

FIELDS = ("assignment", "indices", "weights", "mask", "num_tokens_in", "num_tokens_out")
FRACTION = 0.375  # a size of earlier layers need be no whole number


def by_the_plan(subject: Subject, outcome: Outcome, x: Any, size: Any) -> Outcome:
    """What the plan's own methods make of tokens and sizes; without sizes all are one."""
    module, plan = subject.module, outcome.result.plan
    given = () if size is None else (size,)
    merged, counted = plan.merge(x, *given), plan.merge_size(*given)
    dtypes = {name: str(array.dtype).rpartition(".")[2] for name, array in (("tokens", merged), ("size", counted))}
    # a plan of integers counts without knowing a precision
    if size is None and dtypes["size"] in ("float32", "float64"):
        dtypes["size"] = outcome.dtypes["size"]
    return replace(
        outcome,
        inputs={name: array for name, array in outcome.inputs.items() if name != "size" or size is not None},
        tokens=to_numpy(module, merged),
        size=to_numpy(module, counted),
        unmerged=to_numpy(module, plan.unmerge(merged)),
        matrix=to_numpy(module, plan.matrix(*given)),
        dtypes=dtypes,
    )


def plan_of(case: Case, module: ModuleType, arrays: dict[str, Any], device: str | None) -> Any:
    """What the merger's `plan` makes of the arrays of a call, which is asked for nothing yet."""
    given = dict(arrays)
    first = [given.pop(name) if name in given else given["x"] for name in MERGERS[case.merger].description.inputs]
    rest = {name: array for name, array in given.items() if name not in ("x", "size")}
    return make_merger(case, module, device).plan(*first, **rest)


@check_each(
    "doors",
    3,
    "What a plan is asked for by its own methods, with sizes and without, follows the same laws as the merger's call.",
    "PLAN-1",
    "PLAN-2",
    "PLAN-3",
    "PLAN-4",
    "PLAN-6",
    "PLAN-7",
    "PLAN-8",
    share=0.5,
)
def doors(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    if "size" in case.inputs:
        case.inputs["size"] = FRACTION * case.inputs["size"]
    outcome = subject.run(case)
    with context(subject.module, subject.dtype):
        arrays = give(case, subject.module, subject.dtype, subject.device)
        given = [arrays["size"], None] if "size" in arrays else [None]
        found = [by_the_plan(subject, outcome, arrays["x"], size) for size in given]
    for each in found:
        subject.demand(case, *check_laws(each))


@check_each(
    "planned",
    1,
    "A merger's plan is that of its call, mask and all.",
    "CALL-3",
    "PLAN-9",
    "TOME-12",
    "ATS-8",
    "LTM-6",
    "PM-4",
    share=0.3,
)
def planned(subject: Subject, data: Any, merger: str) -> None:
    module = subject.module
    case = data.draw(subject.cases(merger, "generic"))
    outcome = subject.run(case)
    with context(module, subject.dtype):
        plan = plan_of(case, module, give(case, module, subject.dtype, subject.device), subject.device)
        for name in FIELDS:
            if outcome.plan.get(name) is None:
                got = getattr(plan, name, None)
            else:
                got = getattr(plan, name)
                got = got if isinstance(got, int) else to_numpy(module, got)
            subject.demand(case, exactly(f"{merger}.plan(...).{name}", got, outcome.plan.get(name)))
