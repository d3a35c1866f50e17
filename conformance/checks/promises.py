"""What the interface promises besides numbers: masks, dtypes, frozen plans, copies, and options by position."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from tokenmerge.conformance.case import context, give, make_merger, read, to_numpy
from tokenmerge.conformance.checks.check import LEARNED, check_each
from tokenmerge.conformance.checks.independence import same
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.conformance.verdict import exactly
from tokenmerge.spec import batch


@check_each(
    "result",
    1,
    "A result has the mask of its plan, and its tokens are unmerged in their own dtype.",
    "PLAN-8",
    "PLAN-9",
    share=0.2,
)
def result(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    outcome = subject.run(case)
    with context(subject.module, subject.dtype):
        unmerged = outcome.result.plan.unmerge(outcome.result.tokens)
    dtype = str(unmerged.dtype).rpartition(".")[2]
    merged = MERGERS[merger].description
    there = merged.pads or (merged.sizes != "fresh" and "mask" in case.inputs)
    subject.demand(
        case,
        exactly("dtype of plan.unmerge(tokens)", dtype, subject.dtype, "PLAN-8"),
        exactly("Merged.mask is there", outcome.mask is not None, there, "PLAN-9"),
        exactly("Merged.mask", outcome.mask, outcome.plan["mask"], "PLAN-9"),
    )


@check_each("frozen", 1, "No field of a plan can be set.", "PLAN-10", share=0.1)
def frozen(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    made = subject.run(case).result.plan
    for name in ("assignment", "indices", "weights", "mask", "num_tokens_in", "num_tokens_out"):
        if hasattr(made, name):
            subject.demand(case, exactly(f"plan.{name} can be set", _can_be_set(made, name), False, "PLAN-10"))


def _can_be_set(plan: Any, name: str) -> bool:
    try:
        setattr(plan, name, None)
    except Exception:  # whatever a framework raises
        return False
    return True


@check_each(
    "copies",
    1,
    "Who changes what params() gave, or what load_params was given, does not change the merger.",
    "CALL-11",
    mergers=LEARNED,
    share=0.1,
)
def copies(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    with context(subject.module, subject.dtype):
        made = make_merger(case, subject.module, subject.device)
        given = {name: array.copy() for name, array in case.params.items()}
        made.load_params(given)
        for array in given.values():
            array += 1
        _same_params(subject, case, made, "after load_params's arrays were changed")
        for array in made.params().values():
            if array.flags.writeable:
                array += 1
        _same_params(subject, case, made, "after params()'s arrays were changed")


def _same_params(subject: Subject, case: Any, made: Any, when: str) -> None:
    for name, array in made.params().items():
        subject.demand(case, exactly(f"`{name}` {when}", np.asarray(array), case.params[name], "CALL-11"))


@check_each(
    "signature",
    1,
    "Options are the same by name, by position and by default, and so is what a plan is made of.",
    "CALL-12",
    share=0.2,
)
def signature(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    module = subject.module
    options = inspect.signature(batch.MERGERS[merger]).parameters
    whole = [case.config.get(name, option.default) for name, option in options.items()]
    least = {name: value for name, value in case.config.items() if value != options[name].default}
    with context(module, subject.dtype):
        arrays = give(case, module, subject.dtype, subject.device)
        seen = {name: to_numpy(module, array) for name, array in arrays.items()}
        size = arrays.get("size")

        def call(made: Any) -> Any:
            if case.params:
                made.load_params(case.params)
            made = made.to(subject.device) if subject.device is not None and hasattr(made, "to") else made
            others = {name: array for name, array in arrays.items() if name != "x"}
            return read(made(arrays["x"], **others), seen, size, module, subject.dtype)

        by_name = call(module.MERGERS[merger](**least))
        by_position = call(module.MERGERS[merger](*whole))
        inputs = MERGERS[merger].description.inputs
        named = {name: arrays.get(name, arrays["x"]) for name in inputs}
        named |= {name: array for name, array in arrays.items() if name not in ("x", "size")}
        try:
            planned = make_merger(case, module, subject.device).plan(**named)
        except TypeError as error:
            raise Mismatch(f"{merger}.plan({', '.join(named)}) raised {error} [{case}]", rules=("CALL-12",)) from None
        plan = by_position.result._replace(plan=planned)
        by_names = read(plan, seen, size, module, subject.dtype)
    subject.demand(case, *same(by_position, by_name, rules=("CALL-12",), why="with all options by position"))
    subject.demand(case, *same(by_names, by_position, rules=("CALL-12",), why="of a plan with all arguments by name"))
