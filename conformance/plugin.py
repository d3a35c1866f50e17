"""The suite under pytest: `pytest --pyargs tokenmerge.conformance --tokenmerge-backend NAME`.

pytest imports this file in every run where tokenmerge is installed, so it imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

OURS = ("numpy", "torch", "jax")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tokenmerge")
    group.addoption(
        "--tokenmerge-backend",
        action="append",
        metavar="NAME",
        help="backend to check, by name or module; may be given several times (default: numpy, torch and jax)",
    )
    group.addoption("--tokenmerge-device", metavar="NAME", help="one of its devices (default: the backend's)")
    group.addoption(
        "--tokenmerge-dtype", default="", metavar="NAMES", help="dtypes with commas between (default: all it has)"
    )
    group.addoption(
        "--tokenmerge-merger", default="", metavar="NAMES", help="mergers with commas between (default: all)"
    )
    group.addoption(
        "--tokenmerge-level", default="ci", choices=("quick", "ci", "deep"), help="how many examples (default: ci)"
    )
    group.addoption("--tokenmerge-seed", type=int, help="seed of the examples (default: the same ones in every run)")
    group.addoption(
        "--tokenmerge-skips", metavar="FILE", help="checks to leave out, a line each: check [@ dtype]: reason"
    )
    group.addoption("--tokenmerge-xfails", metavar="FILE", help="checks that are known to fail, in the same form")
    group.addoption("--tokenmerge-rules", metavar="EDITION", help="measure against the rules of an edition")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per backend, dtype and check; a backend that does not import is a test that fails."""
    if "conformance_case" not in metafunc.fixturenames:
        return
    from tokenmerge.conformance.checks import CHECKS
    from tokenmerge.conformance.request import load, request
    from tokenmerge.conformance.skips import read_skips

    option = metafunc.config.getoption
    loaded: dict[str, object] = {}
    for backend in option("--tokenmerge-backend") or OURS:
        try:
            loaded[backend] = load(backend)
        except Exception as error:
            loaded[backend] = error
    try:
        # a file of skips may serve several backends: a dtype of any of them is there
        dtypes = {dtype: None for module in loaded.values() for dtype in getattr(module, "DTYPES", ())}
        lists = {}
        for name in ("skips", "xfails"):
            file = option(f"--tokenmerge-{name}")
            lists[name] = read_skips(Path(file), CHECKS, dtypes, name) if file and dtypes else {}
        cases: list[tuple[object, str | None, object]] = []
        ids = []
        for backend, module in loaded.items():
            if isinstance(module, Exception):
                cases.append((backend, None, module))
                ids.append(f"{backend}-imports")
                continue
            asked = request(
                backend,
                device=option("--tokenmerge-device"),
                dtypes=_names(option("--tokenmerge-dtype")),
                mergers=_names(option("--tokenmerge-merger")),
                level=option("--tokenmerge-level"),
                seed=option("--tokenmerge-seed"),
                law=option("--tokenmerge-rules"),
                **lists,
            )
            for dtype, check in asked.pairs():
                cases.append((asked, dtype, check))
                ids.append(f"{backend}-{dtype}-{check.id}")
    except (ValueError, OSError) as error:  # one sentence is what is wrong with the options
        raise pytest.Collector.CollectError(str(error)) from None
    metafunc.parametrize("conformance_case", cases, ids=ids)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """A worker runs thousands of checks: what was compiled for a dtype goes with it."""
    (asked, dtype, _), (_, following, _) = _case(item), _case(nextitem)
    if dtype is not None:
        asked.forget(dtype, following or "another test")


def _case(item: pytest.Item | None) -> tuple[Any, str | None, Any]:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return parameters.get("conformance_case", (None, None, None))


def _names(option: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in option.split(",") if name.strip())
