"""The suite under pytest: `pytest --pyargs tokenmerge.conformance --tokenmerge-backend NAME`.

pytest imports this file in every run where tokenmerge is installed, so it imports nothing heavy.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tokenmerge")
    group.addoption(
        "--tokenmerge-backend",
        action="append",
        metavar="NAME",
        help="backend to check, by name or module; may be given several times (default: numpy, torch and jax)",
    )
    group.addoption(
        "--tokenmerge-level", default="ci", choices=("quick", "ci", "deep"), help="how many examples (default: ci)"
    )
    group.addoption("--tokenmerge-seed", type=int, help="seed of the examples (default: the same ones in every run)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per backend, dtype and check; a backend that does not import is a test that fails."""
    if "conformance_case" not in metafunc.fixturenames:
        return
    from tokenmerge.backends import get_backend
    from tokenmerge.conformance.checks import CHECKS

    cases: list[tuple[str, str | None, object]] = []
    ids = []
    for backend in metafunc.config.getoption("--tokenmerge-backend") or ("numpy", "torch", "jax"):
        try:
            dtypes = get_backend(backend).DTYPES
        except Exception as error:
            cases.append((backend, None, error))
            ids.append(f"{backend}-imports")
            continue
        for dtype in dtypes:
            for check in CHECKS.values():
                cases.append((backend, dtype, check))
                ids.append(f"{backend}-{dtype}-{check.id}")
    metafunc.parametrize("conformance_case", cases, ids=ids)
