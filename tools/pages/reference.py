"""The API reference: a page for every public module, with every name of its `__all__`."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import griffe
from sources import ROOT

# Modules without `__all__` whose functions are the interface: the law, room by room.
ROOMS = (
    *(f"tokenmerge.spec.{room}" for room in ("plan", "tome", "ats", "patch_merger", "ltm", "information_bottleneck")),
    *(f"tokenmerge.spec.{room}" for room in ("attention", "pooling", "vit", "shared.flops", "shared.schedule")),
)
ORDER = ("tokenmerge", "tokenmerge.patching", "tokenmerge.deploy", "tokenmerge.backends", "tokenmerge.spec")


@dataclass
class Page:
    """A page of the reference: a module, and what is said there about each public name."""

    module: str
    entries: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"reference/{self.module}.md"

    def markdown(self) -> str:
        """A block for mkdocstrings for each name, or a link where the same thing stands on another page."""
        about = "" if "" in self.entries else _about(self.module)  # a whole module says it by itself
        return f"# `{self.module}`\n\n{about}\n\n" + "\n\n".join(self.entries.values()) + "\n"


@cache
def public() -> dict[str, tuple[str, ...]]:
    """The modules that have an `__all__`, and what is in it."""
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(_files(ROOT / "src" / "tokenmerge")):
        names = _all(file)
        if names:
            parts = file.relative_to(ROOT / "src").with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = names
    first = {name: index for index, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (first.get(item[0], len(first)), item[0])))


@cache
def pages() -> tuple[Page, ...]:
    """Every page; what is one object under several names is described under the first, a module on its own page."""
    package = griffe.load("tokenmerge", search_paths=[ROOT / "src"], resolve_aliases=True)
    shown: dict[str, str] = {}
    made = []
    for module, names in public().items():
        page = Page(module)
        if module in ROOMS:
            page.entries[""] = f"::: {module}\n    options:\n      show_root_heading: false\n      members: false"
        for name in names:
            path = f"{module}.{name}"
            found = package[path.removeprefix("tokenmerge.")]
            target = found.final_target.path if found.is_alias else found.path
            if target in public():
                page.entries[name] = f"## {name} {{ #{path} }}\n\nThe module [`{target}`]({target}.md)."
            elif target in shown:
                page.entries[name] = f"## {name} {{ #{path} }}\n\nThe same as [`{shown[target]}`][{shown[target]}]."
            else:
                shown[target] = path
                page.entries[name] = f"::: {path}"
        made.append(page)
    for module in ROOMS:
        if module not in public():
            made.append(Page(module, {"": f"::: {module}\n    options:\n      show_root_heading: false"}))
    return tuple(made)


def missing(html: dict[str, str]) -> list[str]:
    """The public names that have no place on the built pages, given by module."""
    return [
        f"{module}.{name}"
        for module, names in public().items()
        for name in names
        if f'id="{module}.{name}"' not in html.get(module, "")
    ]


def nav() -> list[dict[str, str]]:
    """The pages in their order, by names that fit into a column."""
    return [{page.module.removeprefix("tokenmerge."): page.uri} for page in pages()]


def _files(folder: Path) -> list[Path]:
    """Python files below a folder, through the links to the wings."""
    found = []
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            found += _files(path)
        elif path.suffix == ".py":
            found.append(path)
    return found


def _all(file: Path) -> tuple[str, ...]:
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return tuple(ast.literal_eval(node.value))
    return ()


def _about(module: str) -> str:
    path = ROOT / "src" / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0]
