"""Networks, broken: where a plan acts around a branch, and what is restored."""

from __future__ import annotations

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.mutant import Mutant


def _mutant(name: str, rule: str, what: str, old: str, new: str, file: str = "vit") -> Mutant:
    return Mutant(f"network-{name}", rule, what, (Edit(file, old, new),))


MUTANTS = (
    _mutant(
        "mlp-replaces-stream",
        "VIT-1",
        "Around the MLP the stream becomes the unmerged tokens, and what they had of their own is lost.",
        "stream._replace(x=stream.x + plan.unmerge(branch), prior=inner.prior)",
        "stream._replace(x=plan.unmerge(inner.x + branch), prior=inner.prior)",
    ),
    _mutant(
        "block-adds-tokens-twice",
        "VIT-2",
        "Around a block its output is added, and not what it adds to its input.",
        "plan.unmerge(after.x - inner.x)",
        "plan.unmerge(after.x)",
    ),
    _mutant(
        "sizes-not-inside",
        "VIT-3",
        "Inside a block that a plan acts around every merged token counts one.",
        "after, _ = block(inner, params, config, step.inside)",
        "after, _ = block(inner._replace(size=None), params, config, step.inside)",
    ),
    _mutant(
        "sizes-forgotten-after",
        "VIT-4",
        "After an MLP that a plan acts around the sizes of the stream are forgotten.",
        "stream._replace(x=stream.x + plan.unmerge(branch), prior=inner.prior)",
        "stream._replace(x=stream.x + plan.unmerge(branch), prior=inner.prior, size=None)",
    ),
    _mutant(
        "chain-ends-at-branch",
        "VIT-5",
        "A block that a plan acts around hands on the prior that it got, and not its mask.",
        "plan.unmerge(branch), prior=inner.prior)",
        "plan.unmerge(branch))",
    ),
    _mutant(
        "dropped-tokens-count",
        "VIT-6",
        "Tokens that were dropped are restored as if they were real.",
        "plan.matrix().max(axis=1, initial=0) > 0 if drops else None",
        "None",
        "stream",
    ),
)
