"""Sentences of the spec on the page."""

from __future__ import annotations

import re
from html import escape


def prose(sentence: str) -> str:
    """A sentence as HTML, names between backticks as code.

    >>> prose("The first `r` are < N.")
    'The first <code>r</code> are &lt; N.'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(sentence))
