"""Foreign bugs of arguments: options, defaults and legal values that are read in another way."""

from __future__ import annotations

from tokenmerge.conformance.mutants.foreign.bug import bug

_TOME_CHECKED = "        arguments.check_tome(r, protected, order, matching, k)\n        self.r,"
_LTM_CHECKED = "        arguments.check_ltm(dim, compression_ratio, protected, prior_smoothing)\n        self.dim,"
_LTM_OUT = "from tokenmerge.spec.shared.schedule import ltm_tokens_out, ltm_tokens_out_upto\n"
_ATTENDED = "weights = attention_weights(query, key, size=size, mask=mask, scale=scale)"

MUTANTS = (
    bug(
        "checks-nothing-around",
        "CALL-1",
        "attention and mean_pool check no argument.",
        "",
        ("attention", "    check.attention(query, key, size, mask, scale)\n", ""),
        (
            "attention",
            '    check.sample("attention", "value", value, "H N d", '
            "**check.attention(query, key, size, mask, scale))\n",
            "",
        ),
        ("pooling", "    check.mean_pool(x, size, mask)\n", ""),
    ),
    bug(
        "true-is-one",
        "CALL-1",
        "protected=True is taken for 1.",
        "tome ltm",
        (
            "tome",
            _TOME_CHECKED,
            f"        protected = int(protected) if isinstance(protected, bool) else protected\n{_TOME_CHECKED}",
        ),
        (
            "ltm",
            _LTM_CHECKED,
            f"        protected = int(protected) if isinstance(protected, bool) else protected\n{_LTM_CHECKED}",
        ),
    ),
    bug(
        "seed-not-read",
        "PM-5",
        "The queries start the same whatever the seed.",
        "patch_merger",
        ("patch_merger", "initial_queries(num_tokens_out, dim, seed)", "initial_queries(num_tokens_out, dim, 0)"),
    ),
    bug(
        "other-eps-by-default",
        "PM-1",
        "The LayerNorm of a merger has an eps of 1e-6 unless told.",
        "patch_merger",
        (
            "patch_merger",
            "        use_bias: bool = True,\n        eps: float = 1e-5,",
            "        use_bias: bool = True,\n        eps: float = 1e-6,",
        ),
    ),
    bug(
        "not-smoothed-by-default",
        "LTM-2",
        "The pooling of a merger is not smoothed unless told.",
        "ltm",
        (
            "ltm",
            "protected: int = 0, prior_smoothing: float = 0.1) -> None",
            "protected: int = 0, prior_smoothing: float = 0.0) -> None",
        ),
    ),
    bug(
        "logits-never-zero",
        "PM-2",
        "A logit_scale of 0 is taken for none.",
        "patch_merger",
        ("patch_merger", "c**-0.5 if logit_scale is None else logit_scale", "logit_scale or c**-0.5"),
    ),
    bug(
        "scale-never-zero",
        "ATT-1",
        "A scale of 0 is taken for none.",
        "",
        ("attention", "query.shape[3] ** -0.5 if scale is None else scale", "scale or query.shape[3] ** -0.5"),
    ),
    bug(
        "scale-for-weights-only",
        "ATT-2",
        "A scale is read by attention_weights and not by attention.",
        "",
        ("attention", _ATTENDED, _ATTENDED.replace("scale=scale", "scale=None")),
    ),
    bug(
        "given-prior-in-one-dtype",
        "LTM-3",
        "A prior in float32 with tokens in float16, which is what chain gives, is refused.",
        "ltm",
        (
            "ltm",
            "    if prior is None:\n",
            "    if prior is not None and prior.dtype != z.dtype:\n"
            '        raise TypeError("ltm: `prior` must have the dtype of the tokens")\n    if prior is None:\n',
        ),
        dtype="float16",
    ),
    bug(
        "ratio-as-float",
        "LTM-1",
        "The number of tokens is ceil(rho * n - 1e-9).",
        "ltm",
        (
            "ltm",
            _LTM_OUT,
            "def ltm_tokens_out(n: int, rho: float) -> int:\n    return int(np.ceil(rho * n - 1e-9))\n\n\n"
            "def ltm_tokens_out_upto(n: int, rho: float) -> list[int]:\n"
            "    return [ltm_tokens_out(each, rho) for each in range(n + 1)]\n",
        ),
    ),
    bug(
        "gumbel-floor",
        "ATS-6",
        "Gumbel takes log(p + 1e-12).",
        "ats",
        ("ats", "np.log(probability + work(GUMBEL_FLOOR))", "np.log(probability + work(1e-12))"),
    ),
    bug(
        "point-zero",
        "ATS-5",
        "A sample point of exactly 0 chooses nothing.",
        "ats",
        (
            "ats",
            "    return _mark(distance.argmin(axis=2), eligible)  #",
            "    hits = np.arange(eligible.shape[1]) == distance.argmin(axis=2)[:, :, None]\n"
            "    return (hits & (points > 0)[:, :, None]).any(axis=1) & eligible  #",
        ),
    ),
    bug(
        "bound-of-nothing",
        "IB-3",
        "The bound of no samples is NaN and not 0.",
        "",
        ("information_bottleneck", "work.type(max(s, 1))", "work.type(s)"),
    ),
    bug(
        "classes-by-label",
        "IB-2",
        "num_classes is not read: there are as many classes as the largest label says.",
        "",
        (
            "information_bottleneck",
            "classes = check.estimate_q(phi_out, labels, num_classes)",
            "classes = check.estimate_q(phi_out, labels, None)",
        ),
    ),
)
