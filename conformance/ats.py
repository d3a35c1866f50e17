"""Certificates for ATS: every sample point has chosen a token that may be the nearest one."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.conformance.backward import by_indices
from tokenmerge.conformance.bad import (
    ATTENTION,
    ATTN,
    FLOAT_MASK,
    INTEGERS,
    NOISE,
    SHORT_MASK,
    SIZE,
    UNIFORMS,
    VALUE,
    X,
)
from tokenmerge.conformance.case import Case, Outcome
from tokenmerge.conformance.plan import check_laws
from tokenmerge.conformance.proof import Bad, Proof
from tokenmerge.conformance.rounding import Rounded
from tokenmerge.conformance.verdict import Finding, exactly
from tokenmerge.spec.ats import DESCRIPTION
from tokenmerge.spec.shared.constants import GUMBEL_FLOOR

Array = np.ndarray[Any, Any]


def scores(attn: Rounded, value: Rounded, score: str, real: Array) -> Rounded:
    """Significance of the tokens after the class token, with its error; 0 for masked ones."""
    row = attn[:, 0, 1:] if attn.value.ndim == 3 else attn[:, 1:]
    others = value[:, 1:]
    squared = (others * others).sum(axis=2)
    if score == "per_head":
        significance = (row * squared.sqrt()).sum(axis=0)
    else:
        significance = row.sum(axis=0) * squared.sum(axis=0).sqrt()
    # an attention or a value of exactly zero gives a score of exactly zero
    zero = significance.value == 0
    error = np.where(real & ~zero, significance.error, 0)
    return Rounded(np.where(real, significance.value, 0), error, significance.dtype)


def certify(case: Case, outcome: Outcome) -> list[Finding]:
    """Structure, decisions and values of an outcome."""
    samples = [_certify_sample(case, outcome, i) for i in range(len(outcome.tokens))]
    return [*(finding for findings in samples for finding in findings), *check_laws(outcome)]


def _certify_sample(case: Case, outcome: Outcome, i: int) -> list[Finding]:
    config = {"score": "per_head", "sampling": "inverse_transform"} | case.config
    k = config["max_tokens"]
    work = outcome.precision("attn", "value")
    inputs = {name: Rounded.exact(outcome.inputs[name][i], work) for name in ("attn", "value")}
    n = inputs["value"].value.shape[1]
    mask = outcome.inputs["mask"][i] if "mask" in outcome.inputs else np.ones(n, bool)
    indices, filled = outcome.plan["indices"][i], outcome.plan["mask"][i]
    slots = 0 if n == 0 else 1 + min(k, n - 1)
    found = [exactly(f"plan.num_tokens_out[{i}]", outcome.plan["num_tokens_out"], slots, "ATS-8")]
    if n == 0 or not found[0].ok:
        return found

    others = np.flatnonzero(filled[1:]) + 1
    count = len(others)
    found += [
        exactly(
            f"plan.mask[{i}]",
            filled,
            np.arange(slots) < 1 + count if mask[0] else np.isin(np.arange(slots), others),
            "ATS-8",
        ),
        exactly(f"indices[{i}] of the class token", int(indices[0]), 0, "ATS-8"),
        exactly(
            f"indices[{i}] of padding", indices[1 + count :].astype(int), np.zeros(slots - 1 - count, int), "ATS-8"
        ),
        exactly(f"indices[{i}] ascending, each once", bool((np.diff(indices[: 1 + count]) > 0).all()), True, "ATS-8"),
        exactly(f"masked tokens chosen[{i}]", int((~mask[indices[1 : 1 + count]]).sum()), 0, "ATS-7"),
    ]
    if any(not each.ok for each in found):
        return found
    chosen = indices[1 : 1 + count] - 1
    score = "ATS-1" if config["score"] == "per_head" else "ATS-2"
    significance = scores(inputs["attn"], inputs["value"], config["score"], mask[1:])
    if config["sampling"] == "gumbel":
        noise = Rounded.exact(outcome.inputs["noise"][i], work)
        probability = significance / (significance.sum(axis=0, keepdims=True) + GUMBEL_FLOOR)
        perturbed = -((probability + GUMBEL_FLOOR).log()[None] + noise)
        return [*found, _covers(i, perturbed, mask[1:], chosen, "ATS-6", score)]
    if config["sampling"] == "released":
        return [*found, _certify_released(i, significance, mask[1:], chosen, k, score)]

    rules: tuple[str, ...] = ("ATS-4", "ATS-5", score)
    if inputs["attn"].value.ndim == 3:
        rules = (*rules, "ATS-9")
    if significance.value.sum() == 0:
        significance, rules = Rounded.exact(mask[1:] * 1.0, work), ("ATS-3", *rules)
    eligible = significance.value > 0
    points = (2 * np.arange(1, k + 1) - 1) / (2 * k)
    given = Rounded.exact(outcome.inputs["uniforms"][i], work) if "uniforms" in outcome.inputs else None
    u = given if given is not None else Rounded(points, 2.0**-24 * points, significance.dtype)
    cdf = (significance / significance.sum(axis=0, keepdims=True)).cumsum()
    distance = cdf[None, :] - u[:, None]
    distance = Rounded(np.abs(distance.value), distance.error, distance.dtype)
    return [*found, _covers(i, distance, eligible, chosen, *rules)]


def _certify_released(i: int, significance: Rounded, real: Array, chosen: Array, k: int, score: str) -> Finding:
    """Sample points choose places in the sorting; a token may stand in every place that rounding can bring it to."""
    rules: tuple[str, ...] = ("ATS-10", score)
    if significance.value.sum() == 0:
        significance, rules = Rounded.exact(real * 1.0, significance.dtype), ("ATS-3", *rules)
    tokens = np.flatnonzero(real)
    if len(tokens) == 0:
        return exactly(f"chosen tokens[{i}]", chosen.astype(int), np.zeros(0, int), "ATS-7")
    if len(tokens) == 1:
        return exactly(f"chosen tokens[{i}]", chosen.astype(int), tokens, *rules)
    cost, stands = released_points(significance[tokens], k)
    needed, best = _budgets(cost, np.ones(len(tokens), bool))
    own = stands[np.searchsorted(tokens, chosen)]
    needed = np.where(own, needed[:, None, :], np.inf).min(axis=2)
    ranking = np.argsort(significance.value[tokens], kind="stable")
    return _covered(i, needed, tokens[ranking[best]], chosen, *rules)


def released_points(significance: Rounded, k: int) -> tuple[Rounded, Array]:
    """Distance `(K,n)` of every sample point to every place in ascending order, and `(n,n)` where tokens may stand.

    There are at least two tokens: a single one has no running sum to scale.
    """
    n, dtype = len(significance.value), significance.dtype
    error, place = np.broadcast_to(significance.error, (n,)), np.arange(n)
    equal = (error[:, None] + error == 0) & (significance.value[:, None] == significance.value)
    before = (significance.high[:, None] < significance.low) | (equal & (place[:, None] < place))
    stands = (before.sum(axis=0)[:, None] <= place) & (place <= n - 1 - before.sum(axis=1)[:, None])
    # what stands in a place is as uncertain as the most uncertain token that may stand there
    errors = np.where(stands, error[:, None], 0).max(axis=0)
    ordered = Rounded(np.sort(significance.value), errors, dtype)
    cdf = (ordered / ordered.sum(axis=0, keepdims=True)).cumsum()
    cdf = cdf - cdf[:1]
    scaled, one = cdf / cdf[-1:], Rounded.exact(np.ones(1), dtype)
    points = one[None, :]
    if k > 1:
        start = scaled[[int((scaled.value > 0).argmax())]]
        points = start[None, :] + Rounded.exact(np.arange(k)[:, None], dtype) * (one - start)[None, :] / float(k - 1)
    distance = scaled[None, :] - points
    return Rounded(np.abs(distance.value), distance.error, dtype), stands


def _covers(i: int, cost: Rounded, eligible: Array, chosen: Array, *rules: str) -> Finding:
    """The chosen tokens are what you get if each row takes one of its cheapest tokens, within rounding."""
    what = f"chosen tokens[{i}]"
    if not eligible.any():
        return exactly(what, chosen.astype(int), np.zeros(0, int), "ATS-7")
    wrong = chosen[~eligible[chosen]]
    if len(wrong):
        message = f"indices[{i}] hold token {1 + wrong[0]}, which has score 0 and can never be chosen"
        return Finding(what, np.inf, ("ATS-5", "ATS-7"), message)
    needed, best = _budgets(cost, eligible)
    return _covered(i, needed[:, chosen], best, chosen, *rules)


def _budgets(cost: Rounded, eligible: Array) -> tuple[Array, Array]:
    """How much of its budget every column needs to be the cheapest of every row, and which is."""
    value = np.where(eligible, cost.value, np.inf)
    best = value.argmin(axis=1)
    row = np.arange(len(value))
    short = value - value[row, best][:, None]
    allowed = cost.error + cost.error[row, best][:, None]
    return np.where(short > 0, short / allowed, 0.0), best


def _covered(i: int, needed: Array, best: Array, chosen: Array, *rules: str) -> Finding:
    """Every row may have taken one of the chosen tokens, and every one of them may have been taken by some row."""
    what = f"chosen tokens[{i}]"
    by_row = needed.min(axis=1, initial=np.inf)
    by_token = needed.min(axis=0, initial=np.inf)
    worst = max(by_row.max(initial=0.0), by_token.max(initial=0.0))
    if worst <= 1:
        return Finding(what, float(worst), rules)
    if by_row.max(initial=0.0) > 1:
        at = int(by_row.argmax())
        message = f"indices[{i}] lack token {1 + best[at]}, which sample {at} must choose"
        if by_token.max(initial=0.0) <= 1 and len(chosen) and (best[by_row > 1] > chosen.max()).all():
            rules = (*rules[:2], "ATS-8")  # as if there were no more slots
    else:
        at = int(by_token.argmax())
        message = f"indices[{i}] hold token {1 + chosen[at]}, which no sample can have chosen"
    return Finding(what, float(worst), rules, message)


# The record


def cases(draw: Any, kind: str, shape: tuple[int, int], mask: Array | None, choice: dict[str, Any]) -> Case:
    """A case of a kind; `choice` has an option each of `SPACE`."""
    from hypothesis import strategies as st

    from tokenmerge.conformance.draws import CHANNELS, seeds, tokens  # only here: certificates need no Hypothesis

    b, n = shape
    k, heads, width = choice["max_tokens"], choice["heads"], choice.get("width", CHANNELS)
    config: dict[str, Any] = {"max_tokens": k, "score": choice["score"]}
    random = choice["random"] if kind != "exact" or choice["random"] == "released" else None
    rng = np.random.default_rng(draw(seeds, label="seed of attention and values"))
    if kind == "exact":
        row, value = _dyadic_attention(rng, (b, heads, n), mask), rng.choice([-1.0, 1.0], (b, heads, n, width))
    else:
        row, value = rng.random((b, heads, n)) ** 4, rng.standard_normal((b, heads, n, width))
        if kind == "degenerate":
            row *= draw(st.sampled_from([0.0, 1.0]), label="attention is there")
        elif draw(st.booleans(), label="some scores are zero"):
            row *= rng.random(row.shape) < 0.5
            row[rng.random(b) < 0.3] = 0  # and all of a sample
        row /= np.maximum(row.sum(axis=2, keepdims=True), 1e-30)
    attn = row
    if choice["whole attention matrix"]:
        attn = rng.random((b, heads, n, n))
        attn[:, :, :1] = row[:, :, None][:, :, : min(1, n)]
    inputs = {"x": draw(tokens("generic", (*shape, choice.get("channels", CHANNELS)))), "attn": attn, "value": value}
    if random == "noise":
        config["sampling"] = "gumbel"
        inputs["noise"] = rng.gumbel(size=(b, k, max(n - 1, 0)))
    elif random == "released":
        config["sampling"] = "released"
    elif random == "uniforms":
        points = rng.random((b, k))
        ends = rng.random((b, k)) < 0.2  # which are legal
        inputs["uniforms"] = np.where(ends, points.round(), points)
    return Case("ats", config, inputs)


def _dyadic_attention(rng: np.random.Generator, shape: tuple[int, int, int], mask: Array | None) -> Array:
    """Attention to the class token's peers in 64ths that add up to one over the real ones, many of them zero."""
    b, heads, n = shape
    row = np.zeros(shape)
    for i in range(b):
        real = np.arange(1, n) if mask is None else 1 + np.flatnonzero(mask[i, 1:])
        if len(real):
            for h in range(heads):
                some = rng.choice(real, size=rng.integers(1, len(real) + 1), replace=False)
                row[i, h] = np.bincount(rng.choice(some, size=64), minlength=n) / 64
    return row


SPACE: dict[str, tuple[Any, ...]] = {
    "max_tokens": (4, 7, 1, 64),
    "score": ("per_head", "concat"),
    "random": (None, "uniforms", "noise", "released"),
    "heads": (1, 4),
    "whole attention matrix": (False, True),
}
LEAST = {"max_tokens": 3}
BAD: tuple[Bad, ...] = (
    ({"max_tokens": 0}, {}),
    ({"max_tokens": 2.0}, {}),
    ({"max_tokens": True}, {}),
    ({"max_tokens": None}, {}),
    ({"max_tokens": 3, "score": None}, {}),
    ({"max_tokens": 3, "score": "perhead"}, {}),
    ({"max_tokens": 3, "sampling": "gumble"}, {}),
    (LEAST, {"x": X[0], **ATTENTION}),
    (LEAST, {"x": INTEGERS, **ATTENTION}),
    (LEAST, {"x": X, "attn": ATTN[:, :, :5], "value": VALUE}),
    (LEAST, {"x": X, "attn": ATTN[0, 0], "value": VALUE}),
    (LEAST, {"x": X, "attn": ATTN, "value": VALUE[:, 0]}),
    (LEAST, {"x": X, "attn": ATTN[:, :2], "value": VALUE}),
    (LEAST, {"x": X[:, :5], **ATTENTION}),
    (LEAST, {"x": X, **ATTENTION, "size": SIZE[:1]}),
    (LEAST, {"x": X, **ATTENTION, "mask": SHORT_MASK}),
    (LEAST, {"x": X, **ATTENTION, "mask": FLOAT_MASK}),
    (LEAST, {"x": X, **ATTENTION, "noise": NOISE}),
    (LEAST, {"x": X, **ATTENTION, "uniforms": UNIFORMS[:, :2]}),
    (LEAST, {"x": X, **ATTENTION, "uniforms": INTEGERS[:, :3, 0]}),
    ({"max_tokens": 3, "sampling": "released"}, {"x": X, **ATTENTION, "uniforms": UNIFORMS}),
    ({"max_tokens": 3, "sampling": "gumbel"}, {"x": X, **ATTENTION}),
    ({"max_tokens": 3, "sampling": "gumbel"}, {"x": X, **ATTENTION, "noise": NOISE[:, :, :4]}),
    ({"max_tokens": 3, "sampling": "gumbel"}, {"x": X, **ATTENTION, "noise": NOISE, "uniforms": UNIFORMS}),
)

PROOF = Proof(
    description=DESCRIPTION,
    certify=certify,
    cases=cases,
    space=SPACE,
    config=LEAST,
    bad=BAD,
    refused=(
        "ats.scores",
        (
            ("scores", {"attn": ATTN, "value": VALUE[:, :2]}),
            ("scores", {"attn": ATTN, "value": VALUE, "score": "perhead"}),
            ("scores", {"attn": ATTN, "value": VALUE, "mask": FLOAT_MASK}),
        ),
    ),
    padding="ATS-7",
    most_inputs={"random": "uniforms"},
    odd={"max_tokens": (7, 65, 200), "heads": (1, 5, 19), "width": (1, 17, 131)},
    odd_exact={"width": (4, 16), "heads": (1, 4, 16)},  # the sum of all scores is a power of two
    largest={"max_tokens": 64},
    differences=lambda case, outcome, want: ("ATS-5",),
    class_token=True,
    formula=by_indices,
)
