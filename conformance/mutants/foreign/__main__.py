"""Run the suite on foreign bugs: `python -m tokenmerge.conformance.mutants.foreign [PART OF A NAME ...]`.

Without arguments all of them; `--survivors` is those of `survivors.txt`. The exit status is 1 if one is called green.
"""

from __future__ import annotations

import sys

from rich.console import Console

from tokenmerge.conformance.mutants.foreign import FOREIGN, survivors
from tokenmerge.conformance.self_test import kill_all


def main(parts: list[str]) -> int:
    """Kill those whose name has one of the parts in it.

    >>> main(["no-such-name"])
    foreign bugs: no name has 'no-such-name' in it
    2
    """
    names = survivors() if parts == ["--survivors"] else [n for n in FOREIGN if not parts or any(p in n for p in parts)]
    if parts == ["--survivors"] and not names:
        print("foreign bugs: none is known to be called green")
        return 0
    if not names:
        print(f"foreign bugs: no name has {' or '.join(map(repr, parts))} in it")
        return 2
    return kill_all(Console(), [FOREIGN[name] for name in names])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
