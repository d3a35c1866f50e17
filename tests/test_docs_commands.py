"""The commands on the pages are ones that exist: subcommands, options, modules, files, extras.

They are not run here. What they print stands on the pages, and is tested where it is made.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tokenmerge.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SUBCOMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def commands(markdown: str) -> Iterator[list[str]]:
    """The words of every command in the fences for a shell, and of `tokenmerge ...` and `python ...` in the text."""
    fences = re.findall(r"^```bash\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`((?:tokenmerge|python) [^`]+)`", text)
    for line in "\n".join([*fences, *(" ".join(each.split()) for each in inline)]).replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quotation that goes on in the next line: not a command of ours
            continue
        part: list[str] = []
        for word in [*words, "&&"]:
            if word in ("&&", "|", ";", "do", "done"):
                yield part
                part = []
            else:
                part.append(word)


def wrong(words: list[str]) -> str | None:
    """What is wrong with a command, or None."""
    names = {"tokenmerge", "python", "pip"}
    at = next((place for place, word in enumerate(words) if word in names), None)
    if at is None:
        return None
    name, rest = words[at], words[at + 1 :]
    if name == "pip":
        asked = {extra for word in rest for extra in re.findall(r"^\.\[(.+)\]$", word) for extra in extra.split(",")}
        return f"no extra {', '.join(sorted(asked - set(EXTRAS)))}" if asked - set(EXTRAS) else None
    if name == "python":
        if rest[:1] == ["-m"]:
            return None if find_spec(rest[1]) else f"no module {rest[1]}"
        files = [word for word in rest[:1] if word.endswith(".py") and "$" not in word]
        return next((f"no file {file}" for file in files if not (ROOT / file).exists()), None)
    if not rest or rest[0].startswith("-"):
        return None
    if rest[0] not in SUBCOMMANDS:
        return f"no command {rest[0]}"
    known = {option for each in SUBCOMMANDS[rest[0]].params for option in (*each.opts, *each.secondary_opts)}
    new = [word for word in rest[1:] if word.startswith("--") and word.partition("=")[0] not in {*known, "--help"}]
    return f"{rest[0]} has no {', '.join(new)}" if new else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_exist(page: Path) -> None:
    found = [(" ".join(words), wrong(words)) for words in commands(page.read_text(encoding="utf-8"))]
    assert [(words, why) for words, why in found if why] == []


def test_commands_are_found() -> None:
    assert sum(len(list(commands(page.read_text(encoding="utf-8")))) for page in PAGES) > 100


@pytest.mark.parametrize(
    "line",
    [
        "tokenmerge prove --backend numpy",
        "tokenmerge conformance --proof",
        "OMP_NUM_THREADS=1 tokenmerge bench tome \\\n  --sorted",
        "pip install -e '.[tome]' && tokenmerge demo",
        "python tools/nothing.py",
        "python -m tokenmerge.nothing",
    ],
)
def test_a_command_that_is_none_is_found(line: str) -> None:
    assert any(map(wrong, commands(f"```bash\n{line}\n```\n")))
