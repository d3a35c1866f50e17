"""How arrays lie in memory makes no difference; plans are data that can be stored and sent."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np

from tokenmerge.conformance.case import context, give, make_merger, read, to_numpy
from tokenmerge.conformance.checks.check import blame, check_each
from tokenmerge.conformance.checks.independence import same
from tokenmerge.conformance.judge import judge
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.subject import Subject
from tokenmerge.conformance.verdict import exactly


@check_each("strided", 2, "Views, slices with a step and transposed arrays give what contiguous ones give.", "CALL-9")
def strided(subject: Subject, data: Any, merger: str) -> None:
    exact = MERGERS[merger].kind == "exact"
    case = data.draw(subject.cases(merger, MERGERS[merger].kind))
    subject.judge(case, exact)  # where contiguous arrays give something wrong, too, memory is not to blame
    module, dtype = subject.module, subject.dtype
    with context(module, dtype):
        arrays = {}
        for name, array in case.inputs.items():
            # every second entry of the token axis, and the last two axes exchanged twice
            dtype_of, wide = case.in_dtype(name, dtype), np.repeat(array, 2, axis=1) if array.ndim > 1 else array
            turned = np.ascontiguousarray(np.swapaxes(wide, -1, -2)) if array.ndim > 1 else wide
            view = module.from_numpy(turned, dtype_of, subject.device)
            arrays[name] = view.swapaxes(-1, -2)[:, ::2] if array.ndim > 1 else view
        seen = {name: to_numpy(module, array) for name, array in arrays.items()}
        size = arrays.get("size")
        outcome = read(make_merger(case, module, subject.device)(**arrays), seen, size, module, dtype)
    verdict = judge(case, outcome, exact)
    subject.budgets.append(verdict.budget_used)
    with blame("CALL-9"):
        subject.demand(case, *verdict.findings)


@check_each("pickled", 1, "A plan can be pickled, and what comes back works as before.", "CALL-10", share=0.3)
def pickled(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    outcome = subject.run(case)
    module = subject.module
    with context(module, subject.dtype):
        arrays = give(case, module, subject.dtype, subject.device)
        made = outcome.result.plan
        again = outcome.result._replace(plan=pickle.loads(pickle.dumps(made)))
        copied = read(again, outcome.inputs, arrays.get("size"), module, subject.dtype)
    subject.demand(case, *same(copied, outcome, why="of a pickled plan"))
    for name in ("num_tokens_in", "num_tokens_out"):
        subject.demand(case, exactly(f"{name} of a pickled plan", copied.plan[name], outcome.plan[name], "CALL-10"))


@check_each(
    "moved", 2, "A plan that is moved to another device works there as before.", "CALL-10", devices=2, share=0.3
)
def moved(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    outcome = subject.run(case)
    module, made = subject.module, outcome.result.plan

    def move(array: Any, device: str, dtype: str | None = None) -> Any:
        return module.from_numpy(module.to_numpy(array), dtype, device)

    with context(module, subject.dtype):
        for device in module.devices():
            fields = {name: getattr(made, name, None) for name in ("assignment", "indices", "weights", "mask")}
            plan = replace(made, **{n: move(array, device) for n, array in fields.items() if array is not None})
            tokens = move(outcome.result.tokens, device, subject.dtype)
            result = outcome.result._replace(tokens=tokens, plan=plan)
            size = give(case, module, subject.dtype, device).get("size")
            there = read(result, outcome.inputs, size, module, subject.dtype)
            with blame("CALL-10"):  # another device rounds otherwise: the same bounds, not the same bits
                subject.demand(case, *judge(case, there).findings)


@check_each(
    "vmapped", 2, "A merger mapped over another axis gives what it gives one by one.", "CALL-4", needs="vmap", share=0.1
)
def vmapped(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, MERGERS[merger].kind))
    module = subject.module
    names = list(case.inputs)
    with context(module, subject.dtype):
        arrays = give(case, module, subject.dtype, subject.device)
        seen = {name: to_numpy(module, array) for name, array in arrays.items()}
        made = make_merger(case, module, subject.device)
        twice = replace(case, inputs={name: np.stack([array, array]) for name, array in case.inputs.items()})
        stacked = give(twice, module, subject.dtype, subject.device).values()
        run = module.vmap(lambda *values: made(**dict(zip(names, values, strict=True))).tokens)
        got = to_numpy(module, run(*stacked))
        outcome = read(made(**arrays), seen, arrays.get("size"), module, subject.dtype)
    for row in got:
        verdict = judge(case, type(outcome)(**{**vars(outcome), "tokens": row}))
        subject.demand(case, *verdict.findings)
