"""What our docstrings hold, as Markdown: doctests become code, rules a list. An extension of Griffe."""

from __future__ import annotations

import re
from typing import Any

import griffe

_PLAIN = re.compile(r"^(\s*(?:[\w*, ]+: )?)([>#+](?=[\s=]))")  # "beta: >= 0" and a wrapped sentence are no quotations
_RULE = re.compile(r"^([A-Z]+-\d+): ", re.MULTILINE)


def as_markdown(docstring: str) -> str:
    """A docstring whose examples are fenced and whose rules are items.

    >>> as_markdown("Double it.\\n\\n>>> 2 * 2\\n4").splitlines()
    ['Double it.', '', '```pycon', '>>> 2 * 2', '4', '```']
    """
    lines: list[str] = []
    in_example = in_rules = False
    for line in docstring.splitlines():
        if line.startswith("Rules:"):
            in_rules = True
            lines += ["**Rules**", ""]
            continue
        if in_rules and line and not line.startswith(" "):
            in_rules = False
        if in_rules:
            text = re.sub(r"([*_<>|])", r"\\\1", line.removeprefix("    "))
            lines.append(_RULE.sub(r"- **\1**: ", text))
            continue
        if line.startswith(">>>") and not in_example:
            in_example = True
            lines.append("```pycon")
        elif in_example and not line.strip():
            in_example = False
            lines.append("```")
        lines.append(line if in_example else _PLAIN.sub(r"\1\\\2", line))
    if in_example:
        lines.append("```")
    return "\n".join(lines)


class Docstrings(griffe.Extension):
    """Rewrites every docstring when it is read."""

    def on_instance(self, *, obj: griffe.Object | griffe.Alias, **_: Any) -> None:
        if not obj.is_alias and obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
