"""LTM: the first mask, the step from it, and its options."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.conformance.vectors.vector import Array, Vector, booleans, floats, mixed

WEIGHT = floats([0.5, -0.25, 1, 0.125])
PRIOR = floats([[4, 0, 1], [4, 2, 1], [4, 6, 2], [2, 4, 4], [2, 4, 8]]) / 16  # (n,P') = (5,3)
PRIORS = np.stack([PRIOR, floats([[16, 4, 0], [0, 4, 8], [0, 4, 0], [0, 4, 0], [0, 0, 8]]) / 16])


def ltm(name: str, rules: str, about: str, x: Array, samples: Any = None, **given: Any) -> Vector:
    """A call of LTM; what is no option and not the weight is an input."""
    weight = given.pop("weight", WEIGHT)
    config = {"dim": x.shape[2], "compression_ratio": 0.5, "protected": 0, "prior_smoothing": 0.1}
    config |= {option: given.pop(option) for option in list(given) if option in config}
    params = {"weight": weight[: x.shape[2]]}
    return Vector(name, tuple(rules.split()), about, "ltm", config, {"x": x} | given, params, samples)


def tokens(b: int, n: int, c: int = 4) -> Array:
    return mixed((b, n, c), 1, 8)


PADDED = tokens(2, 6)
PADDED[0, 4:], PADDED[1, 1] = np.nan, np.inf
SICK = tokens(2, 4)
SICK[0, 1] = np.nan

VECTORS = [
    ltm("ltm-1-rounds-up", "LTM-1", "5 tokens at 0.5: ceil(2.5) = 3.", tokens(1, 5)),
    ltm(
        "ltm-1-decimal",
        "LTM-1",
        "25 tokens at 0.28 are 7; the product of the two binary numbers is above 7 and would give 8.",
        tokens(1, 25, 1),
        compression_ratio=0.28,
        weight=floats([0]),
    ),
    ltm(
        "ltm-1-nothing-removed",
        "LTM-1",
        "At 1.0 there are as many tokens as before, but the mask still mixes them.",
        tokens(1, 4),
        compression_ratio=1.0,
    ),
    ltm(
        "ltm-2-uneven-pooling",
        "LTM-2 LTM-7",
        "7 tokens to 3: columns 0..2, 2..4, 4..6 overlap; smoothed with 0.1. A weight of zero leaves it so.",
        tokens(1, 7),
        compression_ratio=0.4,
        weight=np.zeros(4, np.float32),
    ),
    ltm(
        "ltm-2-no-smoothing",
        "LTM-2",
        "Without smoothing a token outside the window of a column has weight exactly 0.",
        tokens(1, 6),
        prior_smoothing=0.0,
    ),
    ltm(
        "ltm-2-all-smoothing",
        "LTM-2",
        "Smoothing 1 makes the first mask uniform, and all columns alike.",
        tokens(1, 5),
        prior_smoothing=1.0,
    ),
    ltm(
        "ltm-3-prior",
        "LTM-3",
        "One mask for both samples takes the place of pooling; its zero stays zero, smoothing is not applied.",
        tokens(2, 5),
        prior=PRIOR,
    ),
    ltm("ltm-3-prior-per-sample", "LTM-3", "A mask of its own for every sample.", tokens(2, 5), prior=PRIORS),
    ltm(
        "ltm-3-prior-protected",
        "LTM-3 LTM-5",
        "The mask has rows for the tokens that are not protected.",
        tokens(1, 6),
        protected=1,
        prior=PRIOR,
    ),
    ltm(
        "ltm-8-grid",
        "LTM-8 LTM-3",
        "4 x 4 tokens to 2 x 4 by the prior over a grid: pairs of rows, each column its own.",
        tokens(1, 16),
        weight=np.zeros(4, np.float32),
        prior=np.kron(np.kron(np.eye(2), [[0.5], [0.5]]), np.eye(4)).astype(np.float32),
    ),
    ltm("ltm-4-step", "LTM-4", "The step from the first mask, two samples.", tokens(2, 6)),
    ltm(
        "ltm-5-class-token",
        "LTM-5 LTM-1",
        "The class token is copied bit by bit; 6 others become 3.",
        tokens(1, 7),
        protected=1,
    ),
    ltm("ltm-5-all-protected", "LTM-5", "As many protected as tokens: the identity.", tokens(1, 3), protected=3),
    ltm(
        "ltm-6-masks",
        "LTM-6 LTM-1",
        "4 and 5 real tokens become 2 and 3, so the last slot of sample 0 is padding; NaN in the padding is not seen.",
        PADDED,
        mask=booleans("111100", "101111"),
    ),
    ltm(
        "ltm-6-protected",
        "LTM-6 LTM-5",
        "The first two real tokens are protected; sample 1 has only one real token, so slot 1 is padding.",
        tokens(2, 6),
        protected=2,
        mask=booleans("011101", "000100"),
    ),
    ltm(
        "ltm-6-prior",
        "LTM-6 LTM-3",
        "Of a given mask the real tokens' rows and the first columns are used.",
        tokens(1, 5),
        prior=PRIOR,
        mask=booleans("10110"),
    ),
    ltm("ltm-6-nothing-real", "LTM-6 CALL-5", "No real token: zeros.", tokens(1, 4), mask=booleans("0000")),
    ltm(
        "ltm-sizes",
        "PLAN-2 PLAN-3",
        "Sizes do not influence the mask; they go where the share sends them.",
        tokens(1, 5),
        size=floats([[1, 2, 0, 4, 5]]),
    ),
    ltm(
        "call-4-ltm",
        "CALL-4",
        "NaN in sample 0 changes nothing in sample 1; the result of sample 0 is not specified.",
        SICK,
        samples=(1,),
    ),
    ltm("call-5-ltm-no-tokens", "CALL-5", "N = 0: empty in, empty out.", tokens(1, 0)),
    ltm("call-5-ltm-no-samples", "CALL-5", "B = 0: empty in, empty out.", tokens(0, 4)),
    ltm("call-5-ltm-one-token", "CALL-5", "N = 1: the token itself.", tokens(1, 1)),
]
