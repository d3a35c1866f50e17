"""PatchMerger, broken: the normalization, the weights, and the first queries."""

from __future__ import annotations

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.mutant import Mutant


def _mutant(name: str, rule: str, what: str, *changes: tuple[str, str], file: str = "patch_merger") -> Mutant:
    edits = tuple(Edit(file, old, new) for old, new in changes)
    return Mutant(f"patch_merger-{name}", rule, what, edits, mergers=("patch_merger",))


_VARIANCE = "variance = np.square(deviation).mean(axis=-1, keepdims=True) + x.dtype.type(eps)"
_FACTOR = "c**-0.5 if logit_scale is None else logit_scale"

MUTANTS = (
    _mutant(
        "epsilon-outside-root",
        "PM-1",
        "The LayerNorm adds epsilon to the standard deviation.",
        (_VARIANCE, _VARIANCE.replace(" + x.dtype.type(eps)", "")),
        ("np.sqrt(np.where(variance == 0, 1, variance))", "np.sqrt(variance) + x.dtype.type(eps)"),
    ),
    _mutant(
        "fast-variance",
        "PM-1",
        "The LayerNorm takes mean(x^2) - mean(x)^2 for the variance.",
        (
            _VARIANCE,
            "squared = np.square(x).mean(axis=-1, keepdims=True)\n"
            "    variance = np.maximum(squared - np.square(x.mean(axis=-1, keepdims=True)), 0) + x.dtype.type(eps)",
        ),
    ),
    _mutant(
        "unbiased-variance",
        "PM-1",
        "The LayerNorm divides the squared deviations by C - 1.",
        (
            _VARIANCE,
            _VARIANCE.replace(
                "deviation).mean(axis=-1, keepdims=True)", "deviation).sum(-1, keepdims=True) / (x.shape[-1] - 1)"
            ),
        ),
    ),
    _mutant(
        "no-logit-scale",
        "PM-2",
        "Without `logit_scale` the logits are not scaled.",
        (_FACTOR, "1 if logit_scale is None else logit_scale"),
    ),
    _mutant(
        "given-scale-ignored",
        "PM-2",
        "A `logit_scale` that is given is not used.",
        (_FACTOR, "c**-0.5"),
    ),
    _mutant(
        "softmax-over-queries",
        "PM-2",
        "The softmax runs over the queries and not over the tokens.",
        ("DensePlan(softmax(logits))", "DensePlan(np.swapaxes(softmax(np.swapaxes(logits, 1, 2)), 1, 2))"),
    ),
    _mutant(
        "merged-not-normalized",
        "PM-3",
        "The weights come from the normalized tokens, but are applied to the tokens as they were.",
        ("made.merge(normalized)", "made.merge(x if mask is None else np.where(mask[:, :, None], x, 0))"),
    ),
    _mutant(
        "padding-weighted",
        "PM-4",
        "Masked tokens are set to zero, but still get weight.",
        ("    if mask is not None:\n        logits = np.where(mask[:, None, :], logits, work(-np.inf))\n", ""),
    ),
    _mutant(
        "nothing-real-nan",
        "PM-4",
        "Where no token is real the weights are NaN.",
        ("np.where(np.isneginf(largest), 0, largest)", "largest"),
        file="precision",
    ),
    _mutant(
        "queries-scaled",
        "PM-5",
        "The queries start with a standard deviation of C**-0.5.",
        ("initial_queries(num_tokens_out, dim, seed)", "initial_queries(num_tokens_out, dim, seed) * dim**-0.5"),
    ),
)
