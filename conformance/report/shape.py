"""The shape of a report that somebody else wrote: a page is made of nothing that only looks like one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from tokenmerge.conformance.checks.check import TIERS
from tokenmerge.conformance.report.verdicts import VERDICTS

Test = Callable[[Any], bool]


def is_report(found: Any) -> bool:
    """Whether something read from JSON is a report of any schema, and one of schema 1 whole and of the right types.

    >>> is_report({"schema": 1}), is_report([]), is_report({"schema": 2})
    (False, False, True)
    """
    if not isinstance(found, dict) or "schema" not in found:
        return False
    if found["schema"] != 1:  # `html_page` says which schemas it reads
        return True
    try:
        return all(test(found[name]) for name, test in FIELDS.items())
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _is(*kinds: type) -> Test:
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _list(test: Test) -> Test:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _mapping(test: Test) -> Test:
    return lambda value: isinstance(value, dict) and all(isinstance(k, str) and test(v) for k, v in value.items())


def _fields(**tests: Test) -> Test:
    return lambda value: isinstance(value, dict) and all(test(value[name]) for name, test in tests.items())


def _is_verdict(value: Any) -> bool:
    return isinstance(value, str) and value in VERDICTS


def _is_time(value: Any) -> bool:
    return isinstance(value, str) and bool(datetime.fromisoformat(value))


_text, _count, _nothing = _is(str), _is(int), type(None)
_texts = _list(_text)
_in_dtype = _fields(verdict=_is_verdict, worst=_is(int, float, _nothing), examples=_count, skipped=_count)
_rule = _fields(id=_text, verdict=_is_verdict, sentence=_text, tiers=_texts, checks=_texts, dtypes=_mapping(_in_dtype))
_always = _fields(check=_text, dtype=_text, status=_text, tier=lambda value: value in TIERS.values())
_sometimes = {name: _is(str, _nothing) for name in ("message", "input", "snippet", "repeat")} | {"broken": _texts}


def _result(value: Any) -> bool:
    return _always(value) and all(test(value[name]) for name, test in _sometimes.items() if name in value)


STATUSES = ("planned", "passed", "failed", "skipped", "not applicable", "suite error")

FIELDS: dict[str, Test] = {
    "verdict": lambda value: value in ("green", "red", "nothing checked", "incomplete", "suite error"),
    "backend": _text,
    "backend_version": _text,
    "partial": _is(bool),
    "mergers": _texts,
    "not_looked_at": _texts,
    "checks": lambda value: _mapping(_count)(value) and all(word in value for word in STATUSES),
    "verdicts": lambda value: _mapping(_count)(value) and all(word in value for word in VERDICTS),
    "when": _is_time,
    "seed": _is(int, _nothing),
    "level": _text,
    "examples": _count,
    "device": _is(str, _nothing),
    "dtypes": _texts,
    "python": _text,
    "versions": _mapping(_is(str, _nothing)),
    "platform": _text,
    "rules": _list(_rule),
    "results": _list(_result),
}
