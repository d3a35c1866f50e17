"""Options that random cases meet too rarely for their rules: they are held fixed in checks of their own."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tokenmerge.conformance.checks.check import Function, check
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.strategies import SHAPES
from tokenmerge.conformance.subject import Subject

MOST_TOKENS = max(SHAPES["exact"], key=lambda shape: shape[1])

# check -> its rules, what is fixed, and the kinds of input in which there is such a thing
FIXED: dict[str, tuple[tuple[str, ...], dict[str, Any], tuple[str, ...]]] = {
    "tome-ties": (("TOME-5", "TOME-6"), {"shape": MOST_TOKENS, "r": "a quarter"}, ("exact",)),
    "tome-grouped": (("TOME-7",), {"matching": "grouped"}, ("exact", "generic")),
    "tome-positional": (("TOME-8",), {"matching": "positional"}, ("exact", "generic")),
    "tome-score": (("TOME-9",), {"matching": "score"}, ("exact", "generic")),
    "tome-kth": (("TOME-10",), {"matching": "kth"}, ("exact", "generic")),
    "tome-long-runs": (("TOME-10",), {"matching": "kth", "shape": MOST_TOKENS, "k": 33}, ("exact", "generic")),
    "tome-random": (("TOME-11",), {"matching": "random"}, ("exact", "generic")),
    "ats-uniforms": (("ATS-4",), {"random": "uniforms"}, ("generic",)),
    "ats-gumbel": (("ATS-6",), {"random": "noise"}, ("generic", "degenerate")),
    "patch_merger-logit_scale": (("PM-2",), {"variant": ("logit_scale", -0.75)}, ("generic",)),
    "patch_merger-no-logits": (("PM-2",), {"variant": ("logit_scale", 0.0)}, ("generic",)),
}


def _fixed(merger: str, options: dict[str, Any], kinds: tuple[str, ...]) -> Function:
    def function(subject: Subject, data: Any) -> None:
        kind = data.draw(st.sampled_from(kinds), label="kind of input")
        case = data.draw(subject.cases(merger, kind, padded=False, fixed=options))
        subject.judge(case, exact=kind == "exact")

    return function


for name, (about, options, kinds) in FIXED.items():
    statement = " ".join(rules()[rule] for rule in about)
    check(name, 2, statement, *about, share=0.5)(_fixed(name.partition("-")[0], options, kinds))
