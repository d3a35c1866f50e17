"""ToMe: how many tokens go, what similarity is, and what is protected. Metrics point in directions of a map."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.conformance.vectors.vector import UNEVEN, Array, Vector, compass, floats, numbered


def tome(name: str, rules: str, about: str, metric: str | Array | None, samples: Any = None, **given: Any) -> Vector:
    """A call of ToMe; what is no option is an input. Without `x`, the tokens carry their position."""
    config = {"r": None, "protected": 0, "order": "grouped", "matching": "bipartite", "k": None}
    config |= {option: given.pop(option) for option in list(given) if option in config}
    if metric is not None:
        towards = compass(*metric.split(" | ")) if isinstance(metric, str) else metric
        given = {"x": numbered(*towards.shape[:2]), "metric": towards} | given
    return Vector(name, tuple(rules.split()), about, "tome", config, given, {}, samples)


def replaced(array: Array, value: float, *places: tuple[int, ...]) -> Array:
    """A copy with a value in some places."""
    changed = array.copy()
    for place in places:
        changed[place] = value
    return changed


VECTORS = [
    tome("tome-1-nothing-to-remove", "TOME-1", "r = 0 gives the identity.", "E E N N W", r=0),
    tome(
        "tome-1-odd-half",
        "TOME-1",
        "Of 7 tokens at most 3 go, however large r is; the least similar of the four sources stays.",
        "E E N N W W S",
        r=1000,
    ),
    tome("tome-1-even-half", "TOME-1", "Of 6 tokens 3 go: every source merges.", "E N N E W S", r=1000),
    tome(
        "tome-1-protected-leave-one",
        "TOME-1 TOME-4",
        "6 tokens, 5 of them protected: (6 - 5) // 2 = 0, the identity.",
        "E E E E E E",
        r=3,
        protected=5,
    ),
    tome(
        "tome-1-protected-half",
        "TOME-1 TOME-4",
        "9 tokens, 2 of them protected: (9 - 2) // 2 = 3 go.",
        "E E E NE N NNE ENE W S",
        r=1000,
        protected=2,
    ),
    tome("tome-1-all-protected", "TOME-1", "As many protected as tokens: the identity.", "E E E", r=2, protected=3),
    tome(
        "tome-2-zero-vector",
        "TOME-2 TOME-6",
        "The zero vector has similarity 0, not NaN: it ranks below 1 and, at position 0, before the other 0.",
        "0 N E W W S",
        r=2,
    ),
    tome(
        "tome-2-zero-beats-opposite",
        "TOME-2 TOME-5",
        "Similarity 0 with the zero vector is more than -1 with the opposite one.",
        "E W N 0 W S",
        r=3,
    ),
    tome(
        "tome-2-all-zero",
        "TOME-2 TOME-5 TOME-6",
        "Nothing but zero vectors: all similarities are 0, so the lowest positions decide.",
        "0 0 0 0 0 0 0",
        r=2,
    ),
    tome(
        "tome-2-length-is-nothing",
        "TOME-2",
        "Token 3 points where token 0 points, token 1 is longer and would win by the plain product.",
        compass("E NE N E S W") * floats([1, 64, 2, 0.5, 8, 1])[:, None],
        r=1,
    ),
    tome(
        "tome-2-very-large",
        "TOME-2",
        "Entries of 2^100, whose squares are out of range in float32: only directions count.",
        compass(UNEVEN[0]) * floats(2.0**100),
        r=3,
    ),
    tome(
        "tome-2-very-small",
        "TOME-2",
        "Entries of 2^-100 beside ordinary ones: squares underflow in float32, directions do not.",
        compass(UNEVEN[0]) * floats([2.0**-100, 1, 1] * 3)[:, None],
        r=3,
    ),
    tome(
        "tome-2-not-finite",
        "TOME-2",
        "A vector with a NaN (token 2) or an infinity (token 3) in it counts as the zero vector.",
        replaced(replaced(compass("W E E W N N S S"), np.nan, (0, 2, 1)), np.inf, (0, 3, 0)),
        r=3,
    ),
    tome(
        "tome-2-x-is-the-metric",
        "TOME-2",
        "Without a metric, similarity is measured on x itself.",
        None,
        x=floats([[[1, 2], [8, -8], [0, 0], [2, 4], [-4, 4], [-3, -1]]]),
        r=1,
    ),
    tome(
        "tome-3-even-looks-for-odd",
        "TOME-3",
        "Tokens 0 and 2 are the same, so are 1 and 3; but both pairs have equal parity and cannot merge.",
        "E N E N",
        r=1,
    ),
    tome(
        "tome-4-class-token",
        "TOME-4",
        "The class token is even: it looks for nobody, although token 1 is its twin.",
        "E E N 5,1 SSE ENE W",
        r=2,
        protected=1,
    ),
    tome(
        "tome-4-two-protected",
        "TOME-4",
        "Token 1 is the twin of token 2 but protected: it receives nothing.",
        "N E E N ENE NE S S W",
        r=2,
        protected=2,
    ),
    tome(
        "tome-4-five-protected",
        "TOME-4 PLAN-4",
        "A class token and four registers stay in front in their order.",
        "E E E E E N E NE N W N E",
        r=3,
        protected=5,
    ),
    tome(
        "tome-4-two-protected-positional",
        "TOME-4 TOME-8",
        "The same with positional order, on an odd number of tokens.",
        "N E E N ENE NE S S W",
        r=2,
        protected=2,
        order="positional",
    ),
    tome(
        "tome-4-five-protected-score",
        "TOME-4 TOME-9",
        "The same with score order: only what is not protected is sorted.",
        "E E E E E N ESE NE SSE W ENE E",
        r=1,
        protected=5,
        order="score",
    ),
]
