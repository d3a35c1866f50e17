"""PatchMerger: the weights and the tokens within the rounding of their formula."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.conformance.backward import Leaves, Rows, mixed
from tokenmerge.conformance.bad import FLOAT_MASK, INTEGERS, METRIC, SHORT_MASK, SIZE, X
from tokenmerge.conformance.case import Case, Outcome
from tokenmerge.conformance.plan import check_laws
from tokenmerge.conformance.proof import Bad, Proof
from tokenmerge.conformance.rounding import Rounded, softmax
from tokenmerge.conformance.traced import Number
from tokenmerge.conformance.verdict import Finding, exactly, within
from tokenmerge.spec.patch_merger import DESCRIPTION

Array = np.ndarray[Any, Any]


def layer_norm(x: Number, scale: Number, bias: Number | None, eps: float) -> Number:
    """LayerNorm over the channels, with its error."""
    deviation = x - x.mean(axis=1, keepdims=True)
    variance = (deviation * deviation).mean(axis=1, keepdims=True)
    normalized = deviation / (variance + eps).sqrt() * scale
    return normalized if bias is None else normalized + bias


def certify(case: Case, outcome: Outcome) -> list[Finding]:
    """Weights and values of an outcome."""
    config = {"logit_scale": None, "normalize": True, "eps": 1e-5} | case.config
    params = {name: Rounded.exact(value, outcome.dtype) for name, value in case.params.items()}
    queries, dim = params["queries"], config["dim"]
    factor = dim**-0.5 if config["logit_scale"] is None else config["logit_scale"]
    weights, inputs = [], []
    for i, x in enumerate(outcome.inputs["x"]):
        mask = outcome.inputs["mask"][i] if "mask" in outcome.inputs else np.ones(len(x), bool)
        tokens = Rounded.exact(np.where(mask[:, None], x, 0), outcome.dtype)
        if config["normalize"]:
            tokens = layer_norm(tokens, params["scale"], params.get("bias"), config["eps"])
        logits = (queries @ tokens.T) * factor
        logits = Rounded(np.where(mask, logits.value, -np.inf), np.where(mask, logits.error, 0), logits.dtype)
        weights.append(softmax(logits))
        inputs.append(tokens)
    laws = check_laws(outcome, inputs, "PM-3", "PM-1")
    # the tokens are judged by the backend's own weights: where both are wrong, what they are made of is
    both = config["normalize"] and any("PM-3" in finding.rules for finding in laws if not finding.ok)
    rules = ("PM-1", "PM-2") if both else ("PM-2", "PM-4")
    return [
        exactly("mask", outcome.mask, None, "PM-4"),
        *(within(f"weights[{i}]", outcome.plan["weights"][i], want, *rules) for i, want in enumerate(weights)),
        *laws,
    ]


def by_queries(case: Case, outcome: Outcome, i: int, given: Leaves) -> tuple[Rows, Rows]:
    """The formula, to be differentiated."""
    config = {"logit_scale": None, "normalize": True, "eps": 1e-5} | case.config
    mask = outcome.inputs["mask"][i] if "mask" in outcome.inputs else np.ones(outcome.inputs["x"].shape[1], bool)
    tokens: Any = given["x"].where(mask[:, None], 0.0)
    if config["normalize"]:
        tokens = layer_norm(tokens, given["scale"], given.get("bias"), config["eps"])
    factor = config["dim"] ** -0.5 if config["logit_scale"] is None else config["logit_scale"]
    weights: Any = softmax(((given["queries"] @ tokens.T) * factor).where(mask, -np.inf))
    return mixed(weights, tokens, given["size"], np.arange(config["num_tokens_out"]))


# The record


def cases(draw: Any, kind: str, shape: tuple[int, int], mask: Array | None, choice: dict[str, Any]) -> Case:
    """A case of a kind; `choice` has an option each of `SPACE`."""
    from tokenmerge.conformance.draws import CHANNELS, seeds, tokens  # only here: certificates need no Hypothesis

    m, channels = choice["num_tokens_out"], choice.get("channels", CHANNELS)
    config = {"dim": channels, "num_tokens_out": m, **dict([choice["variant"]] if choice["variant"] else [])}
    # without eps a constant token amplifies rounding without limit, unless it is zero
    inputs = {"x": draw(tokens("generic" if config.get("eps") == 0 else kind, (*shape, channels)))}
    rng = np.random.default_rng(draw(seeds, label="seed of the parameters"))
    params = {"queries": rng.standard_normal((m, channels)), "scale": rng.random(channels) + 0.5}
    if config.get("use_bias", True):
        params["bias"] = rng.standard_normal(channels)
    params = {name: value.astype(np.float32) for name, value in params.items()}
    return Case("patch_merger", config, inputs, params)


SPACE: dict[str, tuple[Any, ...]] = {
    "num_tokens_out": (3, 1),
    "variant": (None, ("logit_scale", 1.0), ("normalize", False), ("use_bias", False), ("eps", 1e-3), ("eps", 0.0)),
}
LEAST = {"dim": 4, "num_tokens_out": 2}
BAD: tuple[Bad, ...] = (
    ({"dim": 0, "num_tokens_out": 2}, {}),
    ({"dim": 4, "num_tokens_out": 0}, {}),
    ({"dim": 4.0, "num_tokens_out": 2}, {}),
    ({"dim": True, "num_tokens_out": 2}, {}),
    ({"dim": 4, "num_tokens_out": True}, {}),
    ({"dim": 4, "num_tokens_out": 2, "seed": True}, {}),
    ({"dim": 4, "num_tokens_out": 2, "seed": 1.0}, {}),
    ({"dim": 4, "num_tokens_out": 2, "eps": True}, {}),
    ({"dim": 4, "num_tokens_out": 2, "eps": float("nan")}, {}),
    ({"dim": 4, "num_tokens_out": 2, "normalize": 1}, {}),
    ({"dim": 4, "num_tokens_out": 2, "use_bias": "no"}, {}),
    ({"dim": 4, "num_tokens_out": 2, "logit_scale": True}, {}),
    ({"dim": 4, "num_tokens_out": 2, "logit_scale": float("inf")}, {}),
    ({"dim": 4, "num_tokens_out": 2, "eps": -1.0}, {}),
    ({"dim": 4, "num_tokens_out": 2, "logit_scale": "1"}, {}),
    ({"dim": 4, "num_tokens_out": 2, "seed": -1}, {}),
    (LEAST, {"x": X[0]}),
    (LEAST, {"x": METRIC}),
    (LEAST, {"x": INTEGERS}),
    (LEAST, {"x": X, "size": SIZE[:, :5]}),
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
    refused=(
        "patch_merger.layer_norm",
        (
            ("layer_norm", {"x": X, "scale": SIZE[0], "bias": None}),
            ("layer_norm", {"x": INTEGERS, "scale": X[0, 0], "bias": None}),
            ("layer_norm", {"x": X, "scale": X[0, 0], "bias": X[0, 0], "eps": -1.0}),
        ),
    ),
    padding="PM-4",
    odd={"num_tokens_out": (1, 5, 17, 65), "channels": (3, 17, 65, 771)},  # a single channel has no LayerNorm
    first=("PM-5",),
    formula=by_queries,
)
