"""What MkDocs calls while it builds the site: pages that are made, links to code and to rules, formulas."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from html import unescape
from typing import Any

import reference
from latex2mathml.converter import convert
from mkdocs.structure.files import File
from rule_pages import rules_page
from sources import DOCS, ROOT, ROOT_PAGES, code_page, linked, relinked

from tokenmerge.conformance.rules import rules

log = logging.getLogger("mkdocs.hooks.tokenmerge")  # a warning ends a strict build
_MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_TAG = re.compile(r"(<[^>]+>)")
_PREFIXES = sorted({rule.partition("-")[0] for rule in rules()})
_RULE = re.compile(rf"(?<![\w-])({'|'.join(_PREFIXES)})-(\d+)\b")
_NAME = re.compile(r"tokenmerge(\.\w+)+")
_CLOSED = ("a", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "script", "style", "math", "svg")  # no links in these
_built: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """The place of the reference in the navigation is filled, and pages that it does not name yet go to its end."""

    def filled(entry: Any) -> Any:
        if isinstance(entry, list):
            return [filled(each) for each in entry]
        if isinstance(entry, dict):
            return {name: reference.nav() if value == "reference" else filled(value) for name, value in entry.items()}
        return entry

    config.nav = filled(config.nav)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    pages = {page for page in pages if not page.startswith("examples/")}
    new = sorted(page for page in pages if f"'{page}'" not in repr(config.nav))
    if new:
        config.nav.append({"More": new})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Pages that lie nowhere below docs/ are added."""
    made = {uri: relinked((ROOT / name).read_text(), ROOT / name, uri) for name, uri in ROOT_PAGES.items()}
    made["rules.md"] = rules_page()
    made |= {page.uri: page.markdown() for page in reference.pages()}
    pages = [*DOCS.rglob("*.md"), *(ROOT / name for name in ROOT_PAGES)]
    made |= {f"code/{path.relative_to(ROOT).as_posix()}.md": code_page(path) for path in linked(iter(pages))}
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links out of docs/ lead to the pages that were made; doctests are coloured as such."""
    if page.file.generated_by is None and page.file.src_uri.endswith(".md"):
        markdown = relinked(markdown, DOCS / page.file.src_uri, page.file.src_uri)
    return re.sub(r"^```python\n(?=>>> )", "```pycon\n", markdown, flags=re.MULTILINE)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Formulas become MathML, numbers of rules links."""
    html = _MATH.sub(lambda m: convert(unescape(m[3]), display="inline" if m[2] == "(" else "block"), html)
    if page.file.src_uri.startswith("reference/"):
        _built[page.file.src_uri.removeprefix("reference/").removesuffix(".md")] = html
    target = files.get_file_from_path("rules.md").url_relative_to(page.file)
    html = with_rules(html, "" if page.file.src_uri == "rules.md" else target, page.file.src_uri)
    return with_pages(html, lambda uri: (found := files.get_file_from_path(uri)) and found.url_relative_to(page.file))


def with_pages(html: str, url: Callable[[str], str | None]) -> str:
    """Names of pages, as docstrings have them, as links.

    >>> with_pages("<p>LTM (docs/ltm.md, docs/none.md)</p>", {"ltm.md": "../ltm/"}.get)
    '<p>LTM (<a href="../ltm/">docs/ltm.md</a>, docs/none.md)</p>'
    """

    def link(name: re.Match[str]) -> str:
        found = url(name[1])
        return f'<a href="{found}">{name[0]}</a>' if found else name[0]

    return re.sub(r"(?<=[ (])docs/([\w/-]+\.md)(?=[;,.) ])", link, html)


def on_post_build(config: Any) -> None:
    for name in reference.missing(_built):
        log.warning("reference: %s is public and not on its page", name)


def with_rules(html: str, target: str, where: str) -> str:
    """The numbers of rules as links, and dotted names of ours; a number that no rule has is warned of.

    >>> with_rules("<p>TOME-5 <code>ATS-1</code></p><pre>TOME-5</pre>", "rules/", "x.md")
    '<p><a href="rules/#tome-5">TOME-5</a> <code><a href="rules/#ats-1">ATS-1</a></code></p><pre>TOME-5</pre>'
    """
    known, closed, parts = rules(), 0, []

    def link(number: re.Match[str]) -> str:
        if number[0] not in known:
            log.warning("%s: %s is the number of no rule", where, number[0])
            return number[0]
        return f'<a href="{target}#{number[0].lower()}">{number[0]}</a>'

    for part in _TAG.split(html):
        if part.startswith("<"):
            name = re.match(r"</?([a-z0-9]+)", part)
            if name and name[1] in _CLOSED and not part.endswith("/>"):
                closed += -1 if part.startswith("</") else 1
            parts.append(part)
        elif not closed and _NAME.fullmatch(part) and parts[-1] == "<code>":
            parts.append(f'<autoref identifier="{part}" optional>{part}</autoref>')  # text where nothing has that name
        else:
            parts.append(part if closed else _RULE.sub(link, part))
    return "".join(parts)
