"""Whose fault an exception is: a backend that breaks a rule is red, a suite that breaks is not the backend's."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
# what runs before the backend does: tables, draws, and the checks' own registration
TABLES = ("draws.py", "strategies.py", "mergers.py", "proof.py", "rules.py", "checks/check.py")
REPORT = "this is an error of the suite and says nothing about the backend: report this to tokenmerge"


class SuiteError(Exception):
    """The suite itself failed."""


NO_RESULTS = (SuiteError, NameError, ImportError, SyntaxError, RecursionError)


def is_suites(error: BaseException, backend: ModuleType) -> bool:
    """Whether an exception comes out of the suite's own tables or draws, or out of a check that cannot work at all.

    Args:
        error: what a check raised, a `Mismatch` apart.
        backend: that was checked; nothing that passed through its files is the suite's.
    """
    files = [Path(frame.filename).resolve() for frame in traceback.extract_tb(error.__traceback__)]
    home = Path(getattr(backend, "__file__", None) or "nowhere").resolve()
    own = home.parent if home.name == "__init__.py" else home
    if any(file == own or own in file.parents for file in files):
        return False
    ours = [str(file.relative_to(HERE.resolve())) for file in files if HERE.resolve() in file.parents]
    drawn = any(name in TABLES for name in ours if name != "checks/check.py") or ours[-1:] == ["checks/check.py"]
    return drawn or isinstance(error, NO_RESULTS)
