"""Foreign bugs of state: caches that answer with yesterday's values, and memory that is shared."""

from __future__ import annotations

from tokenmerge.conformance.mutants.foreign.bug import bug

_CHECKED = "    r, k = r or 0, k or 1  # only one of the two is used\n"
_TOME_CALL = '        check.tokens("tome", x, size, ("metric", metric, "N D"))\n'
_MERGED = "return Merged(made.merge(x, size), made.merge_size(size), made.mask, made)"
_WEIGHED = "        weights = self._weights(size)[:, :, None]\n"
_ARRAY = "Array = np.ndarray[Any, Any]\n"
_KEPT = f"{_ARRAY}KEPT: dict[Any, Any] = {{}}\n"
_COPIES = "{name: value.copy() for name, value in values.items() if value is not None}"
_RUN = "        options = (self.logit_scale, self.normalize, self.eps)\n"

MUTANTS = (
    bug(
        "result-kept-for-the-array",
        "CALL-3",
        "A result is kept for the next call with the very same array, although its values may have changed since.",
        "tome",
        (
            "tome",
            _TOME_CALL,
            f"{_TOME_CALL}        key, kept = (x, metric, size, mask, permutation), getattr(self, 'kept', None)\n"
            "        if kept is not None and all(a is b for a, b in zip(kept[0], key)):\n            return kept[1]\n",
        ),
        ("tome", _MERGED, f"self.kept = (key, {_MERGED[7:]})\n        return self.kept[1]"),
    ),
    bug(
        "permutation-kept",
        "CALL-3",
        "The permutation of the first call is kept for all of its shape.",
        "tome",
        ("tome", _ARRAY, _KEPT),
        (
            "tome",
            _CHECKED,
            f"{_CHECKED}    if permutation is not None:\n"
            "        permutation = KEPT.setdefault(permutation.shape, permutation.copy())\n",
        ),
    ),
    bug(
        "mask-kept",
        "CALL-3",
        "The mask of the first call is kept for all of its shape.",
        "tome",
        ("tome", _ARRAY, _KEPT),
        (
            "tome",
            _CHECKED,
            f"{_CHECKED}    if mask is not None:\n"
            "        mask = KEPT.setdefault((mask.shape, r, protected), mask.copy())\n",
        ),
    ),
    bug(
        "selected-mask-kept",
        "CALL-3",
        "A merger keeps the mask of its first call for all of its shape.",
        "ats",
        (
            "ats",
            '        """The plan of one attention layer, see `plan` of this module."""\n',
            "        if mask is not None:\n"
            "            kept = self.__dict__.setdefault('kept', {})\n"
            "            mask = kept.setdefault(mask.shape, mask.copy())\n",
        ),
    ),
    bug(
        "points-kept",
        "CALL-3",
        "The sample points of the first call are kept for all of their shape.",
        "ats",
        ("ats", _ARRAY, _KEPT),
        (
            "ats",
            "    b, others = value.shape[0], max(n - 1, 0)\n",
            "    b, others = value.shape[0], max(n - 1, 0)\n"
            "    uniforms = None if uniforms is None else KEPT.setdefault(uniforms.shape, uniforms.copy())\n",
        ),
    ),
    bug(
        "sizes-kept",
        "CALL-3",
        "A merger keeps the sizes of its first call for all of their shape.",
        "tome",
        (
            "tome",
            _TOME_CALL,
            f"{_TOME_CALL}        if size is not None:\n"
            "            kept = self.__dict__.setdefault('kept', {})\n"
            "            size = kept.setdefault((size.shape, size.dtype), size.copy())\n",
        ),
    ),
    bug(
        "prior-kept",
        "CALL-3",
        "A merger that was given a prior uses it from then on.",
        "ltm",
        (
            "ltm",
            "        made = self.plan(x, prior=prior, mask=mask)\n",
            "        kept = self.__dict__.setdefault('kept', {})\n"
            "        prior = kept.get(x.shape) if prior is None else kept.setdefault(x.shape, prior)\n"
            "        made = self.plan(x, prior=prior, mask=mask)\n",
        ),
    ),
    bug(
        "weights-of-the-first-sizes",
        "CALL-3",
        "A plan keeps the weights of the first sizes that it is asked to merge with.",
        "tome",
        (
            "plan",
            _WEIGHED,
            f"{_WEIGHED}        weights = self.__dict__.setdefault('kept', {{}}).setdefault(x.dtype, weights)\n",
        ),
    ),
    bug(
        "share-of-the-caller",
        "CALL-3",
        "share() of a dense plan is computed once, and what the caller does to it stays.",
        "ltm",
        (
            "plan",
            "        return np.swapaxes(safe_divide(self.weights, self.weights.sum(axis=1, keepdims=True)), 1, 2)",
            "        made = np.swapaxes(safe_divide(self.weights, self.weights.sum(axis=1, keepdims=True)), 1, 2)\n"
            "        return self.__dict__.setdefault('kept', made)",
        ),
    ),
    bug(
        "one-buffer-for-results",
        "CALL-3",
        "Merged tokens of equal shape are written to the same memory: the next call changes the last result.",
        "tome",
        ("tome", _ARRAY, _KEPT),
        (
            "tome",
            _MERGED,
            "tokens = made.merge(x, size)\n        buffer = KEPT.setdefault((tokens.shape, tokens.dtype), tokens)\n"
            "        buffer[...] = tokens\n        return Merged(buffer, made.merge_size(size), made.mask, made)",
        ),
    ),
    bug(
        "one-buffer-for-weights",
        "CALL-3",
        "Attention of equal shape is written to the same memory: the next call changes the last result.",
        "",
        ("attention", _ARRAY, _KEPT),
        (
            "attention",
            "    return softmax(logits)",
            "    made = softmax(logits)\n    buffer = KEPT.setdefault((made.shape, made.dtype), made)\n"
            "    buffer[...] = made\n    return buffer",
        ),
    ),
    bug(
        "parameters-packed",
        "CALL-8",
        "Queries are packed at the first call; what is loaded afterwards is not read.",
        "patch_merger",
        (
            "patch_merger",
            _RUN,
            f"{_RUN}        self.packed = getattr(self, 'packed', self.queries)\n",
        ),
        ("patch_merger", "return _plan_and_inputs(x, self.queries,", "return _plan_and_inputs(x, self.packed,"),
    ),
    bug(
        "parameters-are-views",
        "CALL-11",
        "params() gives the arrays of the merger itself: who changes them changes the merger.",
        "patch_merger ltm",
        ("merger", _COPIES, _COPIES.replace(".copy()", "")),
    ),
    bug(
        "parameters-of-the-caller",
        "CALL-11",
        "load_params keeps the caller's arrays: who changes them later changes the merger.",
        "patch_merger ltm",
        (
            "merger",
            "arguments.parameter(self.NAME, name, params[name], value.dtype)",
            "np.asarray(params[name], dtype=value.dtype)",
        ),
    ),
    bug(
        "normalized-before-checking",
        "CALL-2",
        "A bad mask is refused after the tokens were normalized in place.",
        "patch_merger",
        (
            "patch_merger",
            "    _, c = check.patch_merger(x, queries, scale, bias, mask)\n",
            "    before = x.copy()\n    x -= x.mean(axis=-1, keepdims=True)\n"
            "    _, c = check.patch_merger(x, queries, scale, bias, mask)\n    x[...] = before\n",
        ),
    ),
    bug(
        "scaled-before-checking",
        "CALL-2",
        "A bad mask is refused after the metric was scaled in place.",
        "tome",
        (
            "tome",
            "    n, _ = check.tome(metric, mask, permutation, matching, protected)\n",
            "    before = metric.copy()\n    metric *= 2\n"
            "    n, _ = check.tome(metric, mask, permutation, matching, protected)\n    metric[...] = before\n",
        ),
    ),
)
