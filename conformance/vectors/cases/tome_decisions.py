"""ToMe: ties, ranking and the order of the output."""

from __future__ import annotations

from tokenmerge.conformance.vectors.cases.tome import tome
from tokenmerge.conformance.vectors.vector import UNEVEN, floats

ORDERED = " | ".join(UNEVEN)
VECTORS = [
    tome(
        "tome-5-tied-partners", "TOME-5", "Token 0 is as similar to 1 as to 3 and 5: it goes to 1.", "E E N E W E", r=1
    ),
    tome(
        "tome-5-tied-at-zero",
        "TOME-5 TOME-6",
        "All similarities are 0 or -1: ties among them go to the lowest odd position.",
        "E W E N E S E N",
        r=3,
    ),
    tome("tome-5-all-equal", "TOME-5 TOME-6", "All tokens alike: 0 and 2 go to 1.", "E E E E E E E E", r=2),
    tome(
        "tome-5-most-similar",
        "TOME-5",
        "Ordinary directions: everyone goes to the smallest angle.",
        ORDERED,
        r=4,
    ),
    tome(
        "tome-6-tied-ranking",
        "TOME-6",
        "Sources 0, 2 and 6 have a twin, r = 2: the two lower positions merge.",
        "N E E S S N E S",
        r=2,
    ),
    tome(
        "tome-6-tied-ranking-late",
        "TOME-6",
        "Source 6 is best, 2 and 4 tie behind it, 0 is last: 6 and 2 merge.",
        "W E N E S E E E",
        r=2,
    ),
    tome(
        "tome-7-grouped",
        "TOME-7 TOME-6",
        "The pairs with the smallest angles merge; unmerged even tokens come first, then odd ones.",
        ORDERED,
        r=2,
    ),
    tome("tome-7-grouped-protected", "TOME-7 TOME-4", "The same behind a class token.", ORDERED, r=3, protected=1),
    tome("tome-8-positional", "TOME-8 PLAN-4", "Survivors by position.", ORDERED, r=2, order="positional"),
    tome(
        "tome-8-positional-even",
        "TOME-8 TOME-4",
        "The same for 8 tokens and a class token.",
        UNEVEN[1].rpartition(" ")[0],
        r=2,
        protected=1,
        order="positional",
    ),
    tome("tome-9-score", "TOME-9 PLAN-4", "Unmerged even tokens by falling similarity.", ORDERED, r=2, order="score"),
    tome(
        "tome-9-score-tied",
        "TOME-9",
        "Of the unmerged tokens 2 and 6 tie: the lower position comes first, and both before 4.",
        "E E N W W S N E",
        r=1,
        order="score",
    ),
    tome(
        "plan-8-half-precision",
        "PLAN-8 TOME-5",
        "Tokens 1 and 3 are both so close to token 0 that their cosines are 1 in half precision; in float32 3 wins.",
        floats([[[64, 0], [48, 1], [0, 64], [192, 1], [-64, 2], [0, -64]]]),
        r=1,
    ),
]
