"""What a merger may remember between calls: nothing but its parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import Case, Outcome, context, give, make_merger, read, to_numpy
from tokenmerge.conformance.checks.check import blame, check_each
from tokenmerge.conformance.checks.independence import same
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.strategies import any_cases
from tokenmerge.conformance.subject import Subject
from tokenmerge.conformance.verdict import Finding, exactly

FIELDS = ("assignment", "indices", "weights", "mask")
CALLS = (0, 1, 0, 2, 1)  # which of the cases: what is made ready by the first calls shows in the later ones


def other(case: Case) -> Case:
    """A case of the same shapes, options and parameters, with other values, masks, sizes, permutations and priors."""
    kept = 1 if MERGERS[case.merger].class_token else 0  # a first token that has to be real stays so
    inputs = {}
    for name, array in case.inputs.items():
        if name in ("mask", "permutation"):
            inputs[name] = np.concatenate([array[:, :kept], np.roll(array[:, kept:], 1, axis=1)], axis=1)
        elif name == "size":
            inputs[name] = np.roll(array, 1, axis=1) + 1
        elif name == "prior":
            inputs[name] = np.roll(array, 1, axis=-2)
        elif name == "attn":
            inputs[name] = np.concatenate([array[..., :1], np.roll(array[..., 1:], 1, axis=-1)], axis=-1)
        elif name == "uniforms":
            inputs[name] = 1 - array
        else:
            inputs[name] = (
                np.roll(array, 1, axis=-2) if name in ("x", "metric", "value") else np.roll(array, 1, axis=-1)
            )
    return replace(case, inputs=inputs)


def near(case: Case) -> Case:
    """A case that differs from another one only at the end of its last sample: no checksum of a part tells them apart.

    The first token, the first channel and all other samples are as they were, and every sum over the tokens is.
    """
    inputs = dict(case.inputs)
    for name in {"x", "metric", "value"} & inputs.keys():
        inputs[name] = array = inputs[name].copy()
        if array.size and array.shape[-1] > 1:
            array[-1, ..., 1:, 1:] = np.flip(array[-1, ..., 1:, 1:], -2)
    return replace(case, inputs=inputs)


def equal(got: Outcome, want: Outcome, why: str) -> list[Finding]:
    """Two outcomes, plans and all, to the last bit."""
    plans = [
        exactly(f"plan.{name} {why}", got.plan[name], want.plan[name])
        for name in FIELDS
        if want.plan.get(name) is not None
    ]
    return [*plans, exactly(f"share {why}", got.share, want.share), *same(got, want, why=why)]


def fixed(subject: Subject, data: Any, merger: str) -> dict[str, Any]:
    """Now and then the options with which a call takes most arrays."""
    most = dict(MERGERS[merger].most_inputs)
    return most if not subject.compiles and data.draw(st.booleans(), label="all inputs are given") else {}


@check_each(
    "remembers-nothing",
    1,
    "A call is not changed by those before it with the same shapes and other values, masks, sizes and permutations, "
    "however many and however near; nor are results that are kept.",
    "CALL-3",
    share=0.3,
)
def remembers_nothing(subject: Subject, data: Any, merger: str) -> None:
    if subject.compiles:
        alternate(subject, data.draw(subject.cases(merger, "generic")))
        return
    most = dict(MERGERS[merger].most_inputs)
    for given in ({}, most) if most else ({},):  # shapes that no cache has seen: the first call fills it
        alternate(subject, data.draw(any_cases(merger, padded=True, **given)))


def alternate(subject: Subject, first: Case) -> None:
    """One merger is called with a case, another, the first again, one that is near to it, and the other again."""
    module, dtype = subject.module, subject.dtype
    if "size" not in first.inputs:
        first.inputs["size"] = 1.0 + np.arange(first.inputs["x"].shape[1]) * np.ones((len(first.inputs["x"]), 1))
    cases = [first, other(first), near(first)]
    wanted = [subject.judge(first)]
    with blame("CALL-3"):  # right by a merger of its own, or something is kept for all of them
        wanted += [subject.judge(case) for case in cases[1:]]
    with context(module, dtype):
        made = make_merger(first, module, subject.device)
        arrays = [give(case, module, dtype, subject.device) for case in cases]
        seen = [{name: to_numpy(module, array) for name, array in each.items()} for each in arrays]
        results = [(which, made(**arrays[which])) for which in CALLS]
        kept = [read(result, seen[which], arrays[which].get("size"), module, dtype) for which, result in results]
    for i, outcome in enumerate(kept):
        subject.demand(first, *equal(outcome, wanted[CALLS[i]], f"in call {i + 1} of one merger"))


@check_each(
    "changed-in-place",
    1,
    "An array whose values have changed since the last call is read anew.",
    "CALL-3",
    share=0.2,
)
def changed_in_place(subject: Subject, data: Any, merger: str) -> None:
    module, dtype = subject.module, subject.dtype
    case = data.draw(subject.cases(merger, "generic", fixed=fixed(subject, data, merger)))
    changed = other(case)
    wanted = subject.run(changed)
    with context(module, dtype):
        made = make_merger(case, module, subject.device)
        arrays, later = (give(each, module, dtype, subject.device) for each in (case, changed))
        made(**arrays)
        for name, array in arrays.items():
            try:
                array[...] = later[name]
            except (TypeError, ValueError):  # arrays that never change
                return
        seen = {name: to_numpy(module, array) for name, array in arrays.items()}
        outcome = read(made(**arrays), seen, arrays.get("size"), module, dtype)
    subject.demand(changed, *equal(outcome, wanted, "after its arrays were changed in place"))


@check_each(
    "parameters-change",
    1,
    "Parameters that are loaded after a call are those of the next one.",
    "CALL-8",
    "CALL-3",
    mergers=tuple(name for name, proof in MERGERS.items() if proof.description.parameters),
    share=0.2,
)
def parameters_change(subject: Subject, data: Any, merger: str) -> None:
    module, dtype = subject.module, subject.dtype
    case = data.draw(subject.cases(merger, "generic"))
    loaded = {name: (value + np.float32(0.5)).astype(np.float32) for name, value in case.params.items()}
    wanted = subject.run(replace(case, params=loaded))
    with context(module, dtype):
        made = make_merger(case, module, subject.device)
        arrays = give(case, module, dtype, subject.device)
        seen = {name: to_numpy(module, array) for name, array in arrays.items()}
        made(**arrays)
        made.load_params(loaded)
        outcome = read(made(**arrays), seen, arrays.get("size"), module, dtype)
    subject.demand(case, *equal(outcome, wanted, "after parameters were loaded"))
