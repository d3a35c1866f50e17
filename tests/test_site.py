"""The site: every public name is in the reference, numbers of rules are links, links out of docs/ hold.

That the whole of it builds is a step of `.ci/run` by itself (`mkdocs build --strict`), which also looks at the pages
that came out. What is here says the same about the parts, in seconds.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason='the site needs `pip install -e ".[docs]"`')

import docstrings
import hooks
import reference
import rule_pages
import sources

from tokenmerge.conformance.rules import rules

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_in_the_reference() -> None:
    entries = {f"{page.module}.{name}" for page in reference.pages() for name in page.entries}
    public = {f"{module}.{name}" for module, names in reference.public().items() for name in names}
    assert len(public) > 150 and public - entries == set()


def test_modules_with_public_names_are_found_through_the_links() -> None:
    assert {"tokenmerge", "tokenmerge.backends.jax", "tokenmerge.spec.batch"} <= set(reference.public())


def test_no_page_is_made_twice_and_no_module_stands_on_two() -> None:
    uris = [page.uri for page in reference.pages()]
    blocks = [entry.partition("\n")[0] for page in reference.pages() for entry in page.entries.values()]
    described = [block.removeprefix("::: ") for block in blocks if block.startswith("::: ")]
    assert len(uris) == len(set(uris)) and len(described) == len(set(described))
    assert not any(
        inner.startswith(outer + ".") for outer in described for inner in described if outer not in reference.public()
    )


def test_one_object_is_described_once_and_linked_elsewhere() -> None:
    page = next(page for page in reference.pages() if page.module == "tokenmerge.backends")
    assert "The same as [`tokenmerge.get_merger`][tokenmerge.get_merger]" in page.entries["get_merger"]


def test_a_name_without_a_place_is_found() -> None:
    html = {module: "".join(f'id="{module}.{name}"' for name in names) for module, names in reference.public().items()}
    assert reference.missing(html) == []
    html["tokenmerge"] = html["tokenmerge"].replace("get_vit", "got_vit")
    assert reference.missing(html) == ["tokenmerge.get_vit"]


def test_every_rule_has_its_place_and_its_proof() -> None:
    page = rule_pages.rules_page()
    for rule in rules():
        part = page.partition(f"\n### {rule}\n")[2].partition("\n### ")[0]
        assert "| checks, " in part and "| mutants | `" in part and "[golden vectors]" in part, rule


def test_numbers_of_rules_are_links_but_not_in_code_or_links() -> None:
    html = '<p>TOME-5, <code>PM-1</code></p><pre>TOME-5</pre><a href="x">ATS-2 <b>ATS-3</b></a><h2>IB-1</h2> X-ATS-1'
    linked = hooks.with_rules(html, "rules/", "page.md")
    assert [part.partition('"')[0] for part in linked.split('href="rules/#')[1:]] == ["tome-5", "pm-1"]


def test_a_dotted_name_is_a_reference() -> None:
    html = "<p><code>tokenmerge.patch</code> <code>tome.plan</code></p><h2><code>tokenmerge.patch</code></h2>"
    assert hooks.with_rules(html, "rules/", "page.md").count('<autoref identifier="tokenmerge.patch" optional>') == 1


def test_a_number_that_no_rule_has_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert hooks.with_rules("<p>TOME-99 UTF-8</p>", "rules/", "page.md") == "<p>TOME-99 UTF-8</p>"
    assert [record.getMessage() for record in caplog.records] == ["page.md: TOME-99 is the number of no rule"]


@pytest.mark.parametrize(
    ("link", "uri", "there"),
    [
        ("tome.md#rules", "vit.md", "tome.md#rules"),
        ("../spec/tome.py", "vit.md", "code/spec/tome.py.md"),
        ("../CONTRIBUTING.md", "vit.md", "contributing.md"),
        ("https://example.org/a.md", "vit.md", "https://example.org/a.md"),
        ("#part", "vit.md", "#part"),
        ("../../src/tokenmerge/models.py", "guides/timm.md", "../code/src/tokenmerge/models.py.md"),
    ],
)
def test_links_lead_to_the_site(link: str, uri: str, there: str) -> None:
    assert sources.relinked(f"[a]({link})", sources.DOCS / uri, uri) == f"[a]({there})"
    fenced = f"```text\n[a]({link})\n```\n"
    assert sources.relinked(fenced, sources.DOCS / uri, uri) == fenced


def test_the_front_page_of_the_repository_leads_to_the_site() -> None:
    assert sources.relinked("[a](docs/tome.md) [b](LICENSE)", ROOT / "README.md", "start.md") == (
        "[a](tome.md) [b](code/LICENSE.md)"
    )


def test_rules_in_a_docstring_become_a_list() -> None:
    text = "One.\n\nRules:\n    X-1: Two\n        words, a_b.\n    X-2: More.\n"
    assert docstrings.as_markdown(text).splitlines()[2:] == [
        "**Rules**", "", "- **X-1**: Two", "    words, a\\_b.", "- **X-2**: More."
    ]  # fmt: skip


def test_a_line_that_begins_with_a_sign_is_text() -> None:
    assert docstrings.as_markdown("Args:\n    beta: >= 0.") == "Args:\n    beta: \\>= 0."
    assert docstrings.as_markdown("It is\n    > 0.\n\n>>> 1\n1\n") == "It is\n    \\> 0.\n\n```pycon\n>>> 1\n1\n```"
