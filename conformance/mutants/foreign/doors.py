"""Foreign bugs of doors: one way to ask is right, another that must give the same answer is not."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tokenmerge.conformance.mutants.foreign.bug import bug
from tokenmerge.conformance.mutants.mutant import Mutant, variant

_WEIGHED = "        weights = self._weights(size)[:, :, None]\n"
_COUNTED = "return self._sum_groups(self._sizes(size, np.float32)[:, :, None])[:, :, 0]"
_MERGED = "return Merged(made.merge(x, size), made.merge_size(size), made.mask, made)"
_MATRIX = "        size = self._sizes(size, np.float64 if size is None else np.float32)\n"
_COMPOSED = "return DensePlan(second.matrix(first.merge_size(size)) @ first.matrix(size), second.mask)"


def _forgets_the_first_of_three(module: ModuleType) -> ModuleType:
    latest: dict[int, tuple[Any, Any]] = {}

    def compose(first: Any, second: Any, size: Any = None) -> Any:
        kept = latest.get(id(first))
        if kept is not None and kept[0] is first:
            first, size = kept[1], None
        made = module.compose(first, second, size=size)
        latest[id(made)] = (made, second)
        return made

    return variant(module, compose=compose)


def _composes_what_does_not_fit(module: ModuleType) -> ModuleType:
    def compose(first: Any, second: Any, size: Any = None) -> Any:
        if first.num_tokens_out != second.num_tokens_in:
            return second
        return module.compose(first, second, size=size)

    return variant(module, compose=compose)


MUTANTS = (
    bug(
        "plan-counts-tokens",
        "PLAN-3",
        "plan.merge_size(size) counts tokens and forgets the sizes; the merger's own call does not.",
        "tome",
        (
            "plan",
            _COUNTED,
            f"return self.sizes(None)\n\n    def sizes(self, size: Array | None) -> Array:\n        {_COUNTED}",
        ),
        ("tome", _MERGED, _MERGED.replace("merge_size", "sizes")),
    ),
    bug(
        "plan-merges-plainly",
        "PLAN-1",
        "plan.merge(x, size) ignores the sizes; the merger's own call does not.",
        "tome",
        (
            "plan",
            f"        size = self._check_merge(x, size)\n{_WEIGHED}",
            "        return self.fused(x, None)\n\n    def fused(self, x: Array, size: Array | None) -> Array:\n"
            f"        size = self._check_merge(x, size)\n{_WEIGHED}",
        ),
        ("tome", _MERGED, _MERGED.replace("made.merge(", "made.fused(")),
    ),
    bug(
        "fractions-cut-off",
        "PLAN-3",
        "merge and merge_size cut the fractions of sizes off; matrix(size) does not.",
        "tome",
        ("plan", _WEIGHED, _WEIGHED.replace("(size)", "(np.trunc(size))")),
        (
            "plan",
            _COUNTED,
            _COUNTED.replace("self._sizes(size, np.float32)", "np.trunc(self._sizes(size, np.float32))"),
        ),
    ),
    bug(
        "half-sizes-stay-half",
        "PLAN-3",
        "Sizes given in float16 come back in float16.",
        "tome",
        (
            "plan",
            _COUNTED,
            f"merged = {_COUNTED[7:]}\n        return merged if size is None else merged.astype(size.dtype)",
        ),
    ),
    bug(
        "matrix-of-ones",
        "PLAN-6",
        "Without sizes the matrix of a partition has ones in it, not shares.",
        "tome",
        ("plan", _MATRIX, f"        if size is None:\n            return self._member().astype(np.float64)\n{_MATRIX}"),
    ),
    bug(
        "unmerged-in-single",
        "PLAN-8",
        "Half-precision tokens are unmerged to float32.",
        "tome",
        (
            "plan",
            "return _gather_or_zero(y, self.assignment)",
            "return _gather_or_zero(y.astype(working_dtype(y)), self.assignment)",
        ),
        dtype="float16",
    ),
    bug(
        "dense-unmerged-in-single",
        "PLAN-8",
        "Half-precision tokens of a dense plan are unmerged to float32.",
        "patch_merger",
        (
            "plan",
            "product(self.share(), y.astype(working_dtype(y), copy=False)).astype(y.dtype)",
            "product(self.share(), y.astype(working_dtype(y)))",
        ),
        dtype="float16",
    ),
    bug(
        "selection-counts-padding",
        "PLAN-3",
        "Without sizes plan.merge_size() of a selection counts its padded slots.",
        "ats",
        (
            "plan",
            "        return self._take(self._sizes(size, np.float32)[:, :, None])[:, :, 0]",
            "        if size is None:\n            return np.ones(self.indices.shape, np.float32)\n"
            "        return self._take(self._sizes(size, np.float32)[:, :, None])[:, :, 0]",
        ),
    ),
    bug(
        "dense-counts-tokens",
        "PLAN-3",
        "plan.merge_size(size) of a dense plan takes all sizes for one.",
        "ltm",
        (
            "plan",
            "        return product(np.swapaxes(self.share(), 1, 2), size[:, :, None])[:, :, 0].astype(size.dtype)",
            "        return self.sizes(np.ones_like(size))\n\n    def sizes(self, size: Array) -> Array:\n"
            "        return product(np.swapaxes(self.share(), 1, 2), size[:, :, None])[:, :, 0].astype(size.dtype)",
        ),
        ("ltm", _MERGED, _MERGED.replace("merge_size", "sizes")),
    ),
    bug(
        "merged-mask-all-real",
        "PLAN-9",
        "Merged.mask is True everywhere: padded slots look real to the next layer.",
        "tome",
        (
            "tome",
            _MERGED,
            _MERGED.replace("made.mask, made", "None if made.mask is None else np.ones_like(made.mask), made"),
        ),
    ),
    bug(
        "selected-mask-all-real",
        "PLAN-9",
        "Merged.mask of a selection is True everywhere.",
        "ats",
        ("ats", _MERGED, _MERGED.replace("made.mask, made", "np.ones_like(made.indices, bool), made")),
    ),
    bug(
        "plan-without-mask",
        "TOME-12",
        "merger.plan(...) ignores the mask; the merger's own call does not.",
        "tome",
        (
            "tome",
            "            mask=mask,\n            permutation=permutation,\n        )\n\n    def __call__",
            "            mask=None,\n            permutation=permutation,\n        )\n\n    def __call__",
        ),
        (
            "tome",
            "made = self.plan(x if metric is None else metric, mask=mask, permutation=permutation)",
            "options = {'r': self.r, 'protected': self.protected, 'order': self.order, 'matching': self.matching}\n"
            "        given = {'k': self.k, 'mask': mask, 'permutation': permutation}\n"
            "        made = plan(x if metric is None else metric, **given, **options)",
        ),
    ),
    bug(
        "planned-padding",
        "PM-4",
        "merger.plan(x, mask=mask) gives padding weight; the merger's own call does not.",
        "patch_merger",
        ("patch_merger", "        return self._run(x, mask)[0]", "        return self._run(x, None)[0]"),
    ),
    bug(
        "call-without-metric",
        "TOME-2",
        "Without a metric the similarity of tokens is that of their first half.",
        "tome",
        (
            "tome",
            "x if metric is None else metric, mask",
            "x[:, :, : (x.shape[2] + 1) // 2] if metric is None else metric, mask",
        ),
    ),
    Mutant(
        "foreign-three-composed",
        "PLAN-5",
        "Composing a plan that was composed before forgets the first of the three layers.",
        _forgets_the_first_of_three,
        ("tome",),
    ),
    Mutant(
        "foreign-composed-unfitting",
        "CALL-1",
        "Plans that do not fit are composed to the second of them.",
        _composes_what_does_not_fit,
        ("tome",),
    ),
    bug(
        "composed-mask-of-the-second",
        "PLAN-5",
        "Two selections are composed without the mask of the first.",
        "ats",
        ("plan", "np.take_along_axis(_real(first), second.indices, axis=1) & _real(second)", "_real(second)"),
    ),
    bug(
        "composed-without-mask",
        "PLAN-5",
        "A composed partition has no mask.",
        "tome",
        (
            "plan",
            "return PartitionPlan(assignment, second.num_tokens_out, second.mask)",
            "return PartitionPlan(assignment, second.num_tokens_out)",
        ),
    ),
    bug(
        "dense-composed-without-mask",
        "PLAN-5",
        "A composed dense plan has no mask.",
        "ltm",
        ("plan", _COMPOSED, _COMPOSED.replace(", second.mask)", ")")),
    ),
    bug(
        "sizes-skip-a-layer",
        "PLAN-5",
        "Composing gives the second plan sizes of one.",
        "tome ltm",
        ("plan", _COMPOSED, _COMPOSED.replace("second.matrix(first.merge_size(size))", "second.matrix()")),
    ),
)
