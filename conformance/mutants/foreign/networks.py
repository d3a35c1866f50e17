"""Foreign bugs of networks: the third merger, the fourth sample, and masks and sizes behind a branch."""

from __future__ import annotations

from tokenmerge.conformance.mutants.foreign.bug import bug

MUTANTS = (
    bug(
        "sizes-of-the-first-merger",
        "VIT-4",
        "Behind the second merger of the stream, sizes are those of the first one.",
        "",
        (
            "vit",
            "    return Stream(plan.merge(x, size), plan.merge_size(size), plan.mask, prior)",
            "    sizes = plan.merge_size(size)\n"
            "    if (size > 2).any():\n"
            "        sizes = np.minimum(sizes, size.max(axis=1, keepdims=True))\n"
            "    return Stream(plan.merge(x, size), sizes, plan.mask, prior)",
        ),
    ),
    bug(
        "samples-from-the-fourth",
        "VIT-1",
        "Around the MLP samples from the fourth on get what the branch gave the first.",
        "",
        (
            "vit",
            "        return stream._replace(x=stream.x + plan.unmerge(branch), prior=inner.prior), plan",
            "        back = plan.unmerge(branch)\n"
            "        back[3:] = back[:1]\n"
            "        return stream._replace(x=stream.x + back, prior=inner.prior), plan",
        ),
    ),
    bug(
        "mask-lost-around-block",
        "VIT-4",
        "Behind a block that a plan acts around the mask of the stream is lost.",
        "",
        (
            "vit",
            "plan.unmerge(after.x - inner.x), prior=inner.prior)",
            "plan.unmerge(after.x - inner.x), prior=inner.prior, mask=None)",
        ),
    ),
    bug(
        "mask-lost-around-mlp",
        "VIT-4",
        "Behind an MLP that a plan acts around the mask of the stream is lost.",
        "",
        (
            "vit",
            "        return stream._replace(x=stream.x + plan.unmerge(branch), prior=inner.prior), plan",
            "        return stream._replace(x=stream.x + plan.unmerge(branch), prior=inner.prior, mask=None), plan",
        ),
    ),
    bug(
        "chain-of-one",
        "VIT-5",
        "A prior is chained once: the third merger gets that of the first.",
        "",
        (
            "vit",
            '        prior = merger.HAND_ON(plan, options["protected"])',
            '        prior = merger.HAND_ON(plan, options["protected"]) if prior is None else prior',
        ),
    ),
    bug(
        "restored-by-dense-plainly",
        "VIT-6",
        "Several plans are composed as if all sizes were one.",
        "",
        (
            "plan",
            "            composed = DensePlan(plan.matrix(size) @ composed.matrix(), plan.mask)",
            "            composed = DensePlan(plan.matrix() @ composed.matrix(), plan.mask)",
        ),
    ),
    bug(
        "inner-mask-of-the-stream",
        "VIT-3",
        "Inside a block that a plan acts around padding is real.",
        "",
        (
            "vit",
            "    after, _ = block(inner, params, config, step.inside)",
            "    after, _ = block(inner._replace(mask=None), params, config, step.inside)",
        ),
    ),
    bug(
        "around-block-sizes-of-one",
        "VIT-2",
        "Around a block the merged stream takes sizes of one although the stream has its own.",
        "",
        (
            "vit",
            "    plan, inner = decide(step, stream, params, stream.x[:, None])",
            "    plan, inner = decide(step, stream._replace(size=None), params, stream.x[:, None])",
        ),
    ),
    bug(
        "around-mlp-sizes-of-one",
        "VIT-1",
        "Around the MLP tokens are merged with sizes of one although the stream has its own.",
        "",
        (
            "vit",
            "        plan, inner = decide(step, stream, params, key)\n    hidden",
            "        plan, inner = decide(step, stream._replace(size=None) if step.around else stream, params, key)\n"
            "    hidden",
        ),
    ),
    bug(
        "always-proportional",
        "VIT-3",
        "Inside a block that a plan acts around attention is always proportional.",
        "",
        (
            "vit",
            "    counted = size if step.proportional else None\n",
            "    counted = size\n",
        ),
    ),
)
