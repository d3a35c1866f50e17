"""Bad arguments: the same exception class and the same sentence as the spec, before any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import to_numpy
from tokenmerge.conformance.checks.check import check_each
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.spec import batch

X, METRIC, SIZE = np.ones((2, 6, 4), np.float32), np.ones((2, 6, 8), np.float32), np.ones((2, 6), np.float32)
ATTN, VALUE = np.full((2, 3, 6, 6), 1 / 6, np.float32), np.ones((2, 3, 6, 5), np.float32)
MASK, SHORT_MASK, FLOAT_MASK = np.ones((2, 6), bool), np.ones((2, 5), bool), SIZE
NOISE, UNIFORMS, PERMUTATION = np.ones((2, 3, 5), np.float32), np.ones((2, 3), np.float32), np.zeros((2, 6), np.int32)
INTEGERS = np.ones((2, 6, 4), np.int32)

TOME: dict[str, Any] = {"r": 2}
ATS: dict[str, Any] = {"max_tokens": 3}
PATCH_MERGER: dict[str, Any] = {"dim": 4, "num_tokens_out": 2}
LTM: dict[str, Any] = {"dim": 4, "compression_ratio": 0.5}
ATTENTION = {"attn": ATTN, "value": VALUE}

# (options, arguments of the call): each pair is refused
BAD: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "tome": [
        ({"r": -1}, {}),
        ({"r": 1.5}, {}),
        ({"r": True}, {}),
        ({}, {}),
        ({"r": 2, "protected": -1}, {}),
        ({"r": 2, "protected": 7}, {"x": X}),
        ({"r": 2, "order": "groupd"}, {}),
        ({"r": 2, "matching": "bipartit"}, {}),
        ({"r": 2, "matching": "random", "order": "score"}, {}),
        ({"r": 2, "k": 3}, {}),
        ({"matching": "kth"}, {}),
        ({"matching": "kth", "k": 0}, {}),
        (TOME, {"x": X[0]}),
        (TOME, {"x": INTEGERS}),
        (TOME, {"x": [1.0, 2.0]}),
        (TOME, {"x": None}),
        (TOME, {"x": X, "metric": METRIC[:1]}),
        (TOME, {"x": X, "metric": METRIC[:, :5]}),
        (TOME, {"x": X, "metric": METRIC[0]}),
        (TOME, {"x": X, "size": SIZE[:, :5]}),
        (TOME, {"x": X, "size": PERMUTATION}),
        (TOME, {"x": X, "mask": SHORT_MASK}),
        (TOME, {"x": X, "mask": FLOAT_MASK}),
        (TOME, {"x": X, "permutation": PERMUTATION}),
        ({"r": 2, "matching": "random"}, {"x": X}),
        ({"r": 2, "matching": "random"}, {"x": X, "permutation": SIZE}),
        ({"r": 2, "matching": "random"}, {"x": X, "permutation": PERMUTATION[:, :4]}),
    ],
    "ats": [
        ({"max_tokens": 0}, {}),
        ({"max_tokens": 2.0}, {}),
        ({"max_tokens": 3, "score": "perhead"}, {}),
        ({"max_tokens": 3, "sampling": "gumble"}, {}),
        (ATS, {"x": X[0], **ATTENTION}),
        (ATS, {"x": INTEGERS, **ATTENTION}),
        (ATS, {"x": X, "attn": ATTN[:, :, :5], "value": VALUE}),
        (ATS, {"x": X, "attn": ATTN[0, 0], "value": VALUE}),
        (ATS, {"x": X, "attn": ATTN, "value": VALUE[:, 0]}),
        (ATS, {"x": X, "attn": ATTN[:, :2], "value": VALUE}),
        (ATS, {"x": X[:, :5], **ATTENTION}),
        (ATS, {"x": X, **ATTENTION, "size": SIZE[:1]}),
        (ATS, {"x": X, **ATTENTION, "mask": SHORT_MASK}),
        (ATS, {"x": X, **ATTENTION, "mask": FLOAT_MASK}),
        (ATS, {"x": X, **ATTENTION, "noise": NOISE}),
        (ATS, {"x": X, **ATTENTION, "uniforms": UNIFORMS[:, :2]}),
        ({"max_tokens": 3, "sampling": "gumbel"}, {"x": X, **ATTENTION}),
        ({"max_tokens": 3, "sampling": "gumbel"}, {"x": X, **ATTENTION, "noise": NOISE[:, :, :4]}),
        ({"max_tokens": 3, "sampling": "gumbel"}, {"x": X, **ATTENTION, "noise": NOISE, "uniforms": UNIFORMS}),
    ],
    "patch_merger": [
        ({"dim": 0, "num_tokens_out": 2}, {}),
        ({"dim": 4, "num_tokens_out": 0}, {}),
        ({"dim": 4.0, "num_tokens_out": 2}, {}),
        ({"dim": 4, "num_tokens_out": 2, "eps": -1.0}, {}),
        ({"dim": 4, "num_tokens_out": 2, "logit_scale": "1"}, {}),
        ({"dim": 4, "num_tokens_out": 2, "seed": -1}, {}),
        (PATCH_MERGER, {"x": X[0]}),
        (PATCH_MERGER, {"x": METRIC}),
        (PATCH_MERGER, {"x": INTEGERS}),
        (PATCH_MERGER, {"x": X, "size": SIZE[:, :5]}),
        (PATCH_MERGER, {"x": X, "mask": SHORT_MASK}),
        (PATCH_MERGER, {"x": X, "mask": FLOAT_MASK}),
    ],
    "ltm": [
        ({"dim": 4, "compression_ratio": 0.0}, {}),
        ({"dim": 4, "compression_ratio": 1.5}, {}),
        ({"dim": 4, "compression_ratio": "half"}, {}),
        ({"dim": 4, "compression_ratio": 0.5, "protected": -1}, {}),
        ({"dim": 4, "compression_ratio": 0.5, "prior_smoothing": 1.1}, {}),
        ({"dim": 4, "compression_ratio": 0.5, "protected": 7}, {"x": X}),
        (LTM, {"x": X[0]}),
        (LTM, {"x": METRIC}),
        (LTM, {"x": INTEGERS}),
        (LTM, {"x": X, "size": SIZE[:1]}),
        (LTM, {"x": X, "prior": np.ones((6, 2), np.float32)}),
        (LTM, {"x": X, "prior": np.ones((3, 6, 3), np.float32)}),
        (LTM, {"x": X, "mask": SHORT_MASK}),
        (LTM, {"x": X, "mask": FLOAT_MASK}),
    ],
}


@check_each(
    "errors",
    1,
    "A bad argument raises the same class with the same sentence in every backend.",
    "CALL-1",
    dtype="float32",
)
def errors(subject: Subject, data: Any, merger: str) -> None:
    config, call = data.draw(st.sampled_from(BAD[merger]), label="bad call")
    want = raised(lambda: attempt(merger, config, call, batch, lambda array: array))
    got = raised(lambda: attempt(merger, config, call, subject.module, subject.module.from_numpy))
    if got != want:
        arguments = {name: getattr(value, "shape", value) for name, value in call.items()}
        raise Mismatch(f"raised {got}, but should raise {want} [{merger} with {config} and {arguments}]")


@check_each(
    "load", 1, "Parameters with other names or shapes are refused, and none is changed.", "CALL-8", dtype="float32"
)
def load(subject: Subject, data: Any, merger: str) -> None:
    config = {"tome": TOME, "ats": ATS, "patch_merger": PATCH_MERGER, "ltm": LTM}[merger]
    own = batch.MERGERS[merger](**config).params()
    name = data.draw(st.sampled_from([*own, "other"]), label="name")
    change = data.draw(st.sampled_from(["missing", "shape", "type", "extra"]), label="change")
    bad: Any = {key: value + 1 for key, value in own.items()}
    if change == "missing" and name in bad:
        del bad[name]
    elif change == "shape" and name in bad:
        bad[name] = np.ones((7, 7), np.float32)
    elif change == "type":
        bad = [1, 2]
    else:
        bad["other"] = np.ones(3, np.float32)
    want = raised(lambda: batch.MERGERS[merger](**config).load_params(bad))
    made = subject.module.MERGERS[merger](**config)
    got = raised(lambda: made.load_params(bad))
    if got != want:
        raise Mismatch(f"raised {got}, but should raise {want} [{merger}.load_params, {change} {name}]")
    for key, value in made.params().items():
        if not np.array_equal(
            to_numpy(subject.module, value) if not isinstance(value, np.ndarray) else value, own[key]
        ):
            raise Mismatch(f"`{key}` changed, but should be as before [{merger}.load_params, {change} {name}]")


def attempt(merger: str, config: Any, call: dict[str, Any], module: Any, convert: Callable[[Any], Any]) -> None:
    made = module.MERGERS[merger](**config)
    arguments = {key: convert(value) if isinstance(value, np.ndarray) else value for key, value in call.items()}
    if arguments:
        made(arguments.pop("x"), **arguments)


def raised(function: Callable[[], Any]) -> str:
    """The class and the sentence that a call raises."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
