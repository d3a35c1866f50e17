"""Print the oldest versions that pyproject.toml allows, as pip wants them: the lower bounds of all extras, pinned.

Usage: PINS=$(python tools/oldest.py) .ci/run
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def oldest(project: str) -> list[str]:
    """A pin for every framework with a lower bound.

    >>> oldest('[project.optional-dependencies]\\na = ["torch>=2.6", "timm"]\\ndev = ["pytest>=8"]')
    ['torch==2.6.*']
    """
    extras = tomllib.loads(project)["project"]["optional-dependencies"]
    bounds = [re.fullmatch(r"([\w-]+)>=([\w.]+)", need) for needs in extras.values() for need in needs]
    return sorted({f"{bound[1]}=={bound[2]}.*" for bound in bounds if bound and bound[1] != "pytest"})


if __name__ == "__main__":
    print(*oldest(PROJECT.read_text()))
