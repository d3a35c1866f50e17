"""Foreign bugs of values: rounding, overflow, and numbers that are legal and rare."""

from __future__ import annotations

from tokenmerge.conformance.mutants.foreign.bug import bug

_SIMILARITY = "similarity = a[some, part] @ np.swapaxes(b[some], 1, 2)"
_WEIGHED = "        weights = self._weights(size)[:, :, None]\n"
_COUNTED = "return self._sum_groups(self._sizes(size, np.float32)[:, :, None])[:, :, 0]"
_DENSE = "product(self.weights, x.astype(working_dtype(x), copy=False)).astype(x.dtype)"
_VALUES = "        value = np.where(mask[:, None, :, None], value, np.zeros((), value.dtype))\n"
_LOG_SIZE = "logits += np.log(size.astype(work))[:, None, None, :]"
_PLACE = "place = inverse(descending(best))"
_TAKEN = "taken = np.take_along_axis(values, self.indices[:, :, None], axis=1)"
_ARRAY = "Array = np.ndarray[Any, Any]\n"
_TEN_BITS = f"""{_ARRAY}

def ten_bits(values: Array) -> Array:
    if values.dtype != np.float32:
        return values
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)

"""

MUTANTS = (
    bug(
        "similarity-of-ten-bits",
        "PLAN-8",
        "The similarity always runs on tensor cores: 10 bits of mantissa.",
        "tome",
        ("matching", _ARRAY, _TEN_BITS),
        ("matching", _SIMILARITY, "similarity = ten_bits(a[some, part]) @ np.swapaxes(ten_bits(b[some]), 1, 2)"),
    ),
    bug(
        "mixture-of-ten-bits",
        "PM-3",
        "Tokens are mixed on tensor cores: 10 bits of mantissa.",
        "patch_merger",
        ("plan", _ARRAY, _TEN_BITS),
        ("plan", _DENSE, "product(ten_bits(self.weights), ten_bits(x.astype(working_dtype(x)))).astype(x.dtype)"),
    ),
    bug(
        "similarity-in-single",
        "PLAN-8",
        "The similarity of double-precision vectors is computed in float32.",
        "tome",
        (
            "matching",
            _SIMILARITY,
            "short = a[some, part].astype(np.float32), b[some].astype(np.float32)\n"
            "            similarity = (short[0] @ np.swapaxes(short[1], 1, 2)).astype(a.dtype)",
        ),
        dtype="float64",
    ),
    bug(
        "metric-in-the-dtype-of-tokens",
        "PLAN-8",
        "A metric in float32 is rounded to the half precision of the tokens.",
        "tome",
        (
            "tome",
            "made = self.plan(x if metric is None else metric,",
            "made = self.plan(x if metric is None else metric.astype(x.dtype),",
        ),
        dtype="float16",
    ),
    bug(
        "coarse-attention",
        "PLAN-8",
        "Attention in float32 is rounded to the half precision of the values before it is scored.",
        "ats",
        (
            "ats",
            "    work = working_dtype(attn, value)\n",
            "    work = working_dtype(attn, value)\n    attn = attn.astype(value.dtype)\n",
        ),
        dtype="float16",
    ),
    bug(
        "half-subnormals-flushed",
        "PLAN-1",
        "Subnormal numbers of half-precision tokens are flushed to zero.",
        "tome",
        ("plan", _WEIGHED, f"{_WEIGHED}        x = np.where(np.abs(x) < np.finfo(x.dtype).tiny, x.dtype.type(0), x)\n"),
        dtype="float16",
    ),
    bug(
        "half-subnormals-dropped",
        "PLAN-1",
        "Subnormal numbers of half-precision tokens that are kept are flushed to zero.",
        "ats",
        (
            "plan",
            _TAKEN,
            "tiny = np.abs(values) < np.finfo(values.dtype).tiny\n"
            f"        values = np.where(tiny, values.dtype.type(0), values)\n        {_TAKEN}",
        ),
        dtype="float16",
    ),
    bug(
        "short-vectors-vanish",
        "TOME-2",
        "Vectors whose largest entry is subnormal count as zero.",
        "tome",
        ("tome", "np.isfinite(largest) & (largest > 0)", "np.isfinite(largest) & (largest >= np.finfo(m.dtype).tiny)"),
    ),
    bug(
        "infinite-has-direction",
        "TOME-2",
        "A vector with an infinite entry becomes NaN.",
        "tome",
        ("tome", "np.isfinite(largest) & (largest > 0)", "(largest > 0)"),
    ),
    bug(
        "mean-overflows",
        "PLAN-1",
        "The mean of a group is sum(size * x) / sum(size), which overflows for tokens near the end of the range.",
        "tome",
        (
            "plan",
            _WEIGHED,
            "        count, total = (\n"
            "            _gather_or_zero(self._sum_groups(each[:, :, None]), self.assignment)[:, :, 0]\n"
            "            for each in (np.ones_like(size), size)\n        )\n"
            "        size = np.where((count == 1) | (total == 0), 1, size)[:, :, None]\n"
            "        return safe_divide(self._sum_groups(size * x), self._sum_groups(size)).astype(x.dtype)\n"
            + _WEIGHED,
        ),
    ),
    bug(
        "short-sizes",
        "PLAN-3",
        "Sizes are counted in 16 bits: above 32767 they are 32767.",
        "tome",
        ("plan", _COUNTED, f"return np.minimum({_COUNTED[7:]}, np.float32(32767))"),
    ),
    bug(
        "negative-zero",
        "TOME-6",
        "Products are summed from the first on, so -0.0 can come out, and a sort of the bits ranks 0.0 in front of it.",
        "tome",
        (
            "matching",
            _SIMILARITY,
            f"{_SIMILARITY}\n"
            "            signs = np.signbit(a[some, part])[:, :, None] ^ np.signbit(b[some])[:, None]\n"
            "            similarity[(similarity == 0) & signs.all(axis=3)] = -0.0",
        ),
        ("tome", _PLACE, "place = np.argsort(np.lexsort((np.signbit(best), -best), axis=1), axis=1)"),
    ),
    bug(
        "near-ties-are-ties",
        "TOME-6",
        "Similarities are ranked after rounding to four digits.",
        "tome",
        ("tome", _PLACE, "place = inverse(descending(best.round(4)))"),
    ),
    bug(
        "small-scores-are-zero",
        "ATS-3",
        "Scores that add up to less than 1e-6 count as zero.",
        "ats",
        (
            "ats",
            "return np.where(total == 0, real, significance)",
            "return np.where(total < 1e-6, real, significance)",
        ),
    ),
    bug(
        "small-scores-are-not-chosen",
        "ATS-5",
        "A token whose score is below 1e-6 is never chosen.",
        "ats",
        ("ats", "    eligible = significance > 0\n", "    eligible = significance > 1e-6\n"),
    ),
    bug(
        "share-floored",
        "ATS-4",
        "The share is divided by the sum of scores plus 1e-6.",
        "ats",
        (
            "ats",
            "significance.sum(axis=1, keepdims=True)), axis=1)",
            "significance.sum(axis=1, keepdims=True) + significance.dtype.type(1e-6)), axis=1)",
        ),
    ),
    bug(
        "sizes-above-1000",
        "ATT-1",
        "Sizes above 1000 are taken for 1000.",
        "",
        ("attention", _LOG_SIZE, _LOG_SIZE.replace("size.astype", "np.minimum(size, 1000).astype")),
    ),
    bug(
        "sizes-floored",
        "ATT-1",
        "Sizes are at least 1e-6 in attention.",
        "",
        ("attention", _LOG_SIZE, _LOG_SIZE.replace("size.astype", "np.maximum(size, 1e-6).astype")),
    ),
    bug(
        "masked-values-multiplied",
        "ATT-1",
        "The value of a masked key is multiplied by its weight 0: NaN in the padding reaches all.",
        "",
        ("attention", _VALUES, "        pass\n"),
    ),
    bug(
        "logits-overflow",
        "ATT-1",
        "The softmax of attention does not subtract the maximum: logits above 88 give NaN.",
        "",
        (
            "attention",
            "    return softmax(logits)",
            "    weights = np.exp(logits)\n    whole = weights.sum(axis=3, keepdims=True)\n"
            "    return np.divide(weights, whole, out=np.zeros_like(weights), where=whole != 0)",
        ),
    ),
    bug(
        "pooled-padding-multiplied",
        "POOL-1",
        "Padding is multiplied by 0 in the mean: NaN in it reaches the result.",
        "",
        (
            "pooling",
            "    x = np.where((weight != 0)[:, :, None], x, np.zeros((), x.dtype))  #",
            "    x = x.astype(work)  #",
        ),
    ),
    bug(
        "pooled-in-half",
        "POOL-1",
        "Half-precision tokens are pooled in half precision.",
        "",
        ("pooling", "    work = working_dtype(x)\n", "    work = x.dtype\n"),
        dtype="float16",
    ),
    bug(
        "pooled-floor",
        "POOL-1",
        "The sum of the sizes is at least 1 in pooling.",
        "",
        (
            "pooling",
            "safe_divide(summed, weight.sum(axis=1, keepdims=True))",
            "(summed / np.maximum(weight.sum(axis=1, keepdims=True), 1))",
        ),
    ),
    bug(
        "constant-token-nan",
        "PM-1",
        "With eps = 0 a constant token becomes NaN and not the bias.",
        "patch_merger",
        ("patch_merger", "np.sqrt(np.where(variance == 0, 1, variance))", "np.sqrt(variance)"),
    ),
    bug(
        "variance-by-squares",
        "PM-1",
        "The variance is the mean of the squares minus the square of the mean.",
        "patch_merger",
        (
            "patch_merger",
            "np.square(deviation).mean(axis=-1, keepdims=True) +",
            "np.square(x).mean(axis=-1, keepdims=True) - np.square(x.mean(axis=-1, keepdims=True)) +",
        ),
    ),
    bug(
        "prior-floored",
        "LTM-3",
        "The logarithm of the first mask has a floor: an entry of 0 gets a weight.",
        "ltm",
        ("ltm", "np.log(g0) +", "np.log(np.maximum(g0, work(1e-6))) +"),
    ),
    bug(
        "floor-of-the-bound",
        "IB-3",
        "Logarithms in the bound have a floor of 1e-7.",
        "",
        ("information_bottleneck", "type(LOG_FLOOR)", "type(1e-7)"),
    ),
    bug(
        "pooled-by-half-sizes",
        "POOL-1",
        "Sizes are rounded to half precision in pooling.",
        "",
        ("pooling", "size.astype(work)", "size.astype(np.float16).astype(work)"),
    ),
    bug(
        "noise-in-half",
        "ATS-6",
        "Gumbel noise is rounded to half precision.",
        "ats",
        ("ats", "_gumbel(significance, real, noise)", "_gumbel(significance, real, noise.astype(np.float16))"),
    ),
)
