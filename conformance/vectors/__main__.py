"""Write the golden vectors, or check that they are current: `python -m tokenmerge.conformance.vectors [--check]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tokenmerge.conformance.vectors import DATA
from tokenmerge.conformance.vectors.build import build
from tokenmerge.conformance.vectors.files import stale, write


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tokenmerge.conformance.vectors", description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA, metavar="DIR", help="where they are (default: the package)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not current")
    given = parser.parse_args(arguments)
    index, files = build()
    if given.check:
        wrong = stale(given.out, index, files)
        if wrong:
            print(wrong, file=sys.stderr)
        return int(wrong is not None)
    write(given.out, index, files)
    written = [given.out / name for name in ("index.json", *files)]
    print(f"{len(index['cases'])} cases, {sum(path.stat().st_size for path in written)} bytes in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
