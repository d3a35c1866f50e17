"""Gradients in every dtype and at odd sizes: where the rules promise them, with a bound, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tokenmerge.conformance.case import Case, Outcome, context, give, make_merger, to_numpy
from tokenmerge.conformance.checks.check import LEARNED, check_each
from tokenmerge.conformance.checks.doors import plan_of
from tokenmerge.conformance.draws import sizes
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.plan import apply, sample_plans, share, stored
from tokenmerge.conformance.rounding import Rounded, working
from tokenmerge.conformance.strategies import ODD, any_cases, cases
from tokenmerge.conformance.subject import Subject
from tokenmerge.conformance.traced import Traced, gradients
from tokenmerge.conformance.verdict import exactly, within

Array = np.ndarray[Any, Any]
# where every shape and option is compiled anew: those that other checks compile, too
COMPILED = (1, 80)


def drawn(subject: Subject, data: Any, merger: str) -> list[Case]:
    """Cases that can be differentiated: no eps of zero, and no zeros in a prior, whose logarithm has no slope."""
    found = []
    shapes = [COMPILED] if subject.compiles else ODD["shape"][: 1 if subject.slow else None]
    for i, shape in enumerate(shapes):
        if subject.compiles:
            fixed = dict(MERGERS[merger].most_inputs)
            case: Case = data.draw(cases(merger, "generic", False, "typical", COMPILED, fixed=fixed))
            case.inputs["size"] = data.draw(sizes(COMPILED), label="sizes")
        else:
            case = data.draw(any_cases(merger, shape=shape, sized=i % 2 == 0))
        if case.config.get("eps") == 0:
            case.config.pop("eps")
        if "prior" in case.inputs:
            case.inputs["prior"] = 0.9 * case.inputs["prior"] + 0.1 / max(case.inputs["prior"].shape[-2], 1)
        found.append(case)
    return found


def jitted(subject: Subject, function: Any) -> Any:
    """The function; compiled as a whole where its single operations would be, one after the other."""
    return subject.module.compile(function) if subject.compiles and hasattr(subject.module, "compile") else function


class Backward:
    """What a case's gradients must be, for factors of its tokens and sizes that are drawn here."""

    def __init__(self, case: Case, outcome: Outcome, subject: Subject) -> None:
        self.case, self.outcome, self.subject, self.dtype = case, outcome, subject, outcome.dtype
        rng = np.random.default_rng(outcome.tokens.size)
        module, size = subject.module, working(self.dtype)
        most = max(outcome.size.max(initial=1), 1)  # half precision ends at 65504
        self.factors = [
            module.from_numpy(rng.standard_normal(shape) / part, dtype, subject.device)
            for shape, dtype, part in ((outcome.tokens.shape, self.dtype, 1), (outcome.size.shape, size, most))
        ]

    def wanted(self, names: list[str]) -> dict[str, Rounded]:
        """The gradient with respect to inputs or parameters, of those that the formula has."""
        dtype, inputs, case = self.dtype, self.outcome.inputs, self.case
        b, n = inputs["x"].shape[:2]
        arrays = {"x": inputs["x"], "size": inputs.get("size", np.ones((b, n)))}
        arrays |= {"prior": inputs["prior"]} if "prior" in inputs else {}
        if "mask" in inputs:  # what stands in padding counts for nothing
            arrays["x"] = np.where(inputs["mask"][:, :, None], arrays["x"], 0)
        shared = {name: Traced.leaf(value, dtype) for name, value in case.params.items()}
        if "prior" in arrays and arrays["prior"].ndim == 2:
            shared["prior"] = Traced.leaf(arrays.pop("prior"), dtype)
        leaves = [{name: Traced.leaf(array[i], dtype) for name, array in arrays.items()} for i in range(b)]
        factors = [Rounded.exact(to_numpy(self.subject.module, factor), dtype) for factor in self.factors]
        formula, outputs = MERGERS[case.merger].formula, []
        assert formula is not None
        for i in range(b):
            made = formula(case, self.outcome, i, shared | leaves[i])
            outputs += [
                (rows, factor[i][slots])
                for part, factor in zip(made, factors, strict=True)
                for slots, rows in part
                if len(slots)
            ]
        found = {}
        for name in names:
            given = working(dtype) if name == "size" or name in case.params else dtype
            if name in shared:
                found[name] = gradients(outputs, [shared[name]], [given])[0]
            elif name in arrays:
                parts = gradients(outputs, [each[name] for each in leaves], [given] * b)
                value, error = (np.stack([getattr(part, field) for part in parts]) for field in ("value", "error"))
                found[name] = Rounded(value, error, parts[0].dtype)
        return found

    def loss(self, result: Any) -> Any:
        return (result.tokens * self.factors[0]).sum() + (result.size * self.factors[1]).sum()

    def demand(self, name: str, got: Array, want: Rounded | None) -> None:
        if want is None:  # decisions are held fixed
            finding = exactly(f"gradient of `{name}`, which only decides", got, np.zeros(got.shape), "CALL-6")
        else:
            finding = within(f"gradient of `{name}`", got, want, "CALL-6")
        self.subject.budgets.append(finding.used)
        self.subject.demand(self.case, finding)


@check_each(
    "backward",
    3,
    "Tokens, sizes and priors get the gradient of the formula in every dtype and at odd sizes, finite where sizes are "
    "zero; what only decides gets none.",
    "CALL-6",
    mergers=tuple(name for name, proof in MERGERS.items() if proof.formula),
    needs="gradient",
    share=0.075,
    shrinks=False,
)
def backward(subject: Subject, data: Any, merger: str) -> None:
    for case in drawn(subject, data, merger):
        _backward(subject, case)


def _backward(subject: Subject, case: Case) -> None:
    module, outcome = subject.module, subject.run(case)
    with context(module, subject.dtype):
        of = Backward(case, outcome, subject)
        arrays = give(case, module, subject.dtype, subject.device)
        names = [name for name, array in case.inputs.items() if array.dtype.kind == "f"]
        made = make_merger(case, module, subject.device)

        def called(given: dict[str, Any]) -> Any:
            return made(**given)

        def planned(given: dict[str, Any]) -> Any:
            plan, size = plan_of(case, module, given, subject.device), given.get("size")
            result = outcome.result._replace(size=plan.merge_size(size), plan=plan)
            return result._replace(tokens=plan.merge(given["x"], size))

        # PatchMerger mixes what it made of the tokens; and where gradients are compiled, one door is enough
        both = not subject.compiles and case.merger != "patch_merger" and "mask" not in case.inputs
        found = []
        for door in (called, planned) if both else (called,):

            def loss(*values: Any, door: Callable[..., Any] = door) -> Any:
                return of.loss(door(arrays | dict(zip(names, values, strict=True))))

            got = module.gradient(jitted(subject, loss), *(arrays[name] for name in names))
            found.append({name: to_numpy(module, each) for name, each in zip(names, got, strict=True)})
    want = of.wanted(names)
    for gradients_of_door in found:
        for name in names:
            of.demand(name, gradients_of_door[name], want.get(name))


@check_each(
    "backward-parameters",
    3,
    "Learned parameters get the gradient of the formula in every dtype and at odd sizes.",
    "CALL-6",
    mergers=tuple(name for name in LEARNED if MERGERS[name].formula),
    needs="gradient {merger}.plan",
    share=0.075,
    shrinks=False,
)
def backward_parameters(subject: Subject, data: Any, merger: str) -> None:
    for case in drawn(subject, data, merger):
        _backward_parameters(subject, case)


def _backward_parameters(subject: Subject, case: Case) -> None:
    module, dtype, outcome = subject.module, subject.dtype, subject.run(case)
    functions = getattr(module, case.merger)
    made_of = ("dim", "num_tokens_out", "use_bias")
    options = {key: value for key, value in case.config.items() if key not in made_of}
    with context(module, dtype):
        of = Backward(case, outcome, subject)
        arrays = give(case, module, dtype, subject.device)
        call = {name: arrays[name] for name in ("mask", "prior") if name in arrays}
        x, names = arrays["x"], list(case.params)
        params = [module.from_numpy(case.params[name], working(dtype), subject.device) for name in names]

        def loss(*values: Any) -> Any:
            own = dict(zip(names, values, strict=True))
            made, values_of = functions.plan(x, **own, **options, **call), x
            if "scale" in own and case.config.get("normalize", True):
                eps = case.config.get("eps", 1e-5)
                values_of = functions.layer_norm(x, own["scale"], own.get("bias"), eps=eps)
            counted = made.merge_size(arrays.get("size"))
            return (made.merge(values_of) * of.factors[0]).sum() + (counted * of.factors[1]).sum()

        got = [to_numpy(module, each) for each in module.gradient(jitted(subject, loss), *params)]
    want = of.wanted(names)
    for name, each in zip(names, got, strict=True):
        of.demand(name, each, want[name])


@check_each(
    "backward-unmerged",
    3,
    "The way back has a gradient, too: that of tokens that are unmerged is their share of it.",
    "CALL-6",
    needs="gradient",
    share=0.075,
    shrinks=False,
)
def backward_unmerged(subject: Subject, data: Any, merger: str) -> None:
    for case in drawn(subject, data, merger):
        _backward_unmerged(subject, case)


def _backward_unmerged(subject: Subject, case: Case) -> None:
    module, dtype, outcome = subject.module, subject.dtype, subject.run(case)
    rng = np.random.default_rng(outcome.tokens.size)
    with context(module, dtype):
        y, factor = (
            module.from_numpy(rng.standard_normal(array.shape), dtype, subject.device)
            for array in (outcome.tokens, outcome.unmerged)
        )
        plan = outcome.result.plan
        loss = jitted(subject, lambda y: (plan.unmerge(y) * factor).sum())
        got = to_numpy(module, module.gradient(loss, y)[0])
        factors = to_numpy(module, factor)
    for i, each in enumerate(sample_plans(outcome)):
        want = apply(share(each, dtype).T, Rounded.exact(factors[i], dtype))
        finding = within(f"gradient through unmerge[{i}]", got[i], stored(np.zeros(len(got[i]), bool), want, dtype))
        subject.budgets.append(finding.used)
        subject.demand(case, finding)
