"""Bad arguments: the same exception class and the same sentence as the spec, before any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import to_numpy
from tokenmerge.conformance.checks.check import check_each
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.spec import batch


@check_each(
    "errors",
    1,
    "A bad argument raises the same class with the same sentence in every backend.",
    "CALL-1",
    dtype="float32",
    share=0.025,
)
def errors(subject: Subject, data: Any, merger: str) -> None:
    for config, call in MERGERS[merger].bad:  # all of them: it takes no longer than one call that is computed
        for door in (attempt, attempt_plan):
            want = raised(door, merger, config, call, batch, lambda array: array)
            if door is attempt_plan and ": `" not in want:  # nothing bad for a plan, or no argument of one
                continue
            got = raised(door, merger, config, call, subject.module, subject.module.from_numpy)
            if got != want:
                arguments = {name: getattr(value, "shape", value) for name, value in call.items()}
                where = f"{merger}{'.plan' if door is attempt_plan else ''} with {config} and {arguments}"
                raise Mismatch(f"raised {got}, but should raise {want} [{where}]")


@check_each(
    "load", 1, "Parameters with other names or shapes are refused, and none is changed.", "CALL-8", dtype="float32"
)
def load(subject: Subject, data: Any, merger: str) -> None:
    config = MERGERS[merger].config
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
    want = raised(batch.MERGERS[merger](**config).load_params, bad)
    made = subject.module.MERGERS[merger](**config)
    got = raised(made.load_params, bad)
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


def attempt_plan(merger: str, config: Any, call: dict[str, Any], module: Any, convert: Callable[[Any], Any]) -> None:
    """The same arguments at the other door, the merger's `plan`: its own by position, the rest by name."""
    made = module.MERGERS[merger](**config)
    arguments = {key: convert(value) if isinstance(value, np.ndarray) else value for key, value in call.items()}
    x = arguments.pop("x", None)
    arguments.pop("size", None)
    if call:
        made.plan(*(arguments.pop(name, x) for name in MERGERS[merger].description.inputs), **arguments)


def raised(function: Callable[..., Any], *given: Any, **named: Any) -> str:
    """The class and the sentence that a call raises."""
    try:
        function(*given, **named)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
