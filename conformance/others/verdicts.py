"""Agrees, differs, or has no such thing: one answer for every rule that a project could be asked about."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tokenmerge.conformance.checks.check import PREFIXES
from tokenmerge.conformance.others.adapter import Adapter, Array, DiffersError, Entry, MissingError
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.vectors.replay import differences, read

AGREES, DIFFERS, NOTHING = "agrees", "differs", "has no such thing"


@dataclass(frozen=True)
class Answer:
    """What a project has to say to a rule.

    Attributes:
        rule: its id.
        verdict: "agrees", "differs" or "has no such thing".
        note: on how many cases it agrees; what is different, with the input; or why it has no such thing.
        example: id of the golden vector that shows a difference.
    """

    rule: str
    verdict: str
    note: str
    example: str = ""


def answers(adapter: Adapter) -> Iterator[Answer]:
    """One answer per rule of the merger, of plans and of calls, in the order of the spec."""
    vectors, tensors = read()
    own = [case for case in vectors if case["function"] == adapter.merger]
    for rule in rules():
        if rule.partition("-")[0] in (PREFIXES[adapter.merger], "PLAN", "CALL"):
            yield _answer(adapter, rule, [case for case in own if rule in case["rules"]], own, tensors)


def _answer(adapter: Adapter, rule: str, cases: list[Entry], own: list[Entry], tensors: dict[str, Array]) -> Answer:
    if rule in adapter.without:
        return Answer(rule, NOTHING, adapter.without[rule])
    if rule.startswith("PLAN") and rule not in adapter.probes:
        return Answer(rule, NOTHING, "it gives no plan")
    agreed, missing = 0, "it is not a part of its interface"
    try:
        if rule in adapter.probes:
            adapter.probes[rule]()
            agreed += 1
        elif rule in PROBES:
            agreed += PROBES[rule](adapter, own, tensors)
        # the smallest input first: what differs on it is the example
        for case in sorted(cases, key=_entries):
            try:
                _compare(adapter, case, tensors)
            except MissingError as error:
                missing = str(error)
            except DiffersError as error:
                if case["rules"][0] == rule:  # else it is the difference of another rule
                    return Answer(rule, DIFFERS, str(error), case["id"])
            else:
                agreed += 1
    except DiffersError as error:
        return Answer(rule, DIFFERS, str(error))
    except MissingError as error:
        missing = str(error)
    if agreed:
        return Answer(rule, AGREES, f"on {agreed} case{'s' * (agreed > 1)}")
    return Answer(rule, NOTHING, missing)


def _entries(case: Entry) -> int:
    return sum(int(np.prod(each["shape"])) for each in case["inputs"].values())


def run(adapter: Adapter, case: Entry, tensors: dict[str, Array]) -> dict[str, Array]:
    """What a project makes of a case; an exception is a difference.

    Raises:
        MissingError: it has no such option.
        DiffersError: it raised something.
    """
    inputs = {}
    for name, about in case["inputs"].items():
        array = tensors[f"{case['id']}/inputs/{name}"].copy()
        inputs[name] = array.astype(bool) if about["dtype"] == "uint8" else array
    params = {name: tensors[f"{case['id']}/params/{name}"].copy() for name in case["params"]}
    before = copy.deepcopy(inputs)
    try:
        with np.errstate(all="ignore"):
            got = adapter.run(case, inputs, params)
    except (MissingError, DiffersError):
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise DiffersError(
            f"{type(error).__name__} where {case['about'][:1].lower()}{case['about'][1:]} ({first})"
        ) from error
    changed = [
        name
        for name, array in inputs.items()
        if not np.array_equal(array, before[name], equal_nan=array.dtype.kind == "f")
    ]
    if changed:
        raise DiffersError(f"`{changed[0]}` is not what it was before the call")
    return got


def _compare(adapter: Adapter, case: Entry, tensors: dict[str, Array]) -> None:
    got = run(adapter, case, tensors)
    wanted = {name: about for name, about in case["expected"].items() if name in got}
    if not wanted:
        raise MissingError("it does not give this result")
    names = {f"{case['id']}/expected/{name}": name for name in wanted}
    compared = {place: adapter.same(name, tensors[place]) for place, name in names.items()}
    own = {name: adapter.same(name, got[name]) for name in wanted}
    found = differences(
        {**case, "expected": wanted}, tensors | compared, own, "float32" if "float32" in case["dtypes"] else "float64"
    )
    if found:
        raise DiffersError(f"{case['about']} {found[0].partition(': ')[2]}")


def _untouched(adapter: Adapter, own: list[Entry], tensors: dict[str, Array]) -> int:
    """How many cases leave the inputs as they were."""
    return len(list(_supported(adapter, own, tensors)))


def _repeated(adapter: Adapter, own: list[Entry], tensors: dict[str, Array]) -> int:
    """How many cases give the same twice."""
    count = 0
    for case, first in _supported(adapter, own, tensors):
        second = run(adapter, case, tensors)
        for name, array in first.items():
            if not np.array_equal(array, second[name], equal_nan=array.dtype.kind == "f"):
                raise DiffersError(f"`{name}` of {case['id']} is another one in a second call")
        count += 1
    return count


def _supported(
    adapter: Adapter, own: list[Entry], tensors: dict[str, Array]
) -> Iterator[tuple[Entry, dict[str, Array]]]:
    for case in own:
        try:
            yield case, run(adapter, case, tensors)
        except MissingError:
            continue
        except DiffersError as error:
            if "before the call" in str(error):
                raise


PROBES = {"CALL-2": _untouched, "CALL-3": _repeated}
