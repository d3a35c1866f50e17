"""The suite as tests: one per backend, dtype and check (see plugin.py)."""

from __future__ import annotations

from typing import Any

import pytest

from tokenmerge.conformance.fault import SuiteError
from tokenmerge.conformance.rules import rules


def test_conformance(conformance_case: tuple[Any, str | None, Any]) -> None:
    asked, dtype, check = conformance_case
    if dtype is None:
        pytest.fail(str(check), pytrace=False)  # why the backend does not import
    result = asked.run(dtype, check)
    if result.status in ("skipped", "not applicable"):
        pytest.skip(result.message)
    stale = asked.stale([result])
    if stale:
        pytest.fail(stale[0], pytrace=False)
    if result.status == "suite error":
        raise SuiteError(result.message)
    if result.status == "failed":
        said = "\n".join(f"{rule}: {rules()[rule]}" for rule in result.broken)
        pytest.fail(f"{said}\n\n{result.message}\n\nRepeat it with:\n\n{result.snippet}", pytrace=False)
