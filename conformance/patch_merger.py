"""PatchMerger: the weights and the tokens within the rounding of their formula."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.conformance.case import Case, Outcome
from tokenmerge.conformance.plan import check_laws
from tokenmerge.conformance.rounding import Rounded, softmax
from tokenmerge.conformance.verdict import Finding, exactly, within

Array = np.ndarray[Any, Any]


def layer_norm(x: Rounded, scale: Rounded, bias: Rounded | None, eps: float) -> Rounded:
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
