"""`python -m tokenmerge.conformance.report A.json B.json > page.html`: one page of several JSON reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from tokenmerge.conformance.report.page import html_page
from tokenmerge.conformance.report.shape import is_report


def main(paths: Sequence[str]) -> int:
    """Print the page; say in one sentence what is wrong with a file."""
    if not paths:
        print("report: needs the paths of JSON reports, got none", file=sys.stderr)
        return 2
    try:
        reports = [_read(path) for path in paths]
        page = _page(reports)
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="xmlcharrefreplace")  # HTML has a name for what the encoding cannot say
        sys.stdout.write(page)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _page(reports: Sequence[dict[str, Any]]) -> str:
    try:
        return html_page(reports)
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ValueError("report: the reports contradict themselves, a dtype or a check is missing in them") from None


def _read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        try:
            found = json.load(file)
        except (ValueError, RecursionError):
            found = None
    if not is_report(found):
        raise ValueError(f"report: {path!r} must be what `tokenmerge conformance --json` writes, but is something else")
    assert isinstance(found, dict)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
