"""Write the rules as they are as an edition: `python -m tokenmerge.conformance.editions 2026.12`."""

from __future__ import annotations

import re
import sys

from tokenmerge.conformance.editions import write


def main(arguments: list[str]) -> int:
    """Write the edition that is named.

    >>> main(["next"])
    editions: the name must be a year and a month, such as 2026.12, got ['next']
    2
    """
    if len(arguments) != 1 or not re.fullmatch(r"\d{4}\.(0[1-9]|1[0-2])", arguments[0]):
        print(f"editions: the name must be a year and a month, such as 2026.12, got {arguments}")
        return 2
    print(write(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
