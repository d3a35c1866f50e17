"""Foreign bugs of size: kernels that are right up to some number of samples, tokens, channels, heads or queries."""

from __future__ import annotations

from tokenmerge.conformance.mutants.foreign.bug import bug

_WEIGHED = "        weights = self._weights(size)[:, :, None]\n"
_NORMALIZED = "return np.divide(m, norm, out=m, where=has_direction)"
_SIMILARITY = "similarity = a[some, part] @ np.swapaxes(b[some], 1, 2)"
_NEAREST = "target[some, part] = similarity.argmax(axis=2)  # the lowest of several maxima"
_PLACE = "place = inverse(descending(best))"
_CHECKED = "    r, k = r or 0, k or 1  # only one of the two is used\n"
_LAYER_NORM = "deviation = x - x.mean(axis=-1, keepdims=True)"
_UNMERGED = "return _gather_or_zero(y, self.assignment)"
_LOGITS = "logits = query @ np.swapaxes(key.astype(work, copy=False), 2, 3)"
_PROJECTED = "targets @ np.swapaxes(tokens * weight.astype(work), 1, 2)"

MUTANTS = (
    bug(
        "samples-from-the-fifth",
        "CALL-4",
        "Samples from the fifth on get the plan of the first.",
        "tome",
        (
            "tome",
            "    if mask is None:\n        width = kth_tokens_out",
            "    assignment[4:] = assignment[:1]\n    if mask is None:\n        width = kth_tokens_out",
        ),
    ),
    bug(
        "permutation-of-the-first-sample",
        "TOME-11",
        "Random matching shuffles all samples as the first.",
        "tome",
        (
            "tome",
            _CHECKED,
            f"{_CHECKED}    permutation = None if permutation is None else permutation[:1].repeat(len(metric), 0)\n",
        ),
    ),
    bug(
        "pooled-by-the-first-sizes",
        "POOL-1",
        "Samples from the third on are pooled by the sizes of the first.",
        "",
        ("pooling", "    if mask is not None:\n", "    weight[2:] = weight[:1]\n    if mask is not None:\n"),
    ),
    bug(
        "mask-of-the-fourth-sample",
        "ATS-7",
        "Samples from the fifth on have the mask of the fourth.",
        "ats",
        (
            "ats",
            "    b, others = value.shape[0], max(n - 1, 0)\n",
            "    b, others = value.shape[0], max(n - 1, 0)\n"
            "    mask = None if mask is None else mask[np.minimum(np.arange(b), 3)]\n",
        ),
    ),
    bug(
        "mask-ignored-from-128",
        "TOME-12",
        "From N = 128 on the mask is ignored.",
        "tome",
        ("tome", _CHECKED, f"{_CHECKED}    mask = None if n >= 128 else mask\n"),
    ),
    bug(
        "padding-scored-from-128",
        "ATS-7",
        "From N = 128 on padding is scored, too.",
        "ats",
        (
            "ats",
            "    b, others = value.shape[0], max(n - 1, 0)\n",
            "    b, others = value.shape[0], max(n - 1, 0)\n    mask = None if n >= 128 else mask\n",
        ),
    ),
    bug(
        "padding-weighted-from-128",
        "PM-4",
        "From N = 128 on masked tokens get weight.",
        "patch_merger",
        (
            "patch_merger",
            "    if mask is not None:\n        logits =",
            "    if mask is not None and mask.shape[1] < 128:\n        logits =",
        ),
    ),
    bug(
        "unstable-from-128",
        "TOME-6",
        "From N = 128 on the pairs are ranked by a sort that is not stable.",
        "tome",
        (
            "tome",
            _PLACE,
            "stir = np.broadcast_to(np.arange(best.shape[1]) * 7919 % 1009 * (n >= 128), best.shape)\n"
            "    place = np.argsort(np.lexsort((stir, -best), axis=1), axis=1)",
        ),
    ),
    bug(
        "last-maximum-from-64",
        "TOME-5",
        "From 64 partners on the last of several most similar ones is taken.",
        "tome",
        (
            "matching",
            _NEAREST,
            "last = similarity.shape[2] - 1 - similarity[:, :, ::-1].argmax(axis=2)\n"
            "            target[some, part] = last if partners >= 64 else similarity.argmax(axis=2)",
        ),
    ),
    bug(
        "score-order-from-64",
        "TOME-9",
        'From N = 64 on order "score" is order "grouped".',
        "tome",
        ("tome", 'if order == "score" else', 'if order == "score" and n < 64 else'),
    ),
    bug(
        "long-runs",
        "TOME-10",
        "Runs are at most 8 long, one lane of a warp each.",
        "tome",
        ("tome", _CHECKED, "    r, k = r or 0, min(k or 1, 8)\n"),
    ),
    bug(
        "protected-at-most-four",
        "TOME-4",
        "At most four tokens are protected.",
        "tome",
        ("tome", _CHECKED, f"{_CHECKED}    protected = min(protected, 4) if n >= 16 else protected\n"),
    ),
    bug(
        "channels-in-fours",
        "PLAN-1",
        "Tokens are merged in vectors of four channels; those behind the last full vector come out as zeros.",
        "tome",
        (
            "plan",
            _WEIGHED,
            _WEIGHED + "        x = np.where(np.arange(x.shape[2]) < x.shape[2] // 4 * 4, x, x.dtype.type(0))\n",
        ),
    ),
    bug(
        "unmerged-four-channels",
        "PLAN-4",
        "Unmerging has a scratch row of four channels; further channels come back as zeros.",
        "tome",
        (
            "plan",
            _UNMERGED,
            "return np.where(np.arange(y.shape[2]) < 4, _gather_or_zero(y, self.assignment), y.dtype.type(0))",
        ),
    ),
    bug(
        "plain-mean-of-wide-tokens",
        "PLAN-6",
        "Tokens of 64 channels and more are averaged plainly.",
        "tome",
        ("plan", _WEIGHED, _WEIGHED.replace("(size)", "(np.ones_like(size) if x.shape[2] >= 64 else size)")),
    ),
    bug(
        "similarity-in-sixteens",
        "TOME-2",
        "The similarity is summed in blocks of 16 entries; a last block that is not full is left out.",
        "tome",
        ("tome", _NORMALIZED, f"m = {_NORMALIZED[7:]}\n    return m[:, :, : m.shape[2] // 16 * 16]"),
    ),
    bug(
        "similarity-of-64-entries",
        "TOME-2",
        "The similarity is summed over the first 64 entries.",
        "tome",
        ("matching", _SIMILARITY, "similarity = a[some, part, :64] @ np.swapaxes(b[some, :, :64], 1, 2)"),
    ),
    bug(
        "partners-of-one-block",
        "TOME-5",
        "Partners are sought among the first 256 odd tokens.",
        "tome",
        ("matching", _SIMILARITY, f"{_SIMILARITY}\n            similarity[:, :, 256:] = -np.inf"),
    ),
    bug(
        "at-most-64-chosen",
        "ATS-8",
        "At most 64 tokens are chosen.",
        "ats",
        (
            "ats",
            "    filled = np.arange(slots)",
            "    chosen &= chosen.cumsum(axis=1) <= 65\n    filled = np.arange(slots)",
        ),
    ),
    bug(
        "four-heads",
        "ATS-1",
        "Heads from the fifth on are not scored.",
        "ats",
        ("ats", ")).sum(axis=1)\n    else:", "))[:, :4].sum(axis=1)\n    else:"),
    ),
    bug(
        "values-of-eight-channels",
        "ATS-1",
        "The length of a value is that of its first eight channels.",
        "ats",
        (
            "ats",
            "others = value[:, :, 1:].astype(work, copy=False)",
            "others = value[:, :, 1:, :8].astype(work, copy=False)",
        ),
    ),
    bug(
        "share-cumulated-in-blocks",
        "ATS-4",
        "The cumulated share begins anew every 64 tokens.",
        "ats",
        (
            "ats",
            "    distance = np.where(",
            "    cdf[:, 64:] -= cdf[:, 63:64] if cdf.shape[1] > 64 else 0\n    distance = np.where(",
        ),
    ),
    bug(
        "column-from-64",
        "ATS-9",
        "From N = 64 on the class token's column of the attention is read.",
        "ats",
        ("ats", "row = (attn[:, :, 0] if", "row = ((attn[:, :, :, 0] if attn.shape[2] >= 64 else attn[:, :, 0]) if"),
    ),
    bug(
        "four-queries",
        "PM-2",
        "A kernel for up to four queries: further ones get the weights of the fourth.",
        "patch_merger",
        (
            "patch_merger",
            "queries.astype(work) @",
            "queries[np.minimum(np.arange(len(queries)), 3)].astype(work) @",
        ),
    ),
    bug(
        "mean-of-64-channels",
        "PM-1",
        "The LayerNorm takes the mean of the first 64 channels.",
        "patch_merger",
        ("patch_merger", _LAYER_NORM, "deviation = x - x[..., :64].mean(axis=-1, keepdims=True)"),
    ),
    bug(
        "tokens-of-one-block",
        "PM-2",
        "Tokens from the 129th on get no weight.",
        "patch_merger",
        (
            "patch_merger",
            "    return DensePlan(softmax(logits)), normalized",
            "    logits[:, :, 128:] = -np.inf\n    return DensePlan(softmax(logits)), normalized",
        ),
    ),
    bug(
        "step-of-64-channels",
        "LTM-4",
        "The step of LTM sums over the first 64 channels.",
        "ltm",
        ("ltm", _PROJECTED, "targets[:, :, :64] @ np.swapaxes((tokens * weight.astype(work))[:, :, :64], 1, 2)"),
    ),
    bug(
        "windows-of-one-width",
        "LTM-2",
        "From 64 tokens on every pooling window is as wide as the first.",
        "ltm",
        (
            "ltm",
            "    pooled = (place",
            "    stop = np.where(count >= 64, start + -(-count // np.maximum(columns, 1)), stop)\n    pooled = (place",
        ),
    ),
    bug(
        "two-copied-through",
        "LTM-5",
        "Protected tokens from the fourth on are copies of the third.",
        "ltm",
        ("ltm", "== np.arange(protected)[:, None]", "== np.minimum(np.arange(protected), 2)[:, None]"),
    ),
    bug(
        "keys-of-one-block",
        "ATT-1",
        "Keys from the 65th on are not attended to.",
        "",
        ("attention", _LOGITS, f"{_LOGITS}\n    logits[:, :, :, 64:] = -np.inf"),
    ),
    bug(
        "head-width-of-32",
        "ATT-1",
        "Queries and keys are multiplied over their first 32 channels.",
        "",
        ("attention", _LOGITS, _LOGITS.replace("query", "query[..., :32]").replace("2, 3)", "2, 3)[:, :, :32]")),
    ),
    bug(
        "heads-share-the-fifth",
        "ATT-1",
        "Heads from the fifth on are as the fourth.",
        "",
        ("attention", _LOGITS, f"{_LOGITS}\n    logits[:, 4:] = logits[:, 3:4]"),
    ),
    bug(
        "more-queries-than-keys",
        "ATT-1",
        "Queries beyond the number of keys get what the last one gets.",
        "",
        ("attention", _LOGITS, f"{_LOGITS}\n    logits[:, :, logits.shape[3] + 1 :] = logits[:, :, -1:]"),
    ),
    bug(
        "values-of-four-channels",
        "ATT-2",
        "Values are attended in vectors of four channels; those behind the last full vector come out as zeros.",
        "",
        (
            "attention",
            "    return (weights @ value",
            "    value = np.where(np.arange(value.shape[3]) < value.shape[3] // 4 * 4, value, value.dtype.type(0))\n"
            "    return (weights @ value",
        ),
    ),
    bug(
        "pooled-32-channels",
        "POOL-1",
        "Channels from the 33rd on are not pooled.",
        "",
        ("pooling", "    summed = (weight", "    x[:, :, 32:] = 0\n    summed = (weight"),
    ),
    bug(
        "ten-classes",
        "IB-2",
        "Classes from the eleventh on are counted as the tenth.",
        "",
        ("information_bottleneck", "one_hot = (labels[:, None]", "one_hot = (np.minimum(labels, 9)[:, None]"),
    ),
    bug(
        "sixteen-clusters",
        "IB-1",
        "Clusters from the seventeenth on are never scored.",
        "",
        (
            "information_bottleneck",
            "    return softmax(-work(beta) * np.square(unit[:, None, :] - centroids).sum(axis=2))",
            "    distance = np.square(unit[:, None, :] - centroids).sum(axis=2)\n"
            "    distance[:, 16:] = np.inf\n    return softmax(-work(beta or 1e-30) * distance)",
        ),
    ),
    bug(
        "gradient-of-32-tokens",
        "IB-6",
        "The gradient of the bound is zero from the 33rd token on.",
        "",
        (
            "information_bottleneck",
            "    return -2 * (z.astype(phi.dtype) @ pulled)",
            "    return -2 * (np.where(np.arange(z.shape[1])[:, None] < 32, z, 0).astype(phi.dtype) @ pulled)",
        ),
    ),
)
