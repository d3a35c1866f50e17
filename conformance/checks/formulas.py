"""Single sentences of the spec that random cases touch too rarely, or only together with others."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance import ats
from tokenmerge.conformance.case import Case, context, give, to_numpy
from tokenmerge.conformance.checks.check import check
from tokenmerge.conformance.draws import CHANNELS
from tokenmerge.conformance.judge import precision_first
from tokenmerge.conformance.rounding import Rounded, working
from tokenmerge.conformance.strategies import any_cases
from tokenmerge.conformance.subject import Subject
from tokenmerge.conformance.verdict import exactly, within

# Tokens and a ratio whose product of binary numbers is larger than that of the decimal ones, which is an integer; and
# ratios that are a little above or below such a number, by less than any tolerance.
DECIMALS = [(25, 0.28), (100, 0.55), (10, 0.30000000000000004), (49, 0.02040816326530612), (33, 0.33333333333333337)]


SHORT = 2.0**-10  # the length of such tokens

# How far vectors are apart whose similarities the next lower precision cannot tell from one another.
NEAR = {"float32": 1e-3, "float64": 1e-6}


@check(
    "tome-precision",
    2,
    "Vectors that nearly agree are told apart: similarity is computed in float32, or in float64 for float64.",
    "PLAN-8",
    share=0.3,
)
def precision(subject: Subject, data: Any) -> None:
    case = data.draw(subject.cases("tome", "generic"))
    metric = case.inputs["metric"]
    case.inputs["metric"] = 1 + NEAR.get(subject.dtype, 0.05) * metric
    subject.judge(case)


@check(
    "ats-scores",
    3,
    "Scores are those of the formula; only the class token's row of the attention matters; masked tokens score 0.",
    "ATS-1",
    "ATS-2",
    "ATS-7",
    "ATS-9",
    needs="ats.scores",
)
def scores(subject: Subject, data: Any) -> None:
    odd = not subject.compiles and data.draw(st.booleans(), label="more tokens and heads than fill a block")
    case = data.draw(any_cases("ats") if odd else subject.cases("ats", "generic"))
    module, score = subject.module, case.config["score"]
    attn = case.inputs["attn"]
    row = replace(case, inputs=case.inputs | {"attn": attn if attn.ndim == 3 else attn[:, :, 0]})
    # where the class row alone is right, what is wrong comes from another row
    for each, rule in ((row, "ATS-1" if score == "per_head" else "ATS-2"), (case, "ATS-9")):
        with context(module, subject.dtype):
            arrays = give(each, module, subject.dtype, subject.device)
            seen = {name: to_numpy(module, array) for name, array in arrays.items()}
            made = module.ats.scores(arrays["attn"], arrays["value"], score=score, mask=arrays.get("mask"))
            got = to_numpy(module, made)
        for i, sample in enumerate(got):
            real = seen["mask"][i, 1:] if "mask" in seen else np.ones(len(sample), bool)
            attention, value = (Rounded.exact(seen[name][i], subject.dtype) for name in ("attn", "value"))
            finding = within(f"scores[{i}]", sample, ats.scores(attention, value, score, real), rule)
            subject.budgets.append(finding.used)
            masked = exactly(f"scores of masked tokens[{i}]", sample[~real], np.zeros((~real).sum()), "ATS-7")
            subject.demand(case, masked, precision_first(finding, subject.dtype))


@check(
    "patch_merger-offset",
    3,
    "Tokens whose channels lie far from zero, close together, are normalized like all others: nothing cancels; and so "
    "are short ones, whose variance is less than eps.",
    "PM-1",
    share=0.3,
)
def offset(subject: Subject, data: Any) -> None:
    case = data.draw(subject.cases("patch_merger", "generic"))
    case.config.pop("eps", None)  # without it a constant token amplifies rounding without limit
    short = replace(case, inputs=case.inputs | {"x": case.inputs["x"] * SHORT})
    case.inputs["x"] += 1000.0 if working(subject.dtype) == subject.dtype else 30.0
    subject.judge(case)
    subject.judge(short)


@check(
    "ltm-ratio",
    1,
    "The ratio is the decimal number that was written: 0.28 of 25 tokens are 7, in a padded batch, too.",
    "LTM-1",
    share=0.3,
)
def ratio(subject: Subject, data: Any) -> None:
    n, part = data.draw(st.sampled_from(DECIMALS), label="tokens and ratio")
    padding = data.draw(st.sampled_from([0, 3]), label="padding")
    inputs = {"x": np.random.default_rng(n).standard_normal((1, n + padding, CHANNELS))}
    if padding:
        inputs["mask"] = np.arange(n + padding)[None] < n
    config = {"dim": CHANNELS, "compression_ratio": part}
    case = Case("ltm", config, inputs, {"weight": np.zeros(CHANNELS, np.float32)})
    outcome = subject.judge(case)
    slots = int(outcome.mask.sum()) if outcome.mask is not None else outcome.tokens.shape[1]
    subject.demand(case, exactly("slots in use", slots, math.ceil(Decimal(repr(part)) * n), "LTM-1"))


@check(
    "ltm-first-mask",
    3,
    "With a weight of zero the mask is the first one: smoothed average pooling, or what was given; `chain` gives it to "
    "the next layer.",
    "LTM-2",
    "LTM-3",
    "LTM-7",
    share=0.5,
)
def first_mask(subject: Subject, data: Any) -> None:
    case = data.draw(subject.cases("ltm", "generic"))
    case.params["weight"][:] = 0
    outcome, protected = subject.judge(case), case.config["protected"]
    if hasattr(getattr(subject.module, "ltm", None), "chain"):
        with context(subject.module, subject.dtype):
            got = to_numpy(subject.module, subject.module.ltm.chain(outcome.result.plan, protected))
        want = np.swapaxes(outcome.plan["weights"][:, protected:, protected:], 1, 2)
        subject.demand(case, exactly("ltm.chain(plan, protected)", got, want, "LTM-3"))
