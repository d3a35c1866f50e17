"""A file of checks to leave out: what an adopter knows to be missing, and why.

One check in a line, in one dtype or in all, and after a colon the reason. Lines that begin with # are comments.

    # what my.backend cannot do yet
    tome-vmapped: the sort has no batching rule (issue 12)
    ltm-gradient @ float16: overflows; float16 is for inference only

A line that can skip nothing is a mistake: the check was renamed, or the dtype is gone, and the line hides that.

A file of expected failures has the same form. What it names runs, and has to fail: so somebody's CI can start with what
is red and be green from the first day on. A line whose check passes is told, because it hides the next failure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

# (check, dtype or None for all of them) -> reason
Skips = Mapping[tuple[str, str | None], str]
VERBS = {"skips": "skip", "xfails": "expect"}


def read_skips(path: Path, checks: Iterable[str], dtypes: Iterable[str], option: str = "skips") -> Skips:
    """The skips in a file, or the expected failures.

    Args:
        path: the file.
        checks: ids that exist.
        dtypes: that the backend has.
        option: what the file was given as, "skips" or "xfails".

    Raises:
        ValueError: a line without a check, dtype or reason that is there; an entry that was there before.
        OSError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "which is not UTF-8"
        raise OSError(f"conformance: `{option}` must be a file that can be read, got {str(path)!r} ({why})") from None
    return parse_skips(text, path.name, checks, dtypes, VERBS[option])


def parse_skips(text: str, name: str, checks: Iterable[str], dtypes: Iterable[str], verb: str = "skip") -> Skips:
    """The skips in a text; `name` is what the sentences call it, and `verb` what it does.

    >>> parse_skips("ltm-exact @ float16: why not", "my.skips", ["ltm-exact"], ["float16"])
    {('ltm-exact', 'float16'): 'why not'}
    >>> parse_skips("ltm-exakt: why not", "my.skips", ["ltm-exact"], ["float16"])
    Traceback (most recent call last):
    ...
    ValueError: conformance: my.skips line 1 must name a check, got 'ltm-exakt' (did you mean 'ltm-exact'?)
    """
    checks, dtypes = list(checks), list(dtypes)
    found: dict[tuple[str, str | None], str] = {}
    line_of: dict[tuple[str, str | None], int] = {}
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"conformance: {name} line {number}"
        what, _, reason = (part.strip() for part in line.partition(":"))
        check, at, dtype = (part.strip() for part in what.partition("@"))
        if check not in checks:
            raise ValueError(f"{where} must name a check, got {check!r}{_hint(check, checks)}")
        if at and dtype not in dtypes:
            known = ", ".join(dtypes)
            raise ValueError(f"{where} must name a dtype of the backend after @ ({known}), got {dtype!r}")
        if not reason:
            raise ValueError(f"{where} must give a reason after a colon, got {line!r}")
        key = (check, dtype if at else None)
        earlier = line_of.get((check, None)) or line_of.get(key)
        if earlier:
            raise ValueError(f"{where} must {verb} something new, got {what!r}, which line {earlier} {verb}s")
        found[key], line_of[key] = reason, number
    return found


def reason_to_skip(skips: Skips, check: str, dtype: str) -> str | None:
    """Why a check is left out in a dtype, or None."""
    return skips.get((check, dtype)) or skips.get((check, None))


def _hint(check: str, checks: list[str]) -> str:
    close = difflib.get_close_matches(check, checks, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
