"""The pages hold together: links lead somewhere, every page can be found, the README says what it has to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenmerge.backends import registry
from tokenmerge.spec.mergers import MERGERS

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs" / "README.md"
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "node_modules" not in page.parts)
LINKED = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *PAGES]
COMMANDS = ['pip install -e ".[all]" && tokenmerge demo', 'pip install -e ".[dev]" && pytest']
NAMES = [*MERGERS, *registry._MODULES]


# Reading Markdown


def fences(markdown: str) -> Iterator[tuple[str, list[str]]]:
    """The parts between fences, and the fenced parts: `("", lines)` for prose, else the language and the lines."""
    fence, language, lines = "", "", list[str]()
    for line in markdown.splitlines():
        mark = re.match(r" {0,3}(```+|~~~+)\s*([\w+-]*)", line)
        if mark and not fence:
            yield "", lines
            fence, language, lines = mark[1], mark[2] or "text", []
        elif mark and mark[1].startswith(fence) and not mark[2]:
            yield language, lines
            fence, lines = "", []
        else:
            lines.append(line)
    yield language if fence else "", lines


def prose(markdown: str) -> str:
    return "\n".join(line for language, lines in fences(markdown) if not language for line in lines)


def links(markdown: str) -> list[str]:
    """The targets of links and images, in the text and as references; what is code is no link."""
    text = re.sub(r"(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\1(?!`)", "code", prose(markdown), flags=re.DOTALL)
    inline = re.findall(r"\]\(\s*<?([^\s()<>]+(?:\([^\s()]*\))?)>?(?:\s+[\"'(][^)]*)?\s*\)", text)
    return inline + re.findall(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s.*)?$", text, re.MULTILINE)


def anchors(markdown: str) -> set[str]:
    """The names that GitHub gives to the headings: lower case, no punctuation, hyphens, repetitions numbered."""
    found = set[str]()
    for heading in re.findall(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$", prose(markdown), re.MULTILINE):
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = 0
        while (numbered := f"{name}-{count}" if count else name) in found:
            count += 1
        found.add(numbered)
    return found


def is_relative(link: str) -> bool:
    return not re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.IGNORECASE)


def broken(page: Path, root: Path = ROOT) -> list[str]:
    """The relative links of a page that lead nowhere, or out of the repository."""
    markdown, found = page.read_text(), []
    for link in filter(is_relative, links(markdown)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page.resolve()
        if path.startswith("/") or not target.is_relative_to(root.resolve()) or not target.exists():
            found.append(link)
        elif "#" in link and (target.suffix != ".md" or anchor not in anchors(target.read_text())):
            found.append(link)
    return found


def reachable(index: Path) -> set[Path]:
    """The pages that one gets to from an index by following links, without leaving its folder."""
    folder, found, todo = index.resolve().parent, set[Path](), [index.resolve()]
    while todo:
        page = todo.pop()
        if page in found or page.suffix != ".md" or not page.is_file() or not page.is_relative_to(folder):
            continue
        found.add(page)
        paths = (link.partition("#")[0] for link in links(page.read_text()) if is_relative(link))
        todo += [(page.parent / path).resolve() for path in paths if path]
    return found


def missing_commands(markdown: str) -> list[str]:
    """The commands that do not stand on a line of their own in a fenced block for the shell."""
    lines = [line for language, block in fences(markdown) if language == "bash" for line in block]
    return [command for command in COMMANDS if command not in lines]


def missing_names(markdown: str) -> list[str]:
    """The mergers and backends that a text does not name, in quotes or as code."""
    return [name for name in NAMES if not re.search(rf"[\"`/]{name}[\"`/]", markdown)]


def sources(part: str) -> list[Path]:
    return [path for path in (ROOT / part).rglob("*.py") if not any(parent.is_symlink() for parent in path.parents)]


# The pages


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_every_page_can_be_found() -> None:
    assert {page.resolve() for page in PAGES} - reachable(INDEX) == set()


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_are_fenced(page: Path) -> None:
    assert not re.search(r"^\s*>>>", prose(page.read_text()), re.MULTILINE)


def test_no_hint_names_a_package_that_no_index_has() -> None:
    files = [*LINKED, *(path for part in ("src", "spec", "backends", "conformance") for path in sources(part))]
    assert [path for path in files if re.search(r"pip install ['\"]?tokenmerge", path.read_text())] == []


def test_readme_holds_the_commands() -> None:
    assert missing_commands((ROOT / "README.md").read_text()) == []


def test_readme_is_read_in_a_minute() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    examples = ["\n".join(lines) for language, lines in fences(text) if language == "python"]
    assert "from tokenmerge import patch" in examples[0]  # what people come for


def test_contributing_names_files_that_exist() -> None:
    """But for those of a merger `x`, which is to be added, and patterns."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:spec|backends|conformance|tests|tools|docs|src|\.ci)/[\w./-]*)`", text)
    missing = [path for path in paths if not re.search(r"/x\.", path) and not (ROOT / path).exists()]
    assert len(paths) > 20 and missing == []


def test_ci_takes_the_second_command() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert next(line for line in lines if re.match(r"pip install -e .+ && pytest", line)) == COMMANDS[1]


def test_readme_names_mergers_and_backends() -> None:
    assert missing_names((ROOT / "README.md").read_text()) == []


# The checks above can fail

SITE = {
    "docs/README.md": "# Index\n[good](good.md)\n",
    "docs/good.md": "# Good\n## A `b_c`: d, e?\n## Twice\n## Twice\n[up](../README.md) [deep](deep/er.md)",
    "docs/deep/er.md": "# Deeper\n",
    "docs/lonely.md": "# Lonely\n[index](README.md)\n",
    "README.md": "# Top\n",
    "code.py": "",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name, text in SITE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "[a](nowhere.md)",
        "![a](nowhere.png)",
        "[a](good.md#nowhere)",
        "[a](#nowhere)",
        "[a](good.md#Twice)",
        "[a](good.md#twice-2)",
        "[a](good.md#)",
        "[a](../code.py#L3)",
        "[a](../../outside.md)",
        "[a](/docs/good.md)",
        '[a](nowhere.md "title")',
        "[a](<nowhere.md>)",
        "[a][b]\n\n[b]: nowhere.md",
        "[![a](good.md)](nowhere.md)",
        "| table | [`code`](nowhere.md) |",
        "```text\n[a](good.md)\n```\n[a](nowhere.md)",
        "`code in\ntwo lines` [a](nowhere.md) `code`",
        "`not closed\n\n[a](nowhere.md) `code`",
    ],
)
def test_a_broken_link_is_found(site: Path, text: str) -> None:
    page = site / "docs" / "page.md"
    (site.parent / "outside.md").touch()
    page.write_text(f"# Page\n{text}\n")
    assert len(broken(page, site)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[a](good.md) [b](../code.py) [c](..) ![d](deep/er.md)",
        "[a](#page) [b](good.md#good) [c](good.md#a-b_c-d-e) [d](good.md#twice-1)",
        "[a](https://example.org/nowhere.md) [b](mailto:nobody@example.org)",
        "`[a](nowhere.md)` and ``[a](`nowhere.md`)``",
        "```text\n[a](nowhere.md)\n# No heading\n```",
        "~~~~\n```\n[a](nowhere.md)\n~~~~",
        "[`code`](good.md 'title') [a][b]\n\n[b]: good.md#good",
    ],
)
def test_a_good_link_passes(site: Path, text: str) -> None:
    page = site / "docs" / "page.md"
    page.write_text(f"# Page\n{text}\n")
    assert broken(page, site) == []


def test_a_heading_in_code_is_no_anchor() -> None:
    assert anchors("# One\n```bash\n# Two\n```\n## [Three](x.md), *four*") == {"one", "three-four"}


def test_a_page_without_a_link_to_it_is_found(site: Path) -> None:
    index = site / "docs" / "README.md"
    assert {page.name for page in reachable(index)} == {"README.md", "good.md", "er.md"}


def test_a_missing_command_is_found() -> None:
    first, second = COMMANDS
    assert missing_commands(f"```bash\n{first}\n```\n{second}\n```text\n{second}\n```") == [second]
    assert missing_commands(f"```bash\n{first}\n{second} -q\n```") == [second]


def test_a_missing_name_is_found() -> None:
    named = " ".join(f'"{name}"' for name in NAMES if name != "ats")
    assert missing_names(f"{named} what ats does") == ["ats"]
