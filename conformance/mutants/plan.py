"""Plans, broken: the laws of the matrix."""

from __future__ import annotations

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.mutant import Mutant


def _mutant(
    name: str, rule: str, what: str, mergers: str, *changes: tuple[str, str], file: str = "plan", dtype: str = "float32"
) -> Mutant:
    edits = tuple(Edit(file, old, new) for old, new in changes)
    return Mutant(f"plan-{name}", rule, what, edits, mergers=tuple(mergers.split()), dtype=dtype)


_DENSE_SHARE = "safe_divide(self.weights, self.weights.sum(axis=1, keepdims=True))"
_DENSE_SIZE = "return product(np.swapaxes(self.share(), 1, 2), size[:, :, None])[:, :, 0].astype(size.dtype)"
_MERGED = "return Merged(made.merge(x, size), made.merge_size(size), made.mask, made)"
_GROUP_WEIGHTS = "weights = self._weights(size)[:, :, None]\n        # a token alone"
_GROUP_MEAN = "merged = self._sum_groups(weights * x).astype(x.dtype)"
_COMPOSED = "return DensePlan(second.matrix(first.merge_size(size)) @ first.matrix(size), second.mask)"

MUTANTS = (
    _mutant(
        "plain-mean",
        "PLAN-1",
        "A group becomes the plain mean of its tokens, not the one weighted by size.",
        "tome",
        (_GROUP_WEIGHTS, _GROUP_WEIGHTS.replace("(size)", "(np.ones_like(size))")),
    ),
    _mutant(
        "multiplied-then-divided",
        "PLAN-1",
        "A token alone in its slot is multiplied by its size and divided by it again.",
        "tome",
        (
            _GROUP_WEIGHTS,
            "total = _gather_or_zero(self._sum_groups(size[:, :, None]), self.assignment)\n"
            "        size = np.where(total == 0, 1, size[:, :, None])\n"
            "        return safe_divide(self._sum_groups(size * x), self._sum_groups(size)).astype(x.dtype)\n"
            "        # a token alone",
        ),
    ),
    _mutant(
        "share-over-tokens",
        "PLAN-2",
        "The share is normalized over the tokens and not over the slots.",
        "patch_merger",
        (_DENSE_SHARE, _DENSE_SHARE.replace("axis=1", "axis=2")),
    ),
    _mutant(
        "share-not-normalized",
        "PLAN-2",
        "The share of a token is the matrix transposed.",
        "ltm",
        (_DENSE_SHARE, "self.weights"),
    ),
    _mutant(
        "size-by-matrix",
        "PLAN-3",
        "Sizes are merged as tokens are, by the matrix and not by the share.",
        "ltm",
        (_DENSE_SIZE, _DENSE_SIZE.replace("np.swapaxes(self.share(), 1, 2)", "self.weights")),
    ),
    _mutant(
        "size-not-propagated",
        "PLAN-3",
        "Sizes count the tokens of this layer and forget those of the layers before.",
        "tome",
        (_MERGED, _MERGED.replace("merge_size(size)", "merge_size(np.ones_like(size))")),
        file="tome",
    ),
    _mutant(
        "size-in-half",
        "PLAN-3",
        "Sizes come back in the dtype of the tokens.",
        "tome",
        (_MERGED, _MERGED.replace("merge_size(size)", "merge_size(size).astype(x.dtype)")),
        file="tome",
        dtype="float16",
    ),
    _mutant(
        "size-counted-in-half",
        "PLAN-3",
        "Sizes come back in float32, but are counted in the dtype of the tokens.",
        "tome",
        (_MERGED, _MERGED.replace("merge_size(size)", "merge_size(size.astype(x.dtype))")),
        file="tome",
        dtype="float16",
    ),
    _mutant(
        "unmerge-halves",
        "PLAN-4",
        "Unmerging puts the even tokens in front and the odd ones behind, not at their positions.",
        "tome",
        (
            "_gather_or_zero(y, self.assignment)\n\n    def _weights",
            "_gather_or_zero(y, np.concatenate([self.assignment[:, 0::2], self.assignment[:, 1::2]], axis=1))\n\n"
            "    def _weights",
        ),
    ),
    _mutant(
        "dropped-comes-back",
        "PLAN-4",
        "A dropped token comes back as a copy of the class token.",
        "ats",
        ("_gather_or_zero(y, _assignment(self))", "_gather_or_zero(y, np.maximum(_assignment(self), 0))"),
    ),
    _mutant(
        "composed-backwards",
        "PLAN-5",
        "Plans are composed in the wrong order.",
        "tome",
        (
            "check_composable(first.num_tokens_out, second.num_tokens_in)",
            "check_composable(first.num_tokens_out, second.num_tokens_in)\n    first, second = second, first",
        ),
    ),
    _mutant(
        "composed-without-sizes",
        "PLAN-5",
        "Composing takes all sizes for one.",
        "tome ltm",
        (_COMPOSED, "return DensePlan(second.matrix() @ first.matrix(), second.mask)"),
    ),
    _mutant(
        "composed-brings-back",
        "PLAN-5",
        "A token that the first plan drops goes where its first slot goes.",
        "tome",
        ("dropped = np.full((len(step_two), 1), -1, step_two.dtype)", "dropped = step_two[:, :1]"),
    ),
    _mutant(
        "weights-without-sizes",
        "PLAN-6",
        "The matrix of a partition weighs all members of a group alike, its mean does not.",
        "tome",
        (
            "return self._weights(size)[:, None, :] * self._member()",
            "return self._weights(np.ones_like(size))[:, None, :] * self._member()",
        ),
    ),
    _mutant(
        "empty-group-vanishes",
        "PLAN-6",
        "A group whose sizes are all zero becomes zero.",
        "tome",
        ("        total = np.where(total == 0, count, total)\n", ""),
    ),
    _mutant(
        "padded-row",
        "PLAN-7",
        "A padded slot's row of the matrix points at the class token.",
        "ats",
        ("        if self.mask is not None:\n            one_hot &= self.mask[:, :, None]\n", ""),
    ),
    _mutant(
        "tokens-promoted",
        "PLAN-8",
        "Half-precision tokens come back in float32.",
        "tome",
        (_GROUP_MEAN, _GROUP_MEAN.replace(".astype(x.dtype)", "")),
        dtype="float16",
    ),
    _mutant(
        "unmerged-promoted",
        "PLAN-8",
        "Half-precision tokens are unmerged to float32.",
        "ltm",
        (
            "product(self.share(), y.astype(working_dtype(y), copy=False)).astype(y.dtype)",
            "product(self.share(), y.astype(working_dtype(y)))",
        ),
        dtype="float16",
    ),
    _mutant(
        "result-without-mask",
        "PLAN-9",
        "A result has no mask, although its plan has one.",
        "tome",
        (_MERGED, _MERGED.replace("made.mask", "None")),
        file="tome",
    ),
    _mutant(
        "mask-of-the-input",
        "PLAN-9",
        "PatchMerger gives its result a mask of slots that are all real.",
        "patch_merger",
        ("made.merge_size(size), None, made)", "made.merge_size(size), np.ones(made.weights.shape[:2], bool), made)"),
        file="patch_merger",
    ),
    _mutant(
        "not-frozen",
        "PLAN-10",
        "The fields of a partition can be set.",
        "tome",
        ("@dataclass(frozen=True, eq=False)\nclass PartitionPlan", "@dataclass(eq=False)\nclass PartitionPlan"),
    ),
    _mutant(
        "zero-times-nan",
        "PLAN-11",
        "A dense plan merges by a matrix product, in which 0 times NaN is NaN.",
        "ltm",
        (
            "product(self.weights, x.astype(working_dtype(x), copy=False))",
            "(self.weights @ x.astype(working_dtype(x)))",
        ),
    ),
    _mutant(
        "zero-times-nan-back",
        "PLAN-11",
        "A dense plan unmerges by a matrix product, in which 0 times NaN is NaN.",
        "ltm",
        (
            "product(self.share(), y.astype(working_dtype(y), copy=False))",
            "(self.share() @ y.astype(working_dtype(y)))",
        ),
    ),
    _mutant(
        "zero-times-nan-counted",
        "PLAN-11",
        "A dense plan counts by a matrix product: a size of infinity without weight makes all sizes NaN.",
        "ltm",
        (_DENSE_SIZE, _DENSE_SIZE.replace("product(", "np.matmul(")),
    ),
    _mutant(
        "size-zero-times-nan",
        "PLAN-11",
        "A member of size 0 that holds NaN makes its group NaN.",
        "tome",
        ("if np.isfinite(merged).all():", "if True:"),
    ),
    _mutant(
        "similarity-in-half",
        "PLAN-8",
        "Half-precision vectors are compared in half precision.",
        "tome",
        ("m = metric.astype(working_dtype(metric))", "m = metric.copy()"),
        file="tome",
        dtype="float16",
    ),
    _mutant(
        "softmax-in-half",
        "PLAN-8",
        "The mask of half-precision tokens is computed in half precision.",
        "ltm",
        ("work = working_dtype(z).type", "work = z.dtype.type"),
        file="ltm",
        dtype="float16",
    ),
    _mutant(
        "softmax-in-single",
        "PLAN-8",
        "The mask of double-precision tokens is computed in float32.",
        "ltm",
        ("work = working_dtype(z).type", "work = np.float32"),
        file="ltm",
        dtype="float64",
    ),
)
