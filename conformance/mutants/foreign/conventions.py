"""Foreign bugs of conventions: a door, a default, a layout or a dtype that is allowed and hardly ever used."""

from __future__ import annotations

from tokenmerge.conformance.mutants.foreign.bug import bug

MUTANTS = (
    bug(
        "one-sample-planned",
        "CALL-1",
        "merger.plan takes a metric of one sample without a batch.",
        "tome",
        (
            "tome",
            '        """The plan of `metric (B,N,D)`, see `plan` of this module."""\n',
            '        """The plan of `metric (B,N,D)`, see `plan` of this module."""\n'
            "        if metric.ndim == 2:\n"
            "            metric = metric[None]\n",
        ),
    ),
    bug(
        "chain-keeps-protected",
        "LTM-3",
        "chain leaves rows of protected tokens from the second on.",
        "ltm",
        (
            "ltm",
            "plan.weights[:, protected:, protected:], 1, 2)",
            "plan.weights[:, protected:, protected:] * (protected < 2), 1, 2)",
        ),
    ),
    bug(
        "negative-logit-scale",
        "PM-2",
        "The sign of the logit scale is lost.",
        "patch_merger",
        (
            "patch_merger",
            "c**-0.5 if logit_scale is None else logit_scale",
            "c**-0.5 if logit_scale is None else abs(logit_scale)",
        ),
    ),
    bug(
        "grid-not-smoothed-by-default",
        "LTM-8",
        "The grid prior is not smoothed unless told.",
        "ltm",
        (
            "ltm",
            "merged: Grid, smoothing: float = 0.1)",
            "merged: Grid, smoothing: float = 0.0)",
        ),
    ),
    bug(
        "plan-argument-names",
        "CALL-12",
        "The first argument of ATS's plan is called attention.",
        "ats",
        (
            "ats",
            "    def plan(\n        self,\n        attn: Array,",
            "    def plan(\n        self,\n        attention: Array,",
        ),
        (
            "ats",
            '        """The plan of one attention layer, see `plan` of this module."""\n'
            "        return plan(\n"
            "            attn,",
            '        """The plan of one attention layer, see `plan` of this module."""\n'
            "        return plan(\n"
            "            attention,",
        ),
    ),
    bug(
        "all-real-is-no-mask",
        "PLAN-9",
        "A mask without padding is taken for none.",
        "tome",
        (
            "tome",
            "    r, k = r or 0, k or 1  # only one of the two is used\n",
            "    r, k = r or 0, k or 1  # only one of the two is used\n"
            "    mask = None if mask is not None and mask.all() else mask\n",
        ),
    ),
    bug(
        "no-channels",
        "CALL-5",
        "Tokens without channels are refused.",
        "tome",
        (
            "tome",
            '        check.tokens("tome", x, size, ("metric", metric, "N D"))\n',
            '        check.tokens("tome", x, size, ("metric", metric, "N D"))\n'
            "        if x.shape[2] == 0:\n"
            "            raise ValueError('no channels')\n",
        ),
    ),
    bug(
        "no-metric-entries",
        "CALL-5",
        "A metric of width 0 gives NaN targets: refused.",
        "tome",
        (
            "tome",
            "    r, k = r or 0, k or 1  # only one of the two is used\n",
            "    r, k = r or 0, k or 1  # only one of the two is used\n"
            "    if metric.shape[2] == 0:\n"
            "        raise ValueError('no width')\n",
        ),
    ),
    bug(
        "mask-memory-order",
        "CALL-9",
        "Masks are read in the order in which they lie in memory.",
        "tome",
        (
            "tome",
            "    r, k = r or 0, k or 1  # only one of the two is used\n",
            "    r, k = r or 0, k or 1  # only one of the two is used\n"
            "    mask = None if mask is None else mask.ravel(order='K').reshape(mask.shape)\n",
        ),
    ),
    bug(
        "key-memory-order",
        "CALL-9",
        "Keys of attention are read in the order in which they lie in memory.",
        "",
        (
            "attention",
            "logits = query @ np.swapaxes(key.astype(work, copy=False), 2, 3)",
            "key = key.ravel(order='K').reshape(key.shape)\n"
            "    logits = query @ np.swapaxes(key.astype(work, copy=False), 2, 3)",
        ),
    ),
    bug(
        "short-labels",
        "IB-2",
        "Labels are computed in their own dtype.",
        "",
        (
            "information_bottleneck",
            "one_hot = (labels[:, None]",
            "one_hot = ((labels * labels.dtype.type(32) // labels.dtype.type(32))[:, None]",
        ),
    ),
    bug(
        "eps-in-half",
        "PLAN-8",
        "eps is rounded to the half precision of the tokens.",
        "patch_merger",
        (
            "patch_merger",
            "    x = x.astype(working_dtype(x), copy=False)\n    deviation",
            "    eps = float(x.dtype.type(eps))\n    x = x.astype(working_dtype(x), copy=False)\n    deviation",
        ),
        dtype="float16",
    ),
    bug(
        "kept-by-the-first-token",
        "CALL-3",
        "A merger keeps its plan for the next metric of equal shape that begins with the same token.",
        "tome",
        (
            "tome",
            "        made = self.plan(x if metric is None else metric, mask=mask, permutation=permutation)\n",
            "        metric = x if metric is None else metric\n"
            "        read = (mask, permutation, metric[:1, :1])\n"
            "        held = (b'' if each is None else each.tobytes() for each in read)\n"
            "        made = self.plan(metric, mask=mask, permutation=permutation)\n"
            "        made = self.__dict__.setdefault('kept', {}).setdefault((metric.shape, *held), made)\n",
        ),
    ),
    bug(
        "graph-after-three-calls",
        "CALL-3",
        "From the fourth call of a shape on the graph of the third is replayed, with its sizes.",
        "tome",
        (
            "tome",
            '        check.tokens("tome", x, size, ("metric", metric, "N D"))\n',
            '        check.tokens("tome", x, size, ("metric", metric, "N D"))\n'
            "        count = self.__dict__.setdefault('count', {})\n"
            "        seen = count.setdefault((x.shape, size is None), [0, None])\n"
            "        seen[0] += 1\n"
            "        if seen[0] == 3:\n"
            "            seen[1] = None if size is None else size.copy()\n"
            "        size = seen[1] if seen[0] > 3 else size\n",
        ),
    ),
)
