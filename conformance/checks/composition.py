"""Plans of successive layers multiply: of two, of three, of one kind and of several, with sizes and without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import Case, Outcome, context, give, make_merger, read, to_numpy
from tokenmerge.conformance.checks.check import check_each
from tokenmerge.conformance.checks.doors import by_the_plan
from tokenmerge.conformance.draws import sizes
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.plan import check_laws, sample_plans, weights
from tokenmerge.conformance.rounding import Rounded
from tokenmerge.conformance.strategies import cases
from tokenmerge.conformance.subject import Subject
from tokenmerge.conformance.verdict import Finding, exactly, within

# a second layer works on merged tokens, which PatchMerger's are not
FOLLOWING = tuple(name for name, proof in MERGERS.items() if not proof.description.ends_prefix)


def following(subject: Subject, data: Any, before: Outcome) -> tuple[Case, Outcome]:
    """The next layer, on the tokens, sizes and mask that came out of the one before."""
    module, dtype = subject.module, subject.dtype
    then = data.draw(st.sampled_from([name for name in FOLLOWING if name in module.MERGERS]), label="next merger")
    mask = before.mask
    if MERGERS[then].class_token and mask is not None and not mask[:, :1].all():
        mask = None
    if "indices" in before.plan and data.draw(st.booleans(), label="padded slots may be chosen"):
        mask = None
    options = "typical" if subject.compiles else "free"
    case = data.draw(cases(then, "generic", False, options, before.tokens.shape[:2], mask), label="next layer")
    case.inputs.pop("size", None)
    with context(module, dtype):
        arrays = give(case, module, dtype, subject.device)
        seen = {name: to_numpy(module, array) for name, array in arrays.items()}
        result = make_merger(case, module, subject.device)(arrays.pop("x"), size=before.result.size, **arrays)
        return case, read(result, seen, before.result.size, module, dtype)


def real(outcome: Outcome) -> Any:
    return np.ones(outcome.tokens.shape[:2], bool) if outcome.plan["mask"] is None else outcome.plan["mask"]


def mask_of(first: Outcome, second: Outcome, both: Outcome) -> Finding:
    """The mask of the second plan; of two selections a slot is real if it is real in both."""
    want, masked = second.plan["mask"], any(each.plan["mask"] is not None for each in (first, second))
    if "indices" in first.plan and "indices" in second.plan and masked:
        taken = second.plan["indices"].astype(int)
        want = np.take_along_axis(real(first), taken, axis=1) & real(second)
    return exactly("compose(...).mask", both.plan["mask"], want, "PLAN-5", "PLAN-9")


@check_each(
    "compose",
    3,
    "The plan of two and of three layers is the product of their matrices, a plan like any other, and has a mask.",
    "PLAN-5",
    needs="compose",
    share=0.3,
)
def compose(subject: Subject, data: Any, merger: str) -> None:
    module, dtype = subject.module, subject.dtype
    options = "typical" if subject.compiles else "free"
    padded = data.draw(st.booleans(), label="first layer padded")
    case = data.draw(cases(merger, "generic", padded, options, (2, 9)), label="first layer")
    # a group whose sizes are all zero is averaged plainly, which is not a product of matrices (docs/plan.md)
    case.inputs["size"] = np.maximum(data.draw(sizes((2, 9)), label="sizes"), 1)
    done, name = subject.run(case), merger
    layers = 1 if subject.brief else 2
    last = done
    for _ in range(layers):
        then, second = following(subject, data, last)
        name = f"{name}, {then.merger}"
        done = composed(subject, case, done, second, name)
        last = second
    with context(module, dtype):  # the whole is a plan: the same laws, with sizes and without
        arrays = give(case, module, dtype, subject.device)
        for size in (arrays["size"], None):
            subject.demand(case, *check_laws(by_the_plan(subject, done, arrays["x"], size)))


def composed(subject: Subject, case: Case, first: Outcome, second: Outcome, name: str) -> Outcome:
    """The plan of both, held against the product of their matrices."""
    module, dtype = subject.module, subject.dtype
    with context(module, dtype):
        arrays = give(case, module, dtype, subject.device)
        size = arrays["size"]
        entering = to_numpy(module, first.result.plan.merge_size(size))
        made = module.compose(first.result.plan, second.result.plan, size=size)
        result = second.result._replace(
            tokens=made.merge(arrays["x"], size), size=made.merge_size(size), mask=made.mask, plan=made
        )
        seen = {each: to_numpy(module, array) for each, array in arrays.items()}
        both = read(result, seen, size, module, dtype)
    # of three layers the plan of the first two is the first: it is held against the laws by itself
    first_weights = [Rounded.exact(matrix, dtype) for matrix in first.matrix]
    if "assignment" in first.plan:
        first_weights = [
            weights(one, size, dtype) for one, size in zip(sample_plans(first), first.inputs["size"], strict=True)
        ]
    findings = [mask_of(first, second, both)]
    for i, (one, two) in enumerate(zip(first_weights, sample_plans(second), strict=True)):
        product = weights(two, entering[i], dtype) @ one
        # the composed plan may compute its own quotients: as many roundings again, and one matrix product
        want = Rounded(product.value, 2 * product.error, product.dtype)
        findings.append(within(f"compose({name}).matrix(size)[{i}]", both.matrix[i], want, "PLAN-5"))
    subject.demand(case, *findings)
    return replace(both, inputs=both.inputs | {"size": seen["size"]})
