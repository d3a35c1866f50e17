"""The words of a report, the same in the terminal and on the page."""

from __future__ import annotations

from typing import Any


def subject(report: dict[str, Any]) -> str:
    """What was checked.

    >>> subject({"backend": "numpy", "backend_version": "2.1", "device": "cpu"})
    'numpy 2.1 on cpu'
    """
    return f"{report['backend']} {report['backend_version']} on {report['device']}"


def share(value: float | None) -> str:
    """A share of the rounding budget: 0 is exact agreement, above 1 rounding cannot explain.

    >>> share(None), share(0.0), share(0.0012), share(0.257), share(1.3), share(2e7)
    ('', 'exact', '<0.01', '0.26', '1.30', '>999')
    """
    if value is None:
        return ""
    if value == 0:
        return "exact"
    return "<0.01" if value < 0.01 else ">999" if value > 999 else f"{value:.2f}"


def headline(report: dict[str, Any]) -> str:
    """The verdict in one sentence."""
    verdicts, checks = report["verdicts"], report["checks"]
    ran = checks["passed"] + checks["failed"]
    if report["verdict"] == "nothing checked":
        said = "no check ran, so nothing is proven"
    elif report["verdict"] == "suite error":
        failed = _count(checks["suite error"], "check")
        said = f"{failed} could not run: an error of the suite, report this to tokenmerge"
    elif report["verdict"] == "incomplete":
        names = ", ".join(report["not_looked_at"])
        said = f"{verdicts['green']} rules that were checked are green, but not looked at: {names}"
    elif report["verdict"] == "red":
        said = f"{_count(verdicts['red'], 'rule')} broken, {verdicts['green']} green"
    elif report["partial"]:
        said = f"no rule broken so far, {verdicts['green']} green"
    else:
        said = f"all {verdicts['green']} rules that were checked are green"
    rest = [f"{verdicts[word]} {said}" for word, said in _OTHER.items() if verdicts[word]]
    early = ""
    if report["partial"]:
        done = ran + checks["skipped"] + checks["not applicable"] + checks["suite error"]
        early = f"PARTIAL, stopped early after {done} of {checks['planned']} checks: "
    more = f"; {', '.join(rest)}" if rest else ""
    failed = f", {checks['failed']} failed" if checks["failed"] else ""
    total = f"{_count(ran, 'check')}{failed}, {_count(report['examples'], 'example')}"
    return f"{subject(report)}: {early}{said}{more} ({total})"


_OTHER = {"unproven": "unproven", "skipped": "skipped", "n/a": "not applicable"}


def not_checked(report: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What was left out and why: a title and its lines.

    That is the dtypes that a quick look hardly looks at, skipped checks, and those that apply in no dtype.
    """
    skipped: dict[str, dict[str, list[str]]] = {}
    for result in report["results"]:
        if result["status"] == "skipped":
            skipped.setdefault(result["message"], {}).setdefault(result["check"], []).append(result["dtype"])
    missing: dict[str, list[str]] = {}
    for check, reason in _not_applicable(report).items():
        missing.setdefault(reason, []).append(check)
    others = [dtype for dtype in report["dtypes"] if dtype != report.get("mostly")]
    quick = f"most checks ran only in {report.get('mostly')}; `--dtype` runs all of them in others, too"
    lines = {
        "Not looked at": [f"the suite has no record of the merger {name}" for name in report["not_looked_at"]],
        "Errors of the suite": [each["message"] for each in report["results"] if each["status"] == "suite error"],
        "Quick": [f"{quick}: {', '.join(others)}"] if report.get("mostly") and others else [],
        "Skipped": [f"{reason}: {_checks(checks, report['dtypes'])}" for reason, checks in skipped.items()],
        "Not applicable": [f"{reason}: {', '.join(checks)}" for reason, checks in missing.items()],
    }
    return [(title, each) for title, each in lines.items() if each]


def _not_applicable(report: dict[str, Any]) -> dict[str, str]:
    """The checks that apply in no dtype, and why: what the backend lacks says more than "only in float64"."""
    reasons: dict[str, list[str]] = {}
    for result in report["results"]:
        reason = result["message"] if result["status"] == "not applicable" else ""
        reasons.setdefault(result["check"], []).append(reason)
    return {
        check: next((reason for reason in found if not reason.startswith("only in ")), found[0])
        for check, found in reasons.items()
        if all(found) and len(found) == len(report["dtypes"])
    }


def _checks(checks: dict[str, list[str]], dtypes: list[str]) -> str:
    """Names of checks, with the dtypes where it is not all of them.

    >>> _checks({"tome-exact": ["float16"], "ats-exact": ["float16", "float32"]}, ["float16", "float32"])
    'tome-exact (float16), ats-exact'
    """
    return ", ".join(
        check if len(found) == len(dtypes) else f"{check} ({', '.join(found)})" for check, found in checks.items()
    )


def _count(number: int, noun: str) -> str:
    """A number and its noun.

    >>> _count(1, "rule"), _count(2, "rule")
    ('1 rule', '2 rules')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")
