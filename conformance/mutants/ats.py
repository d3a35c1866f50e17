"""ATS, broken: the scores, the sampling, and the slots."""

from __future__ import annotations

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.mutant import Mutant


def _mutant(name: str, rule: str, what: str, *changes: tuple[str, str]) -> Mutant:
    edits = tuple(Edit("ats", old, new) for old, new in changes)
    return Mutant(f"ats-{name}", rule, what, edits, mergers=("ats",))


_ROW = "row = (attn[:, :, 0] if attn.ndim == 4 else attn)"
_POINTS = "(np.arange(1, 2 * max_tokens, 2) / (2 * max_tokens))[None]"
_CDF = "cdf = np.cumsum(safe_divide(significance, significance.sum(axis=1, keepdims=True)), axis=1)"
_RETURN = "return SelectionPlan(indices, filled, n)"

MUTANTS = (
    _mutant(
        "concat-for-per-head",
        "ATS-1",
        'Score "per_head" is computed as "concat".',
        ('    if score == "per_head":', '    if score == "other":'),
    ),
    _mutant(
        "squared-length",
        "ATS-1",
        'Score "per_head" takes the square of a value\'s length.',
        ('np.sqrt(np.einsum("bhnd,bhnd->bhn", others, others))', 'np.einsum("bhnd,bhnd->bhn", others, others)'),
    ),
    _mutant(
        "per-head-for-concat",
        "ATS-2",
        'Score "concat" is computed as "per_head".',
        ('    if score == "per_head":', '    if score != "other":'),
    ),
    _mutant(
        "summed-lengths",
        "ATS-2",
        'Score "concat" adds the lengths of the heads\' values.',
        ('np.sqrt(np.einsum("bhnd,bhnd->bn", others, others))', "np.linalg.norm(others, axis=3).sum(axis=1)"),
    ),
    _mutant(
        "zero-scores-choose-nothing",
        "ATS-3",
        "Where all scores are zero no token is chosen.",
        ("return np.where(total == 0, real, significance)", "return significance"),
    ),
    _mutant(
        "cumulated-in-sorted-order",
        "ATS-4",
        "Scores are cumulated from the largest to the smallest.",
        (
            _CDF,
            "order = np.argsort(-significance, axis=1, kind='stable')\n"
            "    share = safe_divide(significance, significance.sum(axis=1, keepdims=True))\n"
            "    cdf = np.empty_like(share)\n"
            "    np.put_along_axis(cdf, order, np.cumsum(np.take_along_axis(share, order, axis=1), axis=1), axis=1)",
        ),
    ),
    _mutant(
        "points-at-ends",
        "ATS-4",
        "The sample points are k / K.",
        (_POINTS, "(np.arange(1, max_tokens + 1) / max_tokens)[None]"),
    ),
    _mutant(
        "given-points-ignored",
        "ATS-4",
        "Sample points that are given are not used.",
        (f"{_POINTS} if uniforms is None else uniforms", _POINTS),
    ),
    _mutant(
        "zero-scores-chosen",
        "ATS-5",
        "A token of score 0 can be chosen.",
        ("eligible = significance > 0", "eligible = np.broadcast_to(real, significance.shape)"),
    ),
    _mutant(
        "nearest-ties-high",
        "ATS-5",
        "Of equally near tokens the last is chosen.",
        ("distance.argmin(axis=2)", "distance.shape[2] - 1 - distance[:, :, ::-1].argmin(axis=2)"),
    ),
    _mutant(
        "next-instead-of-nearest",
        "ATS-5",
        "A sample point chooses the first token whose cumulated share reaches it.",
        ("np.abs(cdf[:, None, :] - points[:, :, None])", "np.abs(cdf[:, None, :] - points[:, :, None] - 1)"),
    ),
    _mutant(
        "gumbel-without-logarithm",
        "ATS-6",
        "Gumbel noise is added to the probabilities, not to their logarithms.",
        ("np.log(probability + work(GUMBEL_FLOOR))", "(probability + work(GUMBEL_FLOOR))"),
    ),
    _mutant(
        "gumbel-without-offset",
        "ATS-6",
        "Gumbel sampling leaves the 1e-6 inside the logarithm out.",
        ("np.log(probability + work(GUMBEL_FLOOR))", "np.log(probability)"),
    ),
    _mutant(
        "padding-scored",
        "ATS-7",
        "Masked tokens have scores and can be chosen.",
        ("return significance if mask is None else np.where", "return significance if mask is mask else np.where"),
        ("real = np.ones((b, others), bool) if mask is None else mask[:, 1:]", "real = np.ones((b, others), bool)"),
    ),
    _mutant(
        "padding-counts",
        "ATS-7",
        "Scores of masked tokens take part in the cumulated share.",
        ("return significance if mask is None else np.where", "return significance if mask is mask else np.where"),
        ("eligible = significance > 0", "eligible = (significance > 0) & real"),
    ),
    _mutant(
        "duplicates-kept",
        "ATS-8",
        "Slots that no token needs hold the last chosen token again.",
        (
            "    indices = np.where(filled, indices, 0)\n",
            "    last = np.maximum(filled.sum(axis=1, keepdims=True) - 1, 0)\n"
            "    again = np.take_along_axis(indices, last, axis=1) if slots else indices\n"
            "    indices, filled = np.where(filled, indices, again), np.ones_like(filled)\n",
        ),
    ),
    _mutant(
        "class-token-last",
        "ATS-8",
        "The class token comes behind the chosen ones.",
        (_RETURN, "return SelectionPlan(np.roll(indices, -1, axis=1), np.roll(filled, -1, axis=1), n)"),
    ),
    _mutant(
        "wrong-row",
        "ATS-9",
        "Scores come from the attention of the last token.",
        (_ROW, _ROW.replace("attn[:, :, 0]", "attn[:, :, -1]")),
    ),
    _mutant(
        "column-for-row",
        "ATS-9",
        "Scores come from the attention that the class token receives.",
        (_ROW, _ROW.replace("attn[:, :, 0]", "attn[:, :, :, 0]")),
    ),
    _mutant(
        "released-in-token-order",
        "ATS-10",
        'Sampling "released" cumulates the shares in the order of the tokens.',
        (
            "ranking = ascending(np.where(real, share, -1))",
            "ranking = ascending(np.where(real, 0, -1))",
        ),
    ),
    _mutant(
        "released-descending",
        "ATS-10",
        'Sampling "released" sorts the largest score first.',
        ("ranking = ascending(np.where(real, share, -1)", "ranking = ascending(np.where(real, -share, -2)"),
    ),
    _mutant(
        "released-midpoints",
        "ATS-10",
        'Sampling "released" takes the points (2k - 1) / (2K), scaled.',
        (
            "steps, whole = (np.arange(max_tokens), max_tokens - 1) if max_tokens > 1 else (np.ones(1, int), 1)",
            "steps, whole = np.arange(1, 2 * max_tokens, 2), 2 * max_tokens",
        ),
    ),
    _mutant(
        "released-from-zero",
        "ATS-10",
        'The points of sampling "released" begin at 0, where the lowest-scored token is.',
        ("first = np.where(c > 0, c, last).min(axis=1, keepdims=True)", "first = np.zeros_like(last)"),
    ),
    _mutant(
        "released-not-scaled",
        "ATS-10",
        'The running sum of sampling "released" begins with the lowest score, not with 0.',
        (
            "c = np.where(is_real, np.cumsum(ranked, axis=1) - lowest, 0)",
            "c = np.where(is_real, np.cumsum(ranked, axis=1), 0)",
        ),
    ),
    _mutant(
        "released-last-of-equals",
        "ATS-10",
        'Sampling "released" gives the higher of two equal scores\' positions the lower place.',
        (
            "    ranking = ascending(np.where(real, share, -1))\n",
            "    ranking = ascending(np.where(real, share, -1)[:, ::-1])\n    ranking = share.shape[1] - 1 - ranking\n",
        ),
    ),
)
