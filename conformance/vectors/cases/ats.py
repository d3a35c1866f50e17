"""ATS: scores, sample points and who is chosen. Attention comes in 16ths, values have simple lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.conformance.vectors.vector import Array, Vector, booleans, floats, mixed, numbered


def ats(name: str, rules: str, about: str, attention: Any, samples: Any = None, **given: Any) -> Vector:
    """A call of ATS with `attention (B,H,N)` in 16ths and values of `lengths (B,H,N)`, all 1 where not given."""
    config = {"max_tokens": 2, "score": "per_head", "sampling": "inverse_transform"}
    config |= {option: given.pop(option) for option in list(given) if option in config}
    row = floats(attention) / 16
    lengths = floats(given.pop("lengths", np.ones(row.shape)))
    b, _, n = row.shape
    inputs = {"x": numbered(b, n), "attn": row, "value": lengths[..., None]} | given
    return Vector(name, tuple(rules.split()), about, "ats", config, inputs, {}, samples)


def whole(row: Array) -> Array:
    """An attention matrix `(B,H,N,N)` with that row for the class token and anything in the other rows."""
    b, h, n = row.shape
    matrix = np.abs(mixed((b, h, n, n), 3, 16))
    matrix[:, :, 0] = row
    return matrix


HEADS = [[[0, 8, 4, 2, 2], [0, 2, 2, 4, 8]]]
LENGTHS = [[[1, 1, 2, 0, 1], [1, 4, 1, 2, 1]]]

SCORES = [
    ats(
        "ats-1-per-head",
        "ATS-1 ATS-4",
        "Every head weighs its attention by the length of its own value.",
        HEADS,
        lengths=LENGTHS,
        max_tokens=3,
    ),
    ats(
        "ats-2-concat",
        "ATS-2 ATS-4",
        "The same inputs: heads are summed, then weighed by the length of all values together; token 2 is not chosen.",
        HEADS,
        lengths=LENGTHS,
        max_tokens=3,
        score="concat",
    ),
    ats(
        "ats-1-length-of-value",
        "ATS-1",
        "The length is Euclidean: |(3, -4)| = 5; the sign of a value means nothing.",
        [[[0, 4, 4, 4, 4]]],
        value=floats([[[[0, 0], [3, -4], [-1, 0], [0, 2], [0, 0]]]]),
        max_tokens=3,
    ),
    ats(
        "ats-3-no-score",
        "ATS-3 ATS-5",
        "All values are zero: every token counts alike, the cumulated shares are 1/4, 2/4, 3/4, 1.",
        [[[12, 1, 1, 1, 1]]],
        lengths=np.zeros((1, 1, 5)),
    ),
    ats(
        "ats-3-no-score-masked",
        "ATS-3 ATS-7",
        "No attention but to the class token: uniform over the four real tokens 1, 3, 4, 5.",
        [[[16, 0, 0, 0, 0, 0, 0]]],
        mask=booleans("1101110"),
        max_tokens=4,
    ),
]
POINTS = [
    ats(
        "ats-4-token-order",
        "ATS-4",
        "Shares are cumulated in the order of the tokens, not of their scores.",
        [[[0, 1, 8, 2, 5]]],
        max_tokens=3,
    ),
    ats(
        "ats-4-given-points",
        "ATS-4 ATS-8",
        "Sample points that are given, in any order, 0 and 1 among them; the chosen tokens come out ascending.",
        [[[0, 1, 1, 2, 4, 8]], [[0, 8, 4, 2, 1, 1]]],
        uniforms=floats([[1.0, 0.0, 0.1875, 0.625], [0.75, 0.0, 1.0, 0.875]]),
        max_tokens=4,
    ),
    ats(
        "ats-5-tie",
        "ATS-5",
        "The point 3/8 is as near to 1/4 (token 3) as to 1/2 (token 4): token 3.",
        [[[0, 1, 1, 2, 4, 8]]],
        max_tokens=4,
    ),
    ats(
        "ats-5-all-tied",
        "ATS-5 ATS-8",
        "8 points halfway between 8 cumulated shares: all go down, so token 1 is chosen twice and token 8 never.",
        [[[0, 2, 2, 2, 2, 2, 2, 2, 2]]],
        max_tokens=8,
    ),
    ats(
        "ats-5-zero-score-in-front",
        "ATS-5",
        "Tokens 1 and 2 have score 0: their cumulated share, 0, is nearest to 1/8, but they are never chosen.",
        [[[0, 0, 0, 8, 0, 8]]],
        max_tokens=4,
    ),
    ats(
        "ats-5-zero-score-behind",
        "ATS-5 ATS-8",
        "Tokens 2 and 4 repeat the cumulated share of the token before them and are never chosen.",
        [[[0, 8, 0, 4, 0, 4]]],
        max_tokens=5,
        uniforms=floats([[0.5, 0.5, 0.75, 1.0, 0.625]]),
    ),
    ats(
        "ats-6-gumbel",
        "ATS-6",
        "Two draws: in the first the scores decide, in the second the noise.",
        [[[0, 8, 4, 2, 2]]],
        sampling="gumbel",
        noise=floats([[[0.5, 0.25, -0.5, 0.125], [-1.0, 0.0, 2.5, 0.75]]]),
    ),
    ats(
        "ats-6-gumbel-no-score",
        "ATS-6",
        "A token of score 0 can be drawn: its logarithm is that of 1e-6, which large noise outweighs.",
        [[[0, 12, 0, 4, 0]]],
        sampling="gumbel",
        max_tokens=3,
        noise=floats([[[0, 16, 0, 0], [0, 8, 0, 0], [0, 0, 0, 16]]]),
    ),
    ats(
        "ats-6-gumbel-tiny-scores",
        "ATS-6",
        "The sum of the scores is 2^-40: the 1e-6 in the divisor makes token 1 hardly likelier than the others.",
        [[[0, 2.0**-16, 0, 0]]],
        lengths=np.full((1, 1, 4), 2.0**-20),
        sampling="gumbel",
        noise=floats([[[0, 0.75, 0.25], [0, 0.25, 0.375]]]),
    ),
    ats(
        "ats-6-gumbel-concat",
        "ATS-6 ATS-2 ATS-8",
        "Gumbel noise on the other score, two heads, one token drawn twice.",
        HEADS,
        lengths=LENGTHS,
        score="concat",
        sampling="gumbel",
        max_tokens=3,
        noise=floats([[[0, 1, 2, -1], [0, 0, 0, 0], [0, 0.5, 1.75, 0]]]),
    ),
]
MASKS = [
    ats(
        "ats-7-prefix-mask",
        "ATS-7 PLAN-4",
        "Padding on the right in sample 0: its attention is not counted, its NaN not seen.",
        [[[0, 4, 4, 8, 99, 99]], [[0, 1, 1, 4, 2, 8]]],
        value=floats([[[[1], [1], [1], [1], [np.nan], [np.inf]]], [[[1]] * 6]]),
        mask=booleans("111100", "111111"),
        max_tokens=4,
    ),
    ats(
        "ats-7-any-mask",
        "ATS-7",
        "Padding anywhere.",
        [[[0, 9, 4, 9, 8, 4, 9]]],
        mask=booleans("1010110"),
        max_tokens=4,
    ),
    ats(
        "ats-7-gumbel-mask",
        "ATS-7 ATS-6",
        "No noise is large enough to draw a masked token.",
        [[[0, 4, 8, 4, 9]]],
        sampling="gumbel",
        mask=booleans("11110"),
        noise=floats([[[0, 0, 0, 128], [0, -2, 1, 128]]]),
    ),
    ats(
        "ats-7-only-the-class-token",
        "ATS-7 ATS-8",
        "Nothing but the class token is real in sample 0, nothing at all in sample 1: its slots are all padding.",
        [[[0, 4, 4, 8]], [[0, 4, 4, 8]]],
        mask=booleans("1000", "0000"),
    ),
    ats(
        "ats-8-each-once",
        "ATS-8",
        "All four points choose token 2: it comes once, three slots are padding.",
        [[[0, 0, 16, 0, 0, 0]]],
        max_tokens=4,
    ),
    ats(
        "ats-8-more-points-than-tokens",
        "ATS-8",
        "K = 8 of 3 tokens: 1 + min(8, 3) slots.",
        [[[0, 4, 4, 8]]],
        max_tokens=8,
    ),
    ats(
        "ats-8-sizes",
        "ATS-8 PLAN-3 PLAN-4",
        "Tokens and sizes are those of the chosen tokens; what is dropped is lost.",
        [[[0, 8, 1, 1, 2, 4]]],
        size=floats([[1, 4, 2, 0, 3, 5]]),
        max_tokens=2,
    ),
    ats(
        "ats-9-whole-attention",
        "ATS-9 ATS-1",
        "The case ats-1-per-head with the whole matrix: only its first row counts.",
        HEADS,
        lengths=LENGTHS,
        max_tokens=3,
        attn=whole(floats(HEADS) / 16),
    ),
]
CALLS = [
    ats(
        "call-4-ats",
        "CALL-4",
        "NaN and infinity in sample 0 change nothing in sample 1; the result of sample 0 is not specified.",
        [[[np.nan, np.nan, np.inf, 1, 2]], [[0, 1, 8, 2, 5]]],
        max_tokens=3,
        samples=(1,),
    ),
    ats("call-5-ats-no-tokens", "CALL-5", "N = 0: empty in, empty out.", np.zeros((1, 2, 0))),
    ats("call-5-ats-no-samples", "CALL-5", "B = 0: empty in, empty out.", np.zeros((0, 1, 4))),
    ats("call-5-ats-one-token", "CALL-5 ATS-8", "N = 1: the class token alone.", [[[16]]]),
]
RELEASED = [
    ats(
        "ats-10-released",
        "ATS-10 ATS-8",
        "Sorted: tokens 2, 3, 4, 1, with running sum 0, 2, 6, 14 of 14; the points 2, 8, 14 take 3, 4, 1.",
        [[[0, 8, 2, 2, 4]]],
        sampling="released",
        max_tokens=3,
    ),
    ats(
        "ats-10-tie",
        "ATS-10",
        "Sorted: tokens 3, 1, 2, 4, 5, with running sum 0, 4, 8, 12, 16; 10 is as near to 8 as to 12: token 2.",
        [[[0, 4, 4, 0, 4, 4]]],
        sampling="released",
        max_tokens=3,
    ),
    ats(
        "ats-10-one-point",
        "ATS-10",
        "A single point is 1: the token with the largest score.",
        [[[0, 2, 8, 2, 4]]],
        sampling="released",
        max_tokens=1,
    ),
    ats(
        "ats-10-no-score",
        "ATS-10 ATS-3",
        "All values are zero: every token counts alike, the first is the lowest in the sorting.",
        [[[12, 1, 1, 1, 1]]],
        lengths=np.zeros((1, 1, 5)),
        sampling="released",
        max_tokens=3,
    ),
    ats(
        "ats-10-zero-scores",
        "ATS-10",
        "Tokens 1 and 4 have score 0: the points begin at the first running sum that is above 0, that of token 3.",
        [[[0, 0, 8, 2, 0, 6]]],
        sampling="released",
        max_tokens=3,
    ),
    ats(
        "ats-10-masked",
        "ATS-10 ATS-7",
        "Padding takes no part in the sorting; the only real token of sample 1 is kept, sample 2 has none.",
        [[[0, 8, 9, 2, 2, 4]], [[0, 9, 9, 4, 9, 9]], [[0, 9, 9, 9, 9, 9]]],
        mask=booleans("110111", "100100", "100000"),
        sampling="released",
        max_tokens=3,
    ),
    ats(
        "ats-10-concat",
        "ATS-10 ATS-2",
        "The released code's score and sampler, with a point for every token.",
        HEADS,
        lengths=LENGTHS,
        score="concat",
        sampling="released",
        max_tokens=4,
    ),
]
VECTORS = [*SCORES, *POINTS, *MASKS, *RELEASED, *CALLS]
