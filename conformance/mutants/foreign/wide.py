"""Foreign bugs beyond the sizes of networks in use: right for 512 channels, 12 heads, 256 tokens or 32 samples."""

from __future__ import annotations

from tokenmerge.conformance.mutants.foreign.bug import bug

MUTANTS = (
    bug(
        "channels-from-the-513th",
        "PLAN-1",
        "Channels from the 513th on come out as zeros.",
        "tome",
        (
            "plan",
            "        weights = self._weights(size)[:, :, None]\n",
            "        weights = self._weights(size)[:, :, None]\n"
            "        x = np.where(np.arange(x.shape[2]) < 512, x, x.dtype.type(0))\n",
        ),
    ),
    bug(
        "gradient-of-32-clusters",
        "IB-6",
        "The gradient of the bound sums over the first 32 clusters.",
        "",
        (
            "information_bottleneck",
            '"ba,apc->bcp", surprise, centroids',
            '"ba,apc->bcp", surprise[:, :32], centroids[:32]',
        ),
    ),
    bug(
        "scores-of-16-slots",
        "IB-5",
        "Merged tokens from the 17th on are not scored.",
        "",
        (
            "information_bottleneck",
            "    return softmax(-np.square(merged[:, None] - centroids.astype(work)).sum(axis=(2, 3)))",
            "    return softmax(-np.square(merged[:, None] - centroids.astype(work))[:, :, :16].sum(axis=(2, 3)))",
        ),
    ),
    bug(
        "q-of-128-samples",
        "IB-2",
        "Samples from the 129th on are not counted.",
        "",
        (
            "information_bottleneck",
            "    return safe_divide(phi_out.astype(one_hot.dtype).T",
            "    one_hot[128:] = 0\n    return safe_divide(phi_out.astype(one_hot.dtype).T",
        ),
    ),
    bug(
        "table-of-32",
        "IB-4",
        "Rows of the table from the 33rd on are not counted.",
        "",
        (
            "information_bottleneck",
            "    p = p_ab.astype(working_dtype(p_ab), copy=False)\n",
            "    p = p_ab.astype(working_dtype(p_ab), copy=False)[:32]\n",
        ),
    ),
    bug(
        "keys-of-256",
        "ATT-1",
        "Keys from the 257th on are not attended to.",
        "",
        (
            "attention",
            "logits = query @ np.swapaxes(key.astype(work, copy=False), 2, 3)",
            "logits = query @ np.swapaxes(key.astype(work, copy=False), 2, 3)\n    logits[:, :, :, 256:] = -np.inf",
        ),
    ),
    bug(
        "heads-times-samples",
        "ATT-1",
        "The 33rd pair of a sample and a head, and those behind it, are as the first.",
        "",
        (
            "attention",
            "logits = query @ np.swapaxes(key.astype(work, copy=False), 2, 3)",
            "logits = query @ np.swapaxes(key.astype(work, copy=False), 2, 3)\n"
            "    flat = logits.reshape(-1, *logits.shape[2:])\n"
            "    flat[32:] = flat[:1]",
        ),
    ),
    bug(
        "pooled-128-tokens",
        "POOL-1",
        "Tokens from the 129th on are not pooled.",
        "",
        (
            "pooling",
            "    if mask is not None:\n",
            "    weight[:, 128:] = 0\n    if mask is not None:\n",
        ),
    ),
)
