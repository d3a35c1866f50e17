"""Files outside of docs/ that pages link to: on the site, each becomes a page of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Pages that GitHub wants at the root: their names on the site.
ROOT_PAGES = {"README.md": "start.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1[`~]*\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^\s()<>]+)(\))")
_LANGUAGES = {".py": "python", ".json": "json", ".toml": "toml", ".md": "markdown", ".html": "html"}
_LANGUAGES |= {".cpp": "cpp", ".hpp": "cpp"}


def relinked(markdown: str, source: Path, uri: str) -> str:
    """A page of the repository with links that hold on the site.

    Args:
        markdown: the page.
        source: its file in the repository, from which its links lead.
        uri: its place on the site, below docs/.
    """
    folder = os.path.dirname(uri)

    def target(link: str) -> str:
        path, mark, anchor = link.partition("#")
        if not path or re.match(r"[a-z][a-z0-9+.-]*:|//", path):
            return link
        return os.path.relpath(place(source.parent / path), folder or ".") + mark + anchor

    return _outside_fences(markdown, lambda text: _LINK.sub(lambda m: m[1] + target(m[2]) + m[3], text))


def place(path: Path) -> str:
    """Where a file of the repository is on the site, below docs/."""
    path = path.resolve()
    if path.is_relative_to(DOCS) and path.suffix in (".md", ".png", ".svg", ".ipynb", ".html", ".css"):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return ROOT_PAGES.get(name, f"code/{name}.md")


def linked(pages: Iterator[Path]) -> list[Path]:
    """Files and folders without a page of their own that pages link to, and the Python files in those folders."""
    found = set[Path]()
    for page in pages:
        text = _outside_fences(page.read_text(), lambda text: text, drop=True)
        for _, link, _ in _LINK.findall(text):
            path = link.partition("#")[0]
            if path and not re.match(r"[a-z][a-z0-9+.-]*:|//", path):
                target = (page.parent / path).resolve()
                if target.exists() and place(target).startswith("code/"):
                    found.add(target)
    for folder in [path for path in found if path.is_dir()]:
        found.update(folder.glob("*.py"))
    return sorted(found)


def code_page(path: Path) -> str:
    """A page that shows a file, or lists a folder."""
    name = path.relative_to(ROOT).as_posix()
    front = f"---\ntitle: {name}\nsearch:\n  exclude: true\n---\n\n# `{name}`\n\n"
    if path.is_dir():
        return front + "\n".join(_listed(path)) + "\n"
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return f"{front}{path.stat().st_size:,} bytes.\n"
    return f"{front}~~~~~~{_LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n~~~~~~\n"


def _listed(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")):
            continue
        about = ""
        if path.suffix == ".py":
            about = path.read_text().partition('"""')[2].partition('"""')[0].partition("\n")[0]
            yield f"- [`{path.name}`]({folder.name}/{path.name}.md): {about}".rstrip(": ")
        else:
            yield f"- `{path.name}{'/' if path.is_dir() else ''}`"


def _outside_fences(markdown: str, change: Callable[[str], str], drop: bool = False) -> str:
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), "" if drop else fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])
