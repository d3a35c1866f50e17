"""The laws of the plan, checked on whatever plan a backend made (docs/plan.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.conformance.case import Outcome
from tokenmerge.conformance.rounding import Rounded, working
from tokenmerge.conformance.verdict import Finding, exactly, within
from tokenmerge.spec import plan as spec

Array = np.ndarray[Any, Any]

# the rule about the matrix of each encoding; a dense plan is its matrix
MATRIX = {spec.PartitionPlan: "PLAN-6", spec.SelectionPlan: "PLAN-7", spec.DensePlan: "PLAN-1"}


def sample_plans(outcome: Outcome) -> list[spec.Plan]:
    """The backend's own plan of every sample, as plans of the spec in float64."""
    fields = outcome.plan
    masks = fields["mask"]
    plans: list[spec.Plan] = []
    for i in range(len(outcome.tokens)):
        mask = None if masks is None else masks[i]
        if "assignment" in fields:
            slot, slots = fields["assignment"][i], fields["num_tokens_out"]
            # the checks of decisions say what is wrong with a slot that is not there; here nothing goes to it
            plans.append(spec.PartitionPlan(np.where((slot >= -1) & (slot < slots), slot, -1), slots, mask))
        elif "indices" in fields:
            token, tokens = fields["indices"][i], fields["num_tokens_in"]
            plans.append(spec.SelectionPlan(np.clip(token, 0, max(tokens - 1, 0)), mask, tokens))
        else:
            plans.append(spec.DensePlan(fields["weights"][i].astype(np.float64), mask))
    return plans


def weights(plan: spec.Plan, size: Array, dtype: str) -> Rounded:
    """The matrix with its error: exact where it is stored or one-hot, quotients of sizes in a partition."""
    if not isinstance(plan, spec.PartitionPlan):
        return Rounded.exact(plan.matrix(), dtype)
    exact = plan.matrix(size.astype(np.float64))
    shared = (exact != 0) & (exact != 1)
    members = (plan.assignment[None, :] == np.arange(plan.num_tokens_out)[:, None]) * 1.0
    totals = (Rounded.exact(members * size, dtype)).sum(axis=1, keepdims=True)
    quotient = Rounded.exact(members * size, dtype) / totals
    relative = np.divide(quotient.error, np.abs(quotient.value), out=np.zeros_like(exact), where=quotient.value != 0)
    fallback = quotient.unit  # of a group of total size 0: one division
    return Rounded(exact, np.where(shared, exact * np.maximum(relative, 2 * fallback), 0.0), quotient.dtype)


def share(plan: spec.Plan, dtype: str) -> Rounded:
    """`U`: exact for integers, one division for a dense plan."""
    if isinstance(plan, spec.DensePlan):
        w = Rounded.exact(plan.weights, dtype)
        return (w / w.sum(axis=0, keepdims=True)).T
    return Rounded.exact(plan.share(), dtype)


def apply(matrix: Rounded, vectors: Rounded) -> Rounded:
    """`matrix @ vectors`, where an exact zero keeps even NaN out and an exact one alone in its row copies."""
    seen = (matrix.value != 0).any(axis=0)
    clean = Rounded(np.where(seen[:, None], vectors.value, 0), np.where(seen[:, None], vectors.error, 0), vectors.dtype)
    product = matrix @ clean
    copies = (np.count_nonzero(matrix.value, axis=1) == 1) & (matrix.value.max(axis=1, initial=0) == 1)
    copies &= matrix.error.max(axis=1, initial=0) == 0
    source = matrix.value.argmax(axis=1) if matrix.value.shape[1] else np.zeros(len(copies), int)
    empty = ~(matrix.value != 0).any(axis=1)
    copied = clean.error[source] if len(clean.error) else np.zeros(product.error.shape)
    error = np.where(copies[:, None], copied, product.error)
    return Rounded(product.value, np.where(empty[:, None], 0.0, error), product.dtype)


def stored(exact_rows: Array, value: Rounded, dtype: str) -> Rounded:
    """What is left after rounding for output; rows that are copies of an input need no rounding."""
    rounded = value.stored(dtype)
    return Rounded(value.value, np.where(exact_rows[:, None], value.error, rounded.error), value.dtype)


def check_laws(outcome: Outcome, merged: list[Rounded] | None = None, *about: str) -> list[Finding]:
    """Matrix, share, tokens, sizes and the way back, given the backend's own plan: causes in front of what follows.

    Args:
        outcome: what the backend made.
        merged: the vectors that the plan was applied to, per sample, where they are not the inputs `x`.
        *about: rules that say what those vectors are.
    """
    findings = [
        exactly("tokens.dtype", outcome.dtypes["tokens"], outcome.dtype, "PLAN-8"),
        exactly("size.dtype", outcome.dtypes["size"], working(outcome.given.get("size", outcome.dtype)), "PLAN-3"),
        exactly("plan.num_tokens_in", outcome.plan["num_tokens_in"], outcome.inputs["x"].shape[1], "PLAN-1"),
        exactly("plan.num_tokens_out", outcome.plan["num_tokens_out"], outcome.tokens.shape[1], "PLAN-1"),
    ]
    # what a partition does is a mean, and of what is written with its matrix
    mean = ("PLAN-6",) if "assignment" in outcome.plan else ()
    for i, plan in enumerate(sample_plans(outcome)):
        x = Rounded.exact(outcome.inputs["x"][i], outcome.dtype) if merged is None else merged[i]
        size = outcome.inputs["size"][i] if "size" in outcome.inputs else np.ones(plan.num_tokens_in)
        w, u = weights(plan, size, outcome.dtype), share(plan, outcome.dtype)
        tokens = apply(w, x)
        copies = tokens.error.max(axis=1, initial=0) == 0
        sizes = apply(u.T, Rounded.exact(size[:, None], outcome.dtype))[:, 0]
        back = apply(u, Rounded.exact(outcome.tokens[i], outcome.dtype))
        came_back = back.error.max(axis=1, initial=0) == 0
        findings += [
            within(f"plan.matrix(size)[{i}]", outcome.matrix[i], w, MATRIX[type(plan)]),
            within(f"plan.share()[{i}]", outcome.share[i], u, "PLAN-2"),
            within(f"tokens[{i}]", outcome.tokens[i], stored(copies, tokens, outcome.dtype), *about, "PLAN-1", *mean),
            within(f"size[{i}]", outcome.size[i], sizes, "PLAN-3"),
            within(f"plan.unmerge(tokens)[{i}]", outcome.unmerged[i], stored(came_back, back, outcome.dtype), "PLAN-4"),
        ]
    return findings
