"""What a result may not depend on: other samples, earlier calls, compilation; and what a call may not touch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import Case, Outcome, context, give, make_merger, read, to_numpy
from tokenmerge.conformance.checks.check import blame, check_each
from tokenmerge.conformance.judge import judge
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.subject import Subject
from tokenmerge.conformance.verdict import Finding, exactly


def same(
    got: Outcome, want: Outcome, samples: Any = slice(None), why: str = "", rules: tuple[str, ...] = ()
) -> list[Finding]:
    """Two outcomes are equal to the last bit in some samples."""
    findings = []
    for name in ("tokens", "size", "mask", "matrix", "unmerged"):
        a, b = getattr(got, name), getattr(want, name)
        if a is None or b is None:
            findings.append(exactly(f"{name} {why}", a is None, b is None, *rules))
        else:
            findings.append(exactly(f"{name} {why}", a[samples], b[samples], *rules))
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
    "Inputs are never modified, and a call gives the same whatever was called before: no state, no hidden randomness.",
    "CALL-2",
    "CALL-3",
)
def untouched(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    module = subject.module
    with context(module, subject.dtype):
        arrays = give(case, module, subject.dtype, subject.device)
        before = {name: to_numpy(module, array).copy() for name, array in arrays.items()}
        made = make_merger(case, module, subject.device)

        def call(merger: Any, arrays: dict[str, Any]) -> Outcome:
            result = merger(arrays["x"], **{name: array for name, array in arrays.items() if name != "x"})
            return read(result, before, arrays.get("size"), module, subject.dtype)

        first = call(made, arrays)
        after = {name: to_numpy(module, array) for name, array in arrays.items()}
        subject.demand(
            case, *(exactly(f"`{name}` after the call", after[name], before[name], "CALL-2") for name in before)
        )
        # other tokens of the same shapes in between: nothing of them may be left, nor of the first ones in them
        other = give(_turned(case), module, subject.dtype, subject.device)
        between, anew = call(made, other), call(make_merger(case, module, subject.device), other)
        second = call(made, arrays)
    subject.demand(case, *same(between, anew, rules=("CALL-3",), why="of a call with other tokens in between"))
    subject.demand(case, *same(second, first, rules=("CALL-3",), why="of a second call"))


def _turned(case: Case) -> Case:
    """The tokens and what decides about them in reversed order; masks and permutations as they are."""
    inputs = dict(case.inputs)
    for name, axis in (("x", 1), ("metric", 1), ("attn", -1), ("value", 2)):
        if name in inputs:
            inputs[name] = np.flip(inputs[name], axis).copy()
    return replace(case, inputs=inputs)


def alone(case: Case, i: int) -> Case:
    """One sample of a case."""
    shared = {"prior"} if case.inputs.get("prior", np.zeros((1, 1, 1))).ndim == 2 else set()
    return replace(case, inputs={name: a if name in shared else a[i : i + 1] for name, a in case.inputs.items()})


@check_each(
    "batch",
    1,
    "A sample's plan and tokens do not depend on the other samples: a batch is its samples, one by one.",
    "CALL-4",
    share=0.5,
)
def batch(subject: Subject, data: Any, merger: str) -> None:
    kind = MERGERS[merger].kind
    case = data.draw(subject.cases(merger, kind).filter(lambda case: len(case.inputs["x"]) > 1))
    whole = subject.judge(case, exact=kind == "exact")
    i = data.draw(st.integers(0, len(case.inputs["x"]) - 1), label="sample")
    outcome = subject.judge(alone(case, i), exact=kind == "exact")
    for name in ("assignment", "indices"):
        if name in whole.plan:
            subject.demand(case, exactly(f"{name}[{i}]", whole.plan[name][i], outcome.plan[name][0]))


@check_each(
    "compiled",
    2,
    "A compiled merger decides as the eager one does, its values keep the same bounds, and nothing is compiled twice.",
    "CALL-7",
    needs="compile",
    share=0.05,
    dtype="float32",
)
def compiled(subject: Subject, data: Any, merger: str) -> None:
    exact = MERGERS[merger].kind == "exact"
    case = data.draw(subject.cases(merger, MERGERS[merger].kind))
    subject.judge(case, exact)  # where the eager call is wrong, too, the compiler is not to blame
    module = subject.module
    traces: list[str] = []
    with context(module, subject.dtype), blame("CALL-7"):
        made, names, traced = make_merger(case, module, subject.device), list(case.inputs), _noting(traces)

        def call(*values: Any) -> Any:
            traced()
            return made(**dict(zip(names, values, strict=True)))

        run = module.compile(call)

        def demand(case: Case, exact: bool) -> None:
            arrays = give(case, module, subject.dtype, subject.device)
            seen = {name: to_numpy(module, array) for name, array in arrays.items()}
            outcome = read(run(*arrays.values()), seen, arrays.get("size"), module, subject.dtype)
            subject.demand(case, *judge(case, outcome, exact).findings)

        demand(case, exact)
        first = len(traces)
        demand(_turned(case), exact=False)
        again = exactly("times that a second call with the same shapes is traced", len(traces) - first, 0)
        subject.demand(case, again)


def _noting(traces: list[str]) -> Callable[[], bool]:
    """A function that notes when it runs. A compiler runs Python while it traces, and not in the calls after that."""

    def note() -> bool:
        traces.append("traced")
        return True

    # PyTorch's compiler would repeat the note in every call, if it did not take the function for a constant
    note._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return note


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
    if "PM-5" in MERGERS[merger].first:  # the one rule about a seed
        case.config["seed"] = data.draw(st.sampled_from([0, 1, 2**31]), label="seed of the merger")
    reference = make_merger(replace(case, params={}), _spec())
    made = make_merger(replace(case, params={}), subject.module)
    want, got = reference.params(), made.params()
    first = MERGERS[merger].first
    subject.demand(case, exactly("names of the parameters", sorted(got), sorted(want), "CALL-8"))
    subject.demand(case, *(exactly(f"first {name}", np.asarray(got[name]), want[name], *first) for name in want))
    made.load_params(case.params)
    for name, loaded in made.params().items():
        subject.demand(case, exactly(f"loaded {name}", np.asarray(loaded), case.params[name], "CALL-8"))


def _spec() -> Any:
    from tokenmerge.spec import batch

    return batch
