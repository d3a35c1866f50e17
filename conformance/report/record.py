"""The report as data: what JSON holds, and what the table and the page are made from."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from tokenmerge.conformance.checks.check import MERGERS, TIERS
from tokenmerge.conformance.editions import current
from tokenmerge.conformance.report.verdicts import VERDICTS, finite, verdict
from tokenmerge.conformance.request import Request
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.runner import Result

SCHEMA = 1  # goes up when a field changes its meaning or goes away
STATUSES = ("passed", "failed", "skipped", "not applicable", "suite error")


def make_report(asked: Request, results: Sequence[Result], partial: bool = False) -> dict[str, Any]:
    """Everything that is known about a run, in a fixed order, without names of hosts, people and folders.

    Args:
        asked: what was asked for.
        results: one per check and dtype; fewer if it was stopped.
        partial: whether it was stopped before its end.

    >>> from tokenmerge.conformance.request import request
    >>> report = make_report(request("numpy", dtypes=("float32",)), [], partial=True)
    >>> report["backend"], report["verdict"], report["dtypes"]
    ('numpy', 'nothing checked', ['float32'])
    """
    tested = {rule for check in asked.checks for rule in check.rules} | {r for each in results for r in each.broken}
    of_rules = [_rule(rule, asked, results) for rule in rules() if rule in tested]
    status = Counter(result.status for result in results)
    unknown = asked.not_looked_at()
    word = "red" if status["failed"] else "green" if status["passed"] else "nothing checked"
    if word != "red":
        word = "suite error" if status["suite error"] else "incomplete" if unknown else word
    return {
        "schema": SCHEMA,
        "backend": asked.backend,
        "backend_version": str(asked.module.VERSION),
        "device": asked.device or next(iter(asked.module.devices()), None),
        "dtypes": list(asked.dtypes),
        "mostly": asked.mostly,  # the dtype of most checks, where the others are hardly looked at
        "mergers": [merger for merger in MERGERS if any(check.room == merger for check in asked.checks)],
        "not_looked_at": unknown,
        "versions": {
            "tokenmerge": _version("tokenmerge"),
            "numpy": _version("numpy"),
            "hypothesis": _version("hypothesis"),
        },
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "level": asked.level,
        "seed": asked.seed,
        "law": asked.law or current(),
        "partial": partial,
        "verdict": word,
        "checks": {"planned": len(list(asked.pairs())), **{each: status[each] for each in STATUSES}},
        "verdicts": {each: sum(rule["verdict"] == each for rule in of_rules) for each in VERDICTS},
        "stale": asked.stale(results),
        "examples": sum(result.examples for result in results),
        "rules": of_rules,
        "results": [_result(result) for result in results],
    }


def _rule(rule: str, asked: Request, results: Sequence[Result]) -> dict[str, Any]:
    own = [check for check in asked.checks if rule in check.rules]
    by_dtype = {dtype: verdict(rule, _about(rule, dtype, asked, results)) for dtype in asked.dtypes}
    return {
        "id": rule,
        "sentence": rules()[rule],
        "tiers": [TIERS[tier] for tier in sorted({check.tier for check in own})],
        "checks": [check.id for check in own],
        **verdict(rule, results),
        "dtypes": by_dtype,
    }


def _about(rule: str, dtype: str, asked: Request, results: Sequence[Result]) -> list[Result]:
    """The results in a dtype. Where it was hardly looked at, a check proves only those of its rules that it met."""
    own = [each for each in results if each.dtype == dtype]
    if not any(asked.left_out(dtype, check) for check in asked.checks if rule in check.rules):
        return own
    return [each for each in own if each.status == "failed" or rule in each.budgets or rule not in each.rules]


def _result(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = {
        "check": result.id,
        "dtype": result.dtype,
        "tier": TIERS[result.tier],
        "status": result.status,
        "statement": result.statement,
        "rules": list(result.rules),
        "examples": result.examples,
        "worst": finite(result.worst),
        "median": finite(result.median),
        "seconds": round(result.seconds, 3),
    }
    if result.message:
        found["message"] = result.message
    if result.status == "failed":
        found |= {
            "broken": list(result.broken),
            "input": result.input,
            "snippet": result.snippet,
            "repeat": result.repeat,
        }
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return None
