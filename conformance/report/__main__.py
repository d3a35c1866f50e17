"""`python -m tokenmerge.conformance.report A.json B.json > page.html`: one page of several JSON reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from tokenmerge.conformance.report.page import html_page


def main(paths: Sequence[str]) -> int:
    """Print the page; say in one sentence what is wrong with a file."""
    if not paths:
        print("report: needs the paths of JSON reports, got none", file=sys.stderr)
        return 2
    try:
        reports = [_read(path) for path in paths]
        sys.stdout.write(html_page(reports))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        try:
            found = json.load(file)
        except ValueError:
            found = None
    if not isinstance(found, dict) or "schema" not in found:
        raise ValueError(f"report: {path!r} must be what `tokenmerge conformance --json` writes, but is something else")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
