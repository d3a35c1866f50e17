"""Gradients against central differences of the float64 spec, with hard decisions held fixed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tokenmerge.conformance.case import Case, context, give, make_merger, to_numpy
from tokenmerge.conformance.checks.backward import jitted
from tokenmerge.conformance.checks.check import LEARNED, check_each
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.rounding import UNIT, Rounded
from tokenmerge.conformance.subject import Subject
from tokenmerge.conformance.verdict import within
from tokenmerge.spec import batch, patch_merger

Array = np.ndarray[Any, Any]


def central_differences(function: Callable[[Array], float], at: Array) -> Rounded:
    """The gradient of a scalar function in float64, with an estimate of its own error.

    Two steps, `h` and `h/2`: their difference is three times what the second is still off (the error goes with `h^2`),
    so the extrapolated value is better than that difference; added is the rounding of the function over the step.
    """
    gradient, error = np.zeros(at.shape), np.zeros(at.shape)
    for index in np.ndindex(at.shape):
        step = (UNIT["float64"] ** 0.25) * max(1.0, abs(at[index]))
        slopes, size = [], 0.0
        for h in (step, step / 2):
            up, down = at.copy(), at.copy()
            up[index] += h
            down[index] -= h
            high, low = function(up), function(down)
            slopes.append((high - low) / (up[index] - down[index]))
            size = max(size, abs(high), abs(low))
        gradient[index] = (4 * slopes[1] - slopes[0]) / 3
        error[index] = abs(slopes[1] - slopes[0]) + 1024 * UNIT["float64"] * (size + 1) / step
    return Rounded(gradient, error, "float64")


def upstream_of(case: Case) -> Array:
    """A factor for every entry of the tokens. Their shape is the spec's: the backend runs only to be differentiated."""
    inputs = {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in case.inputs.items()}
    return np.random.default_rng(0).standard_normal(make_merger(case, batch)(**inputs).tokens.shape)


def loss_of_spec(case: Case, upstream: Array) -> Callable[[str, Array], float]:
    """`sum(tokens * upstream)` of the spec as a function of one input, the plan of hard mergers held fixed."""
    hard = MERGERS[case.merger].description.decides
    inputs = {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in case.inputs.items()}
    plan = make_merger(case, batch)(**inputs).plan if hard else None

    def loss(name: str, value: Array) -> float:
        changed = inputs | {name: value}
        if plan is not None:
            return float((plan.merge(changed["x"], changed.get("size")) * upstream).sum())
        return float((make_merger(case, batch)(**changed).tokens * upstream).sum())

    return loss


@check_each(
    "gradient",
    3,
    "Gradients reach tokens and sizes as in the spec with hard decisions held fixed; soft weights are differentiated.",
    "CALL-6",
    needs="gradient",
    dtype="float64",
    share=0.2,
)
def gradient(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    case.inputs["x"] = np.random.default_rng(len(case.inputs)).standard_normal(case.inputs["x"].shape)
    module = subject.module
    names = [name for name in MERGERS[merger].differentiable if name in case.inputs]
    if "size" in names:
        case.inputs["size"] = np.maximum(case.inputs["size"], 1)
    with context(module, subject.dtype):
        arrays = give(case, module, subject.dtype, subject.device)
        made = make_merger(case, module, subject.device)
        upstream = upstream_of(case)
        weight = module.from_numpy(upstream, subject.dtype, subject.device)

        def loss(*values: Any) -> Any:
            return (made(**(arrays | dict(zip(names, values, strict=True)))).tokens * weight).sum()

        got = [to_numpy(module, g) for g in module.gradient(jitted(subject, loss), *(arrays[name] for name in names))]
    of_spec = loss_of_spec(case, upstream)
    for name, value in zip(names, got, strict=True):
        want = central_differences(partial(of_spec, name), case.inputs[name].astype(np.float64))
        finding = within(f"gradient of `{name}`", value, want)
        subject.budgets.append(finding.used)
        subject.demand(case, finding)


@check_each(
    "parameter-gradient",
    3,
    "The learned parameters of soft mergers receive the gradient of the formula.",
    "CALL-6",
    mergers=LEARNED,
    needs="gradient {merger}.plan",
    dtype="float64",
    share=0.2,
)
def parameter_gradient(subject: Subject, data: Any, merger: str) -> None:
    case = data.draw(subject.cases(merger, "generic"))
    case.inputs["x"] = np.random.default_rng(1).standard_normal(case.inputs["x"].shape)
    module, functions = subject.module, getattr(subject.module, merger)
    options = {key: value for key, value in case.config.items() if key not in ("dim", "num_tokens_out", "use_bias")}
    call = {name: case.inputs[name] for name in ("mask", "prior") if name in case.inputs}
    names = list(case.params)
    x = case.inputs["x"]

    def merged(plan: Callable[..., Any], norm: Callable[..., Any], x: Any, params: dict[str, Any], call: Any) -> Any:
        made = plan(x, **params, **options, **call)
        if "scale" in params and case.config.get("normalize", True):
            eps = case.config.get("eps", 1e-5)
            return made.merge(norm(x, params["scale"], params.get("bias"), eps=eps))
        return made.merge(x)

    with context(module, subject.dtype):

        def give_one(array: Array) -> Any:
            return module.from_numpy(array, subject.dtype if array.dtype.kind == "f" else None, subject.device)

        arrays = {name: give_one(array) for name, array in call.items()}
        tokens, params = give_one(x), [give_one(case.params[name].astype(np.float64)) for name in names]
        norm: Any = getattr(functions, "layer_norm", None)
        upstream = upstream_of(case)
        weight = give_one(upstream)

        def loss(*values: Any) -> Any:
            return (merged(functions.plan, norm, tokens, dict(zip(names, values, strict=True)), arrays) * weight).sum()

        got = [to_numpy(module, g) for g in module.gradient(jitted(subject, loss), *params)]

    def loss_of_spec(name: str, value: Array) -> float:
        total = 0.0
        own = {key: array.astype(np.float64) for key, array in case.params.items()} | {name: value}
        reference = MERGERS[merger].description
        for i in range(len(x)):
            per_sample = {key: a if key == "prior" and a.ndim == 2 else a[i] for key, a in call.items()}
            total += float((merged(reference.plan, patch_merger.layer_norm, x[i], own, per_sample) * upstream[i]).sum())
        return total

    for name, value in zip(names, got, strict=True):
        at = case.params[name].astype(np.float64)
        want = central_differences(partial(loss_of_spec, name), at)
        finding = within(f"gradient of `{name}`", value, want)
        subject.budgets.append(finding.used)
        subject.demand(case, finding)
