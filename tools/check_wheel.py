"""Check that a wheel holds every tracked file of the package, and nothing beside the package.

Usage: python tools/check_wheel.py dist/*.whl
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "src/tokenmerge/": "tokenmerge/",
    "spec/": "tokenmerge/spec/",
    "backends/": "tokenmerge/backends/",
    "conformance/": "tokenmerge/conformance/",
}


def tracked_files() -> list[str]:
    run = subprocess.run(["git", "ls-files", "-z", *FOLDERS], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in run.stdout.split("\0") if name and not (ROOT / name).is_symlink()]


def place_in_wheel(tracked: str) -> str:
    """Say where a file of the checkout lies in the wheel.

    >>> place_in_wheel("backends/torch/tome.py")
    'tokenmerge/backends/torch/tome.py'
    """
    folder = next(folder for folder in FOLDERS if tracked.startswith(folder))
    return FOLDERS[folder] + tracked.removeprefix(folder)


def problems(contents: set[str], tracked: list[str]) -> list[str]:
    """List what is wrong, one sentence each.

    >>> problems({"tokenmerge/spec/tome.py", "spec/ats.py"}, ["spec/tome.py", "spec/ats.py"])
    ['missing: tokenmerge/spec/ats.py', 'outside the package: spec/ats.py']
    >>> problems(set(), [])
    ['git tracks no file of the package: is this a clone with commits?']
    """
    if not tracked:
        return ["git tracks no file of the package: is this a clone with commits?"]
    missing = sorted({place_in_wheel(name) for name in tracked} - contents)
    outside = sorted(
        name
        for name in contents
        if name.split("/")[0] != "tokenmerge" and not name.split("/")[0].endswith(".dist-info")
    )
    return [f"missing: {name}" for name in missing] + [f"outside the package: {name}" for name in outside]


def main(wheels: list[str]) -> int:
    if len(wheels) != 1:
        print(f"check_wheel: got {len(wheels)} wheels, needs the path of one", file=sys.stderr)
        return 2
    contents = {name for name in ZipFile(wheels[0]).namelist() if not name.endswith("/")}
    print(*sorted(contents), sep="\n")
    found = problems(contents, tracked_files())
    print(*found, sep="\n", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
