"""LTM: the mask and the tokens within the rounding of their formula."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.conformance.backward import Leaves, Rows, mixed
from tokenmerge.conformance.bad import FLOAT_MASK, INTEGERS, METRIC, SHORT_MASK, SIZE, X
from tokenmerge.conformance.case import Case, Outcome
from tokenmerge.conformance.plan import check_laws
from tokenmerge.conformance.proof import Bad, Proof
from tokenmerge.conformance.rounding import Rounded, softmax
from tokenmerge.conformance.traced import Traced
from tokenmerge.conformance.verdict import Finding, exactly, within
from tokenmerge.spec.ltm import DESCRIPTION
from tokenmerge.spec.shared.schedule import ltm_tokens_out

Array = np.ndarray[Any, Any]


def pooling_prior(n: int, p: int, smoothing: float, dtype: str) -> Rounded:
    """Smoothed adaptive average pooling of `n` tokens to `p`, with its error."""
    pool = np.zeros((n, p))
    for column in range(p):
        start, stop = (column * n) // p, -((-(column + 1) * n) // p)
        pool[start:stop, column] = 1 / (stop - start)
    inside = pool > 0
    pooled = Rounded.exact(inside, dtype) / Rounded.exact(np.where(inside, 1 / np.where(inside, pool, 1), 1), dtype)
    uniform = Rounded.exact(smoothing, dtype) / Rounded.exact(max(n, 1), dtype)
    prior = pooled * (1 - smoothing) + uniform
    exact_zero = prior.value == 0
    return Rounded(prior.value, np.where(exact_zero, 0, prior.error + prior.unit * uniform.value), prior.dtype)


def certify(case: Case, outcome: Outcome) -> list[Finding]:
    """Mask, weights and values of an outcome."""
    config = {"protected": 0, "prior_smoothing": 0.1} | case.config
    ratio, protected = config["compression_ratio"], config["protected"]
    rules = ("LTM-4", "LTM-3" if "prior" in outcome.inputs else "LTM-2")
    if not case.params["weight"].any():
        rules = rules[::-1]  # the step is zero and the mask must be the first one
    findings, inputs = [], []
    for i, x in enumerate(outcome.inputs["x"]):
        n = len(x)
        width = ltm_tokens_out(n - protected, ratio)
        mask = outcome.inputs["mask"][i] if "mask" in outcome.inputs else None
        clean = x if mask is None else np.where(mask[:, None], x, 0)
        inputs.append(Rounded.exact(clean, outcome.dtype))
        findings.append(
            exactly("plan.num_tokens_out", outcome.plan["num_tokens_out"], protected + width, "LTM-1", "LTM-5")
        )
        if not findings[-1].ok:
            continue
        real = np.arange(n) if mask is None else np.flatnonzero(mask)
        first, rest = real[:protected], real[protected:]
        columns = ltm_tokens_out(len(rest), ratio)
        tokens = Rounded.exact(x[rest], outcome.dtype)
        if "prior" in outcome.inputs:
            given = outcome.inputs["prior"]
            given = given if given.ndim == 2 else given[i]
            prior = Rounded.exact(given[rest - protected, :columns], outcome.dtype)
        else:
            prior = pooling_prior(len(rest), columns, config["prior_smoothing"], outcome.dtype)
        weight = Rounded.exact(case.params["weight"], outcome.dtype)
        step = (tokens * weight) @ (prior.T @ tokens).T / Rounded.exact(x.shape[1], outcome.dtype).sqrt()
        g = softmax((prior.log() + step).T)

        w, error = np.zeros((protected + width, n)), np.zeros((protected + width, n))
        w[np.arange(len(first)), first] = 1
        block = np.ix_(protected + np.arange(columns), rest)
        w[block], error[block] = g.value, g.error
        want, got = Rounded(w, error, g.dtype), outcome.plan["weights"][i]
        findings.append(within(f"weights[{i}, :{protected}]", got[:protected], want[:protected], "LTM-5"))
        findings.append(within(f"weights[{i}, {protected}:]", got[protected:], want[protected:], *rules))
        slot = np.arange(protected + width)
        filled = (slot < len(first)) | ((slot >= protected) & (slot < protected + columns))
        got = None if outcome.plan["mask"] is None else outcome.plan["mask"][i]
        findings.append(exactly(f"plan.mask[{i}]", got, None if mask is None else filled, "LTM-6"))
    return [*findings, *check_laws(outcome, inputs)]


def by_mask(case: Case, outcome: Outcome, i: int, given: Leaves) -> tuple[Rows, Rows]:
    """The formula, to be differentiated."""
    config = {"protected": 0, "prior_smoothing": 0.1} | case.config
    n, protected, x, size = outcome.inputs["x"].shape[1], config["protected"], given["x"], given["size"]
    real = np.flatnonzero(outcome.inputs["mask"][i]) if "mask" in outcome.inputs else np.arange(n)
    first, rest = real[:protected], real[protected:]
    columns = ltm_tokens_out(len(rest), config["compression_ratio"])
    prior: Any = pooling_prior(len(rest), columns, config["prior_smoothing"], outcome.dtype)
    if "prior" in given:
        prior = given["prior"][np.ix_(rest - protected, np.arange(columns))]
    # every use of the tokens by itself: a backend may round the gradient of each
    step = (x[rest] * given["weight"]) @ (Traced.of(prior).T @ x[rest]).T
    logits = step / Rounded.exact(x.value.shape[1], outcome.dtype).sqrt() + prior.log()
    weights: Any = softmax(logits.T)
    merged, counted = mixed(weights, x[rest], size[rest], protected + np.arange(columns))
    kept = np.arange(len(first))
    return [(kept, x[first]), *merged], [(kept, size[first]), *counted]


# The record


def cases(draw: Any, kind: str, shape: tuple[int, int], mask: Array | None, choice: dict[str, Any]) -> Case:
    """A case of a kind; `choice` has an option each of `SPACE`."""
    from hypothesis import strategies as st

    from tokenmerge.conformance.draws import CHANNELS, seeds, tokens  # only here: certificates need no Hypothesis

    (b, n), channels = shape, choice.get("channels", CHANNELS)
    protected, ratio = min(choice["protected"], n), choice["compression_ratio"]
    config = {"dim": channels, "compression_ratio": ratio, "protected": protected}
    config["prior_smoothing"] = choice["prior_smoothing"]
    inputs = {"x": draw(tokens(kind, (*shape, channels)))}
    rng = np.random.default_rng(draw(seeds, label="seed of the parameters"))
    rest = n - protected
    if choice["prior"] != "pooling":
        columns = (b,) * (choice["prior"] == "one per sample") + (ltm_tokens_out(rest, ratio),)
        prior = rng.dirichlet(np.ones(max(rest, 1)), columns)[..., :rest]
        if draw(st.booleans(), label="zeros in the prior"):
            prior = prior * (rng.random(prior.shape) < 0.7)
        inputs["prior"] = np.swapaxes(prior, -1, -2)
    params = {"weight": rng.standard_normal(channels).astype(np.float32)}
    return Case("ltm", config, inputs, params)


SPACE: dict[str, tuple[Any, ...]] = {
    "compression_ratio": (0.5, 0.25, 0.8, 1.0),
    "protected": (0, 1, 2),
    "prior_smoothing": (0.1, 0.0, 1.0),
    "prior": ("pooling", "shared", "one per sample"),
}
LEAST = {"dim": 4, "compression_ratio": 0.5}
BAD: tuple[Bad, ...] = (
    ({"dim": 4, "compression_ratio": 0.0}, {}),
    ({"dim": 4, "compression_ratio": 1.5}, {}),
    ({"dim": 4, "compression_ratio": "half"}, {}),
    ({"dim": 4, "compression_ratio": True}, {}),
    ({"dim": 4, "compression_ratio": float("nan")}, {}),
    ({"dim": True, "compression_ratio": 0.5}, {}),
    ({"dim": 4, "compression_ratio": 0.5, "protected": True}, {}),
    ({"dim": 4, "compression_ratio": 0.5, "protected": 1.0}, {}),
    ({"dim": 4, "compression_ratio": 0.5, "prior_smoothing": True}, {}),
    ({"dim": 4, "compression_ratio": 0.5, "prior_smoothing": None}, {}),
    ({"dim": 4, "compression_ratio": 0.5, "protected": -1}, {}),
    ({"dim": 4, "compression_ratio": 0.5, "prior_smoothing": 1.1}, {}),
    ({"dim": 4, "compression_ratio": 0.5, "protected": 7}, {"x": X}),
    (LEAST, {"x": X[0]}),
    (LEAST, {"x": METRIC}),
    (LEAST, {"x": INTEGERS}),
    (LEAST, {"x": X, "size": SIZE[:1]}),
    (LEAST, {"x": X, "prior": np.ones((6, 2), np.float32)}),
    (LEAST, {"x": X, "prior": np.ones((3, 6, 3), np.float32)}),
    (LEAST, {"x": X, "mask": SHORT_MASK}),
    (LEAST, {"x": X, "mask": FLOAT_MASK}),
)

PROOF = Proof(
    description=DESCRIPTION,
    certify=certify,
    cases=cases,
    space=SPACE,
    config=LEAST,
    bad=BAD,
    padding="LTM-6",
    most_inputs={"prior": "one per sample"},
    odd={"compression_ratio": (0.5, 0.3, 0.9), "protected": (0, 1, 5)},
    first=("LTM-7",),
    formula=by_mask,
    largest={"compression_ratio": 0.25},
)
