"""Bad arguments of what is no merger: functions and compositions refuse them with the sentences of the spec."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np

from tokenmerge.conformance.bad import FLOAT_MASK, INTEGERS, SHORT_MASK, SIZE, X
from tokenmerge.conformance.checks.check import Function, check, check_each
from tokenmerge.conformance.checks.errors import raised
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.proof import BadCall
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.calls import Calls

Array = np.ndarray[Any, Any]
LAW = Calls(np.ndarray)
HEADS = np.ones((2, 3, 6, 4), np.float32)  # queries, keys and values
Q = np.full((3, 4), 0.25, np.float32)
LABELS = np.array([0, 3, 1, 2, 0, 3], np.int32)
PHI = np.full((6, 3), 1 / 3, np.float32)
Z, MASK, CENTROIDS = X, np.full((2, 6, 3), 1 / 6, np.float32), np.ones((3, 3, 4), np.float32)

_Q, _QKV = {"query": HEADS, "key": HEADS}, {"query": HEADS, "key": HEADS, "value": HEADS}
_BOUND = {"phi_in": PHI, "phi_out": PHI, "labels": LABELS, "q": Q}
_MASKS = {"z": Z, "mask": MASK, "centroids": CENTROIDS}

# of rooms that are no mergers: what the backend must have, and calls of its functions that are refused
FUNCTIONS: dict[str, tuple[str, tuple[BadCall, ...]]] = {
    "attention": (
        "attention",
        (
            ("attention_weights", _Q | {"query": HEADS[0]}),
            ("attention_weights", _Q | {"key": HEADS[:1]}),
            ("attention_weights", _Q | {"key": HEADS[:, :2]}),
            ("attention_weights", _Q | {"key": HEADS[..., :3]}),
            ("attention_weights", _Q | {"query": np.ones((2, 3, 6, 4), np.int32)}),
            ("attention_weights", _Q | {"size": SIZE[:, :5]}),
            ("attention_weights", _Q | {"size": SIZE[0]}),
            ("attention_weights", _Q | {"size": INTEGERS[:, :, 0]}),
            ("attention_weights", _Q | {"mask": SHORT_MASK}),
            ("attention_weights", _Q | {"mask": FLOAT_MASK}),
            ("attention_weights", _Q | {"scale": "1"}),
            ("attention_weights", _Q | {"scale": True}),
            ("attention_weights", _Q | {"scale": float("nan")}),
            ("attention", _QKV | {"value": HEADS[:, :, :5]}),
            ("attention", _QKV | {"value": HEADS[:1]}),
            ("attention", _QKV | {"value": None}),
            ("attention", _QKV | {"size": SIZE[:1]}),
            ("attention", _QKV | {"mask": FLOAT_MASK}),
        ),
    ),
    "pooling": (
        "pooling",
        (
            ("mean_pool", {"x": X[0]}),
            ("mean_pool", {"x": INTEGERS}),
            ("mean_pool", {"x": X, "size": SIZE[:, :5]}),
            ("mean_pool", {"x": X, "size": INTEGERS[:, :, 0]}),
            ("mean_pool", {"x": X, "mask": SHORT_MASK}),
            ("mean_pool", {"x": X, "mask": FLOAT_MASK}),
        ),
    ),
    "information_bottleneck": (
        "information_bottleneck",
        (
            ("cluster_scores", {"f": PHI[0], "centroids": PHI, "beta": 1.0}),
            ("cluster_scores", {"f": PHI, "centroids": Q, "beta": 1.0}),
            ("cluster_scores", {"f": PHI, "centroids": PHI, "beta": -1.0}),
            ("cluster_scores", {"f": PHI, "centroids": PHI, "beta": True}),
            ("estimate_q", {"phi_out": PHI, "labels": LABELS[:5]}),
            ("estimate_q", {"phi_out": PHI, "labels": PHI[:, 0]}),
            ("estimate_q", {"phi_out": PHI, "labels": LABELS, "num_classes": 0}),
            ("estimate_q", {"phi_out": PHI, "labels": LABELS, "num_classes": 4.0}),
            ("ib_bound", _BOUND | {"phi_out": PHI[:5]}),
            ("ib_bound", _BOUND | {"q": Q[:2]}),
            ("ib_bound", _BOUND | {"labels": PHI[:, 0]}),
            ("mutual_information", {"p_ab": PHI[0]}),
            ("mutual_information", {"p_ab": LABELS[None]}),
            ("mask_scores", _MASKS | {"mask": MASK[:, :5]}),
            ("mask_scores", _MASKS | {"mask": MASK[:1]}),
            ("mask_scores", _MASKS | {"centroids": CENTROIDS[:, :2]}),
            ("ib_gradient", _MASKS | {"q": Q[:2], "labels": LABELS[:2]}),
            ("ib_gradient", _MASKS | {"q": Q, "labels": LABELS[:3]}),
        ),
    ),
}
# what the law says of a function: its checks, with the defaults of its arguments
SENTENCES: dict[str, Callable[..., Any]] = {
    "attention_weights": lambda query, key, size=None, mask=None, scale=None: LAW.attention(
        query, key, size, mask, scale
    ),
    "attention": lambda query, key, value, size=None, mask=None, scale=None: LAW.sample(
        "attention", "value", value, "H N d", **LAW.attention(query, key, size, mask, scale)
    ),
    "mean_pool": lambda x, size=None, mask=None: LAW.mean_pool(x, size, mask),
    "cluster_scores": LAW.cluster_scores,
    "estimate_q": lambda phi_out, labels, num_classes=None: LAW.estimate_q(phi_out, labels, num_classes),
    "ib_bound": LAW.ib_bound,
    "mutual_information": LAW.mutual_information,
    "mask_scores": LAW.mask_scores,
    "ib_gradient": LAW.ib_gradient,
    "scores": lambda attn, value, score="per_head", mask=None: LAW.ats_scores(attn, value, score, mask),
    "layer_norm": lambda x, scale, bias, eps=1e-5: LAW.layer_norm(x, scale, bias, eps),
}


def converted(subject: Subject, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments with the backend's arrays in place of NumPy's."""
    module, device = subject.module, subject.device
    return {
        name: module.from_numpy(each, None, device) if isinstance(each, np.ndarray) else each
        for name, each in given.items()
    }


def hold(what: str, want: str, got: str) -> None:
    """Raise `Mismatch` unless a call raised what it must."""
    if got != want:
        raise Mismatch(f"raised {got}, but should raise {want} [{what}]")


def _refuses(room: str, calls: tuple[BadCall, ...]) -> Function:
    def function(subject: Subject, data: Any) -> None:
        for name, given in calls:
            want = raised(SENTENCES[name], **given)
            own = attrgetter(f"{room}.{name}")(subject.module)
            got = raised(own, **converted(subject, given))
            shapes = {key: getattr(value, "shape", value) for key, value in given.items()}
            hold(f"{room}.{name} with {shapes}", want, got)

    return function


OF_MERGERS = {name: proof.refused for name, proof in MERGERS.items() if proof.refused[1]}
for room, (needs, calls) in (FUNCTIONS | OF_MERGERS).items():
    name = f"{'attention-' if room == 'pooling' else ''}{room}-refusals"
    statement = f"A bad argument of a function of `{room}` raises the same class with the same sentence."
    check(name, 1, statement, "CALL-1", needs=needs, dtype="float32", share=0.025)(_refuses(room, calls))


@check_each(
    "unfitting",
    1,
    "Plans that do not fit are not composed.",
    "CALL-1",
    "PLAN-5",
    needs="compose",
    dtype="float32",
    share=0.1,
)
def unfitting(subject: Subject, data: Any, merger: str) -> None:
    made = subject.run(data.draw(subject.cases(merger, "generic", padded=False))).result.plan
    if made.num_tokens_in == made.num_tokens_out:
        return
    want = raised(arguments.check_composable, made.num_tokens_out, made.num_tokens_in)
    got = raised(subject.module.compose, made, made)
    hold(f"compose({merger}, {merger}) of {made.num_tokens_in} to {made.num_tokens_out} tokens", want, got)
