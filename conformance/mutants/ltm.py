"""LTM, broken: the first mask, the step away from it, and what is left alone."""

from __future__ import annotations

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.mutant import Mutant


def _mutant(name: str, rule: str, what: str, *changes: tuple[str, str]) -> Mutant:
    edits = tuple(Edit("ltm", old, new) for old, new in changes)
    return Mutant(f"ltm-{name}", rule, what, edits, mergers=("ltm",))


_IMPORT = "from tokenmerge.spec.shared.schedule import ltm_tokens_out, ltm_tokens_out_upto\n"
_TOKENS_OUT = """

def ltm_tokens_out(num_tokens: int, compression_ratio: float) -> int:
    return int({formula})


def ltm_tokens_out_upto(num_tokens: int, compression_ratio: float) -> list[int]:
    return [ltm_tokens_out(n, compression_ratio) for n in range(num_tokens + 1)]
"""
_STEP = "targets @ np.swapaxes(tokens * weight.astype(work), 1, 2) / np.sqrt(work(c))"
_COPIED = "copied = (rank[:, None, :] == np.arange(protected)[:, None]).astype(work)"
_WEIGHTS = "weights = np.concatenate([np.broadcast_to(copied, (b, protected, n)), softmax(logits)], axis=1)"

MUTANTS = (
    _mutant(
        "floor",
        "LTM-1",
        "The number of merged tokens is rounded down.",
        (_IMPORT, _TOKENS_OUT.format(formula="num_tokens * compression_ratio")),
    ),
    _mutant(
        "binary-ratio",
        "LTM-1",
        "The ratio is read as the binary number nearest to it, so that 0.28 of 25 tokens are 8.",
        (_IMPORT, _TOKENS_OUT.format(formula="np.ceil(num_tokens * compression_ratio)")),
    ),
    _mutant(
        "not-smoothed",
        "LTM-2",
        "The first mask is average pooling, not smoothed.",
        ("    row = np.arange(width)\n", "    row, smoothing = np.arange(width), 0.0\n"),
    ),
    _mutant(
        "pooled-by-floor",
        "LTM-2",
        "The windows of the pooling end at floor((p + 1) n / P').",
        (
            "stop = -(-(row + 1) * count // np.maximum(columns, 1))",
            "stop = (row + 1) * count // np.maximum(columns, 1)",
        ),
    ),
    _mutant(
        "prior-ignored",
        "LTM-3",
        "A mask that is given is not used: masks do not chain from layer to layer.",
        ("    if prior is None:\n", "    if prior is prior:\n"),
    ),
    _mutant(
        "given-prior-smoothed",
        "LTM-3",
        "A mask that is given is smoothed like the first one, so that its zeros get weight.",
        (
            "        g0 = np.where(_in_use(place, count, columns, width), g0, 0)\n",
            "        g0 = (1 - prior_smoothing) * g0 + prior_smoothing / np.maximum(count, 1)[:, :, None]\n"
            "        g0 = np.where(_in_use(place, count, columns, width), g0, 0)\n",
        ),
    ),
    _mutant(
        "softmax-over-columns",
        "LTM-4",
        "The softmax runs over the merged tokens and not over the tokens.",
        ("softmax(logits)]", "np.swapaxes(softmax(np.swapaxes(logits, 1, 2)), 1, 2)]"),
    ),
    _mutant(
        "step-not-scaled",
        "LTM-4",
        "The step is not divided by the root of the number of channels.",
        (_STEP, _STEP.replace(" / np.sqrt(work(c))", "")),
    ),
    _mutant(
        "weight-not-used",
        "LTM-4",
        "The learned weight is left out of the step.",
        (_STEP, _STEP.replace("tokens * weight.astype(work)", "tokens")),
    ),
    _mutant(
        "protected-replaced",
        "LTM-5",
        "All protected slots hold the class token.",
        (_COPIED, _COPIED.replace("np.arange(protected)", "np.zeros(protected)")),
    ),
    _mutant(
        "protected-merged",
        "LTM-5",
        "Protected tokens are not copied: their slots hold the mean of all tokens.",
        (_COPIED, "copied = np.broadcast_to(real[:, None, :], (len(real), protected, n)) / work(n)"),
    ),
    _mutant(
        "protected-behind",
        "LTM-5",
        "Protected tokens come behind the merged ones.",
        (_WEIGHTS, f"{_WEIGHTS}\n    weights = np.roll(weights, -protected, axis=1)"),
    ),
    _mutant(
        "padding-counts",
        "LTM-6",
        "The windows of the pooling are laid over the padding, too.",
        (
            "count = np.maximum(real.sum(axis=1, keepdims=True) - protected, 0)",
            "count = np.full((len(real), 1), n - protected)",
        ),
    ),
    _mutant(
        "grid-columns-first",
        "LTM-8",
        "The tokens of a grid are numbered column by column.",
        (
            "np.kron(_windows(rows, fewer_rows), _windows(columns, fewer_columns))",
            "np.kron(_windows(columns, fewer_columns), _windows(rows, fewer_rows))",
        ),
    ),
    _mutant(
        "grid-not-smoothed",
        "LTM-8",
        "The prior over a grid is not smoothed.",
        ("return (1 - smoothing) * pool + smoothing / len(pool)", "return pool"),
    ),
    _mutant(
        "grid-binary-root",
        "LTM-9",
        "The root of the ratio is the binary number nearest to it, so that 0.64 of 5 rows are 5.",
        (
            "import Grid, check_grid_prior, grid_tokens_out\n",
            "import Grid, check_grid_prior\n\n\ndef grid_tokens_out(grid: Grid, compression_ratio: float) -> Grid:\n"
            "    from fractions import Fraction\n"
            "    root = Fraction(float(compression_ratio) ** 0.5)\n"
            "    return tuple(-(-root.numerator * side // root.denominator) for side in grid)\n\n\n",
        ),
    ),
    _mutant(
        "starts-at-one",
        "LTM-7",
        "The weight starts at one.",
        ("self.weight = np.zeros(dim, np.float32)", "self.weight = np.ones(dim, np.float32)"),
    ),
)
