"""PatchMerger: the LayerNorm, the weights, and its options."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.conformance.vectors.vector import Array, Vector, booleans, floats, mixed

C, M = 4, 2
PARAMS = {"queries": mixed((M, C), 5, 8), "scale": floats([1, 0.5, 2, 1.25]), "bias": floats([0, 0.25, -0.5, 1])}


def patch_merger(name: str, rules: str, about: str, x: Array, samples: Any = None, **given: Any) -> Vector:
    """A call of PatchMerger; what is no option is an input."""
    config = {
        **{"dim": x.shape[2], "num_tokens_out": M, "logit_scale": None},
        **{"normalize": True, "use_bias": True, "eps": 1e-5},
    }
    config |= {option: given.pop(option) for option in list(given) if option in config}
    params = {key: value[..., : x.shape[2]] for key, value in PARAMS.items() if key != "bias" or config["use_bias"]}
    return Vector(name, tuple(rules.split()), about, "patch_merger", config, {"x": x} | given, params, samples)


TOKENS = mixed((2, 5, C), 1, 4)
PADDED = TOKENS.copy()
PADDED[0, 3:], PADDED[1, 2] = np.nan, np.inf
SICK = TOKENS.copy()
SICK[1, 0, 0], SICK[1, 3] = np.nan, np.inf

VECTORS = [
    patch_merger(
        "pm-1-layer-norm",
        "PM-1 PM-2 PM-3",
        "Everything at its default: the tokens that are mixed are the normalized ones.",
        TOKENS,
    ),
    patch_merger(
        "pm-1-far-from-zero",
        "PM-1",
        "Tokens around 200 with deviations of 1: the mean of squares minus the square of the mean would cancel.",
        200 + mixed((1, 6, 3), 2) % 4,
    ),
    patch_merger(
        "pm-1-constant-token",
        "PM-1",
        "Token 1 has variance 0: with eps it becomes the bias.",
        floats([[[1, 2, 3, 5], [3, 3, 3, 3], [-2, 0, 4, -1]]]),
    ),
    patch_merger(
        "pm-1-constant-token-without-eps",
        "PM-1",
        "With eps = 0 token 1 is 0/0, which counts as 0: it becomes the bias.",
        floats([[[1, 2, 3, 5], [3, 3, 3, 3], [-2, 0, 4, -1]]]),
        eps=0.0,
    ),
    patch_merger("pm-1-eps", "PM-1", "A large eps, inside the root.", TOKENS[:1] / 16, eps=0.25),
    patch_merger("pm-1-no-bias", "PM-1", "No bias; then there is no such parameter.", TOKENS[:1], use_bias=False),
    patch_merger("pm-1-bare", "PM-1 PM-3", "Without the LayerNorm x itself is mixed.", TOKENS[:1], normalize=False),
    patch_merger("pm-2-logit-scale", "PM-2", "logit_scale = 1, the paper's formula.", TOKENS[:1], logit_scale=1.0),
    patch_merger(
        "pm-2-large-logits",
        "PM-2",
        "Logits around 256 and 384: the largest is subtracted before the exponential.",
        floats([[[0, 0, 64, 0], [0, 0, 64, 0.125], [0.25, 0, 64, -0.125], [0, 0.5, 64, 0.25]]]),
        normalize=False,
        logit_scale=16.0,
    ),
    patch_merger(
        "pm-4-masked",
        "PM-4",
        "Masked tokens have weight 0, even with NaN or infinity in them.",
        PADDED,
        mask=booleans("11100", "11011"),
    ),
    patch_merger(
        "pm-4-nothing-real",
        "PM-4 CALL-5",
        "Nothing is real in sample 1: weights, tokens and sizes are 0, not NaN.",
        TOKENS,
        mask=booleans("11111", "00000"),
    ),
    Vector(
        "pm-5-initial",
        ("PM-5",),
        "The first values of the parameters for seed 0: load them, drawing them again takes NumPy's generator.",
        "patch_merger_initial",
        {"dim": 4, "num_tokens_out": 3, "seed": 0},
        {},
    ),
    patch_merger(
        "pm-sizes",
        "PLAN-2 PLAN-3 PM-3",
        "Sizes do not influence the weights; they go where the share sends them.",
        TOKENS,
        size=floats([[1, 2, 3, 4, 5], [0, 0, 1, 1, 6]]),
    ),
    patch_merger(
        "call-4-patch-merger",
        "CALL-4",
        "NaN in sample 1 changes nothing in sample 0; the result of sample 1 is not specified.",
        SICK,
        samples=(0,),
    ),
    patch_merger("call-5-patch-merger-no-tokens", "CALL-5", "N = 0: M tokens of zeros.", TOKENS[:, :0]),
    patch_merger("call-5-patch-merger-no-samples", "CALL-5", "B = 0: empty in, empty out.", TOKENS[:0]),
]
