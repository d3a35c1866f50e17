"""Plans of successive layers multiply."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import context, give, make_merger, read, to_numpy
from tokenmerge.conformance.checks.check import check_each
from tokenmerge.conformance.draws import sizes
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.plan import sample_plans, weights
from tokenmerge.conformance.rounding import Rounded
from tokenmerge.conformance.strategies import cases
from tokenmerge.conformance.subject import Subject
from tokenmerge.conformance.verdict import within

# a second layer works on merged tokens, which PatchMerger's are not
FOLLOWING = tuple(name for name, proof in MERGERS.items() if not proof.description.ends_prefix)


@check_each(
    "compose", 3, "The plan of two layers is the product of their matrices.", "PLAN-5", needs="compose", share=0.3
)
def compose(subject: Subject, data: Any, merger: str) -> None:
    module, dtype = subject.module, subject.dtype
    options = "typical" if subject.compiles else "free"
    padded = data.draw(st.booleans(), label="first layer padded")
    case = data.draw(cases(merger, "generic", padded, options, (2, 9)), label="first layer")
    b, n, _ = case.inputs["x"].shape
    # a group whose sizes are all zero is averaged plainly, which is not a product of matrices (docs/plan.md)
    case.inputs["size"] = np.maximum(data.draw(sizes((b, n)), label="sizes"), 1)
    first = subject.run(case)
    then = data.draw(st.sampled_from([name for name in FOLLOWING if name in module.MERGERS]), label="second merger")
    mask = first.mask
    if MERGERS[then].class_token and mask is not None and not mask[:, :1].all():
        mask = None
    case_two = data.draw(cases(then, "generic", False, options, (b, first.tokens.shape[1]), mask), label="second layer")
    case_two.inputs.pop("size", None)

    with context(module, dtype):
        arrays = give(case_two, module, dtype, subject.device)
        seen = {name: to_numpy(module, array) for name, array in arrays.items()}
        result = make_merger(case_two, module, subject.device)(arrays.pop("x"), size=first.result.size, **arrays)
        second = read(result, seen, first.result.size, module, dtype)
        size = give(case, module, dtype, subject.device)["size"]
        got = to_numpy(module, module.compose(first.result.plan, result.plan, size=size).matrix(size))
    for i, (one, two) in enumerate(zip(sample_plans(first), sample_plans(second), strict=True)):
        w_one, w_two = weights(one, case.inputs["size"][i], dtype), weights(two, first.size[i], dtype)
        product = w_two @ w_one
        # the composed plan may compute its own quotients: as many roundings again, and one matrix product
        want = Rounded(product.value, 2 * product.error, product.dtype)
        subject.demand(case, within(f"compose({merger}, {then}).matrix(size)[{i}]", got[i], want))
