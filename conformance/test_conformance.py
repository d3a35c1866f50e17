"""The suite as tests: one per backend, dtype and check (see plugin.py)."""

from __future__ import annotations

from typing import Any

import pytest

from tokenmerge.backends import get_backend
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.runner import run_check
from tokenmerge.conformance.subject import Subject


def test_conformance(conformance_case: tuple[str, str | None, Any], request: pytest.FixtureRequest) -> None:
    backend, dtype, check = conformance_case
    if dtype is None:
        pytest.fail(f"{backend} does not import: {check}")
    subject = Subject(backend, get_backend(backend), dtype)
    option = request.config.getoption
    result = run_check(subject, check, option("--tokenmerge-level"), option("--tokenmerge-seed"))
    if result.status == "not applicable":
        pytest.skip(result.message)
    said = "\n".join(f"{rule}: {rules()[rule]}" for rule in result.broken)
    assert result.status == "passed", f"{said}\n\n{result.message}\n\nRepeat it with:\n\n{result.snippet}"
