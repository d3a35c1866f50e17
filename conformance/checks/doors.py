"""Every door to the same answer: a plan's own methods and the merger's `plan`, beside the call."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from types import ModuleType
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import Case, Outcome, context, give, make_merger, read, to_numpy
from tokenmerge.conformance.checks.check import blame, check_each
from tokenmerge.conformance.judge import judge
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.plan import check_laws
from tokenmerge.conformance.strategies import any_cases
from tokenmerge.conformance.subject import Subject
from tokenmerge.conformance.verdict import exactly
from tokenmerge.spec import batch

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


def planned_by_the_function(case: Case, module: ModuleType, arrays: dict[str, Any], device: str | None) -> Any:
    """What the function below the merger makes of the same arrays, told only of options that are not the default."""
    defaults = {name: option.default for name, option in signature(batch.MERGERS[case.merger]).parameters.items()}
    made_of = ("dim", "num_tokens_out", "use_bias", "seed")  # of a merger's parameters
    options = {name: given for name, given in case.config.items() if name not in made_of and given != defaults[name]}
    params = {name: module.from_numpy(array, None, device) for name, array in case.params.items()}
    inputs = MERGERS[case.merger].description.inputs
    first = [arrays.get(name, arrays["x"]) for name in inputs]
    rest = {name: array for name, array in arrays.items() if name not in ("x", "size", *inputs)}
    return getattr(module, case.merger).plan(*first, **rest, **options, **params)


def fields_of(module: ModuleType, plan: Any, outcome: Outcome) -> dict[str, Any]:
    """The fields of a plan that another outcome has, in NumPy."""
    found = {}
    for name in FIELDS:
        got = getattr(plan, name, None) if outcome.plan.get(name) is None else getattr(plan, name)
        found[name] = got if got is None or isinstance(got, int) else to_numpy(module, got)
    return found


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
    module = subject.module
    case = data.draw(subject.cases(merger, "generic"))
    if "size" in case.inputs:
        case.inputs["size"] = FRACTION * case.inputs["size"]
    outcome = subject.run(case)
    with context(module, subject.dtype):
        arrays = give(case, module, subject.dtype, subject.device)
        given = [arrays["size"], None] if "size" in arrays else [None]
        found = [by_the_plan(subject, outcome, arrays["x"], size) for size in given]
        after = {name: to_numpy(module, array) for name, array in arrays.items()}
        y = np.random.default_rng(outcome.tokens.size).standard_normal(outcome.tokens.shape)
        back = module.from_numpy(y, subject.dtype, subject.device)
        given_back = to_numpy(module, back).copy()
        outcome.result.plan.unmerge(back)
        after["y"] = to_numpy(module, back)
    for each in found:
        subject.demand(case, *check_laws(each))
    for name, was in (outcome.inputs | {"y": given_back}).items():
        subject.demand(case, exactly(f"`{name}` after the plan's own methods", after[name], was, "CALL-2"))


@check_each(
    "planned",
    1,
    "A merger's plan is that of its call, mask and all, and so is that of the function below it.",
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
    odd = not subject.compiles and data.draw(st.booleans(), label="more than fills a block")
    case = data.draw(any_cases(merger) if odd else subject.cases(merger, "generic"))
    whole = "mask" in case.inputs and data.draw(st.booleans(), label="nothing is padding")
    if whole:  # a mask that says so is a mask
        case.inputs["mask"] = np.ones_like(case.inputs["mask"])
    with blame(*["PLAN-9"] * whole):
        outcome = subject.judge(case)
    with context(module, subject.dtype):
        arrays = give(case, module, subject.dtype, subject.device)
        doors = [(f"{merger}.plan(...)", plan_of(case, module, arrays, subject.device))]
        if hasattr(getattr(module, merger, None), "plan"):
            made = planned_by_the_function(case, module, arrays, subject.device)
            doors.append((f"the function {merger}.plan(...)", made))
        padding = (MERGERS[merger].padding,) if "mask" in case.inputs else ()
        for door, plan in doors:
            fields = fields_of(module, plan, outcome)
            found = [exactly(f"{door}.{name}", got, outcome.plan.get(name), *padding) for name, got in fields.items()]
            if (
                not all(each.ok for each in found) and not padding
            ):  # which rule is broken, if it is one that can be seen
                result = outcome.result._replace(plan=plan, mask=plan.mask)
                by_it = read(result, outcome.inputs, arrays.get("size"), module, subject.dtype)
                subject.demand(case, *judge(case, by_it).findings)
            subject.demand(case, *found)
