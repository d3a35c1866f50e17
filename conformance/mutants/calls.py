"""Calls, broken: arguments, memory, batches, and parameters."""

from __future__ import annotations

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.mutant import Mutant


def _mutant(name: str, rule: str, what: str, merger: str, file: str, *changes: tuple[str, str]) -> Mutant:
    edits = tuple(Edit(file, old, new) for old, new in changes)
    return Mutant(f"calls-{name}", rule, what, edits, mergers=(merger,))


_PLANNED = "made = self.plan(x if metric is None else metric, mask=mask, permutation=permutation)"
_LARGEST = "largest = np.abs(m).max(axis=-1, keepdims=True, initial=0)"
_CHECK_PARAMS = (
    "        arguments.check_params(self.NAME, params, {name: value.shape for name, value in own.items()})\n"
)

MUTANTS = (
    _mutant(
        "other-sentence",
        "CALL-1",
        "A negative `r` is refused with words of its own.",
        "tome",
        "tome",
        (
            "        arguments.check_tome(r, protected, order, matching, k)\n        self.r,",
            '        if isinstance(r, int) and r < 0:\n            raise ValueError("r must not be negative")\n'
            "        arguments.check_tome(r, protected, order, matching, k)\n        self.r,",
        ),
    ),
    _mutant(
        "other-exception",
        "CALL-1",
        "A bad option is refused with AssertionError.",
        "ats",
        "ats",
        (
            "        arguments.check_ats(max_tokens, score, sampling)\n        self.max_tokens,",
            "        assert sampling in ('inverse_transform', 'gumbel', 'released')\n"
            "        arguments.check_ats(max_tokens, score, sampling)\n        self.max_tokens,",
        ),
    ),
    _mutant(
        "mask-not-checked",
        "CALL-1",
        "A mask of numbers is taken for one of truth values.",
        "patch_merger",
        "patch_merger",
        (
            "    _, c = check.patch_merger(x, queries, scale, bias, mask)\n",
            "    mask = None if mask is None or mask.shape != x.shape[:2] else mask.astype(bool)\n"
            "    _, c = check.patch_merger(x, queries, scale, bias, mask)\n",
        ),
    ),
    _mutant(
        "input-normalized-in-place",
        "CALL-2",
        "The LayerNorm is computed in the memory of the tokens.",
        "patch_merger",
        "patch_merger",
        (
            "deviation = x - x.mean(axis=-1, keepdims=True)",
            "deviation = np.subtract(x, x.mean(axis=-1, keepdims=True), out=x)",
        ),
    ),
    _mutant(
        "sizes-updated-in-place",
        "CALL-2",
        "Sizes of zero are set to one in the caller's array.",
        "tome",
        "tome",
        (_PLANNED, f"{_PLANNED}\n        if size is not None:\n            size[size == 0] = 1"),
    ),
    _mutant(
        "plan-kept",
        "CALL-3",
        "A merger keeps its plan for the next call with tokens of the same shape.",
        "tome",
        "tome",
        (
            _PLANNED,
            "kept: Any = getattr(self, 'kept', None)\n"
            "        same = kept is not None and kept.assignment.shape == x.shape[:2]\n"
            f"        {_PLANNED.replace('made =', 'made = kept if same else')}\n        self.kept = made",
        ),
    ),
    _mutant(
        "hidden-noise",
        "CALL-3",
        "Ties between pairs are broken by random numbers of its own.",
        "tome",
        "tome",
        ("Array = np.ndarray[Any, Any]\n", "Array = np.ndarray[Any, Any]\nNOISE = np.random.default_rng(0)\n"),
        (
            "    best[~mergeable_a] = -np.inf\n",
            "    best += NOISE.uniform(0, 0.5, best.shape).astype(m.dtype)\n    best[~mergeable_a] = -np.inf\n",
        ),
    ),
    _mutant(
        "weights-updated",
        "CALL-3",
        "Every call moves the queries a little, as if it were training.",
        "patch_merger",
        "patch_merger",
        (
            "        made, normalized = self._run(x, mask)\n",
            "        made, normalized = self._run(x, mask)\n        self.queries = self.queries * np.float32(0.99)\n",
        ),
    ),
    _mutant(
        "scaled-by-batch",
        "CALL-4",
        "Vectors are divided by the largest entry of the whole batch.",
        "tome",
        "tome",
        (_LARGEST, "largest = np.broadcast_to(np.abs(m).max(initial=0), (*m.shape[:2], 1))"),
    ),
    _mutant(
        "nan-leaks",
        "CALL-4",
        "All samples are merged by one product with a matrix that is zero between them.",
        "ltm",
        "plan",
        (
            "product(self.weights, x.astype(working_dtype(x), copy=False)).astype(x.dtype)",
            'np.einsum("apn,ab,bnc->apc", self.weights, np.eye(len(x)), x.astype(working_dtype(x))).astype(x.dtype)',
        ),
    ),
    _mutant(
        "crash-without-tokens",
        "CALL-5",
        "The softmax needs at least one token.",
        "patch_merger",
        "precision",
        ("logits.max(axis=-1, keepdims=True, initial=-np.inf)", "logits.max(axis=-1, keepdims=True)"),
    ),
    _mutant(
        "crash-with-one-token",
        "CALL-5",
        "Matching needs at least one token at an odd position.",
        "tome",
        "tome",
        (
            "    if tokens_removed(n, r, protected) == 0:\n",
            "    m[:, 1]\n    if tokens_removed(n, r, protected) == 0:\n",
        ),
    ),
    _mutant(
        "unknown-parameters-ignored",
        "CALL-8",
        "Parameters that a merger does not have are ignored when they are loaded.",
        "ltm",
        "merger",
        (
            _CHECK_PARAMS,
            "        if isinstance(params, Mapping):\n"
            "            params = {name: value for name, value in params.items() if name in own}\n" + _CHECK_PARAMS,
        ),
    ),
    _mutant(
        "half-loaded",
        "CALL-8",
        "Parameters that fit are loaded before the others are refused.",
        "patch_merger",
        "merger",
        (
            _CHECK_PARAMS,
            "        for name, value in own.items():\n"
            "            if name in params and params[name].shape == value.shape:\n"
            "                setattr(self, name, params[name])\n" + _CHECK_PARAMS,
        ),
    ),
    _mutant(
        "other-names",
        "CALL-8",
        "Parameters have names that other backends do not know.",
        "ltm",
        "merger",
        (
            "        return {name: value.copy() for name, value in values.items() if value is not None}",
            '        return {f"ltm.{name}": value.copy() for name, value in values.items() if value is not None}',
        ),
    ),
    _mutant(
        "memory-order",
        "CALL-9",
        "Tokens are read in the order in which they lie in memory.",
        "ltm",
        "plan",
        (
            "product(self.weights, x.astype(working_dtype(x), copy=False)).astype(x.dtype)",
            'self.weights.astype(x.dtype) @ x.ravel(order="K").reshape(x.shape)',
        ),
    ),
    _mutant(
        "pickled-without-mask",
        "CALL-10",
        "A partition that was pickled has forgotten its mask and its empty slots.",
        "tome",
        "plan",
        (
            "    def _member(self) -> Array:\n",
            "    def __reduce__(self) -> Any:\n        return PartitionPlan, (self.assignment,)\n\n"
            "    def _member(self) -> Array:\n",
        ),
    ),
    _mutant(
        "parameters-are-views",
        "CALL-11",
        "params() gives the arrays of the merger itself.",
        "patch_merger",
        "merger",
        ("name: value.copy() for name", "name: value for name"),
    ),
    _mutant(
        "parameters-of-the-caller",
        "CALL-11",
        "load_params keeps the arrays that it was given.",
        "ltm",
        "merger",
        (
            "arguments.parameter(self.NAME, name, params[name], value.dtype)",
            "np.asarray(params[name], dtype=value.dtype)",
        ),
    ),
    _mutant(
        "options-in-another-order",
        "CALL-12",
        "`order` stands in front of `protected`.",
        "tome",
        "tome",
        (
            '        protected: int = 0,\n        order: str = "grouped",\n',
            '        order: str = "grouped",\n        protected: int = 0,\n',
        ),
    ),
    _mutant(
        "another-default",
        "CALL-12",
        "The pooling of a merger is smoothed by 0.2 unless told.",
        "ltm",
        "ltm",
        (
            "protected: int = 0, prior_smoothing: float = 0.1) -> None",
            "protected: int = 0, prior_smoothing: float = 0.2) -> None",
        ),
    ),
)
