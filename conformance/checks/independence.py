"""What a result may not depend on: other samples, earlier calls, compilation; and what a call may not touch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import Case, Outcome, context, give, make_merger, read, to_numpy
from tokenmerge.conformance.checks.check import check_each
from tokenmerge.conformance.subject import Subject
from tokenmerge.conformance.verdict import Finding, exactly


def same(got: Outcome, want: Outcome, samples: Any = slice(None), why: str = "") -> list[Finding]:
    """Two outcomes are equal to the last bit in some samples."""
    findings = []
    for name in ("tokens", "size", "mask", "matrix", "unmerged"):
        a, b = getattr(got, name), getattr(want, name)
        if a is None or b is None:
            findings.append(exactly(f"{name} {why}", a is None, b is None))
        else:
            findings.append(exactly(f"{name} {why}", a[samples], b[samples]))
    return findings


@check_each(
    "isolated",
    1,
    "NaN or infinity in one sample never reaches another sample of the batch, and never crashes.",
    "CALL-4",
)
def isolated(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic").filter(lambda case: len(case.inputs["x"]) > 1))
    clean = subject.run(case)
    sick = data.draw(st.integers(0, len(case.inputs["x"]) - 1), label="sick sample")
    poison = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]), label="poison")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), label="seed of the places"))
    inputs = dict(case.inputs)
    for name in ("x", "metric", "attn", "value"):
        if name in inputs:
            inputs[name] = inputs[name].copy()
            inputs[name][sick][rng.random(inputs[name][sick].shape) < rng.choice([0.1, 1.0])] = poison
    poisoned = replace(case, inputs=inputs)
    with np.errstate(all="ignore"):
        outcome = subject.run(poisoned)
    healthy = np.arange(len(inputs["x"])) != sick
    subject.demand(poisoned, *same(outcome, clean, healthy, f"with sample {sick} at {poison}"))
    for name in ("assignment", "indices"):
        if name in outcome.plan:
            slots = outcome.plan["num_tokens_out" if name == "assignment" else "num_tokens_in"]
            in_range = (outcome.plan[name] >= -1) & (outcome.plan[name] < max(slots, 1))
            subject.demand(poisoned, exactly(f"{name} in range", bool(in_range.all()), True))


@check_each(
    "untouched",
    1,
    "Inputs are never modified, and a second call gives the same result: no state, no hidden randomness.",
    "CALL-2",
    "CALL-3",
)
def untouched(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    module = subject.module
    with context(module, subject.dtype):
        arrays = give(case, module, subject.dtype, subject.device)
        before = {name: to_numpy(module, array).copy() for name, array in arrays.items()}
        made = make_merger(case, module)
        outcomes = []
        for _ in range(2):
            result = made(arrays["x"], **{name: array for name, array in arrays.items() if name != "x"})
            outcomes.append(read(result, before, arrays.get("size"), module, subject.dtype))
        after = {name: to_numpy(module, array) for name, array in arrays.items()}
    subject.demand(case, *(exactly(f"`{name}` after the call", after[name], before[name]) for name in before))
    subject.demand(case, *same(outcomes[1], outcomes[0], why="of a second call"))


@check_each(
    "batch",
    1,
    "A sample's plan and tokens do not depend on the other samples: a batch is its samples, one by one.",
    "CALL-4",
)
def batch(subject: Subject, data: Any, merger: str) -> None:
    kind = "exact" if merger in ("tome", "ats") else "generic"
    case = data.draw(subject.cases(merger, kind).filter(lambda case: len(case.inputs["x"]) > 1))
    whole = subject.judge(case, exact=kind == "exact")
    i = data.draw(st.integers(0, len(case.inputs["x"]) - 1), label="sample")
    shared = {"prior"} if case.inputs.get("prior", np.zeros((1, 1, 1))).ndim == 2 else set()
    alone = Case(
        case.merger,
        case.config,
        {name: array if name in shared else array[i : i + 1] for name, array in case.inputs.items()},
        case.params,
    )
    outcome = subject.judge(alone, exact=kind == "exact")
    for name in ("assignment", "indices"):
        if name in whole.plan:
            subject.demand(case, exactly(f"{name}[{i}]", whole.plan[name][i], outcome.plan[name][0]))


@check_each(
    "compiled",
    2,
    "A compiled merger decides as the eager one does, and its values keep the same bounds.",
    "CALL-7",
    needs="compile",
    share=0.05,
    dtype="float32",
)
def compiled(subject: Subject, data: Any, merger: str) -> None:
    from tokenmerge.conformance.judge import judge

    case = data.draw(subject.cases(merger, "exact" if merger in ("tome", "ats") else "generic"))
    module = subject.module
    with context(module, subject.dtype):
        arrays = give(case, module, subject.dtype, subject.device)
        seen = {name: to_numpy(module, array) for name, array in arrays.items()}
        made = make_merger(case, module)
        names = list(arrays)
        run = module.compile(lambda *values: made(**dict(zip(names, values, strict=True))))
        outcome = read(run(*arrays.values()), seen, arrays.get("size"), module, subject.dtype)
    verdict = judge(case, outcome, exact=merger in ("tome", "ats"))
    subject.demand(case, *verdict.findings)


@check_each(
    "parameters",
    1,
    "Parameters have the same names and first values in every backend and move between them.",
    "CALL-8",
    "PM-5",
    "LTM-7",
)
def parameters(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    reference = make_merger(replace(case, params={}), _spec())
    made = make_merger(replace(case, params={}), subject.module)
    want, got = reference.params(), made.params()
    subject.demand(case, exactly("names of the parameters", sorted(got), sorted(want)))
    subject.demand(case, *(exactly(f"first {name}", np.asarray(got[name]), want[name]) for name in want))
    made.load_params(case.params)
    loaded = made.params()
    subject.demand(case, *(exactly(f"loaded {name}", np.asarray(loaded[name]), case.params[name]) for name in want))


def _spec() -> Any:
    from tokenmerge.spec import batch

    return batch
