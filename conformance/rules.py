"""The rules: the normative sentences of the spec, read from its docstrings, where they have a number each."""

from __future__ import annotations

import importlib
import re
from functools import cache

from tokenmerge.spec.mergers import MERGERS

MODULES = ("plan", *MERGERS, "information_bottleneck", "attention", "pooling", "batch", "vit")
_RULE = re.compile(r"^    ([A-Z]+-\d+): (.*?)(?=^    [A-Z]+-\d+: |\Z)", re.MULTILINE | re.DOTALL)


@cache
def rules() -> dict[str, str]:
    """Every rule by its id, in the order of the spec.

    >>> rules()["TOME-8"]
    'Order "positional": every surviving token by position.'
    """
    found: dict[str, str] = {}
    for name in MODULES:
        text = importlib.import_module(f"tokenmerge.spec.{name}").__doc__ or ""
        for number, sentence in _RULE.findall(text.partition("Rules:\n")[2]):
            if number in found:
                raise ValueError(f"rules: {number} must be the number of one sentence, got two")
            found[number] = " ".join(sentence.split())
    return found
