"""Proportional attention, broken."""

from __future__ import annotations

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.mutant import Mutant


def _mutant(name: str, rule: str, what: str, old: str, new: str, dtype: str = "float32") -> Mutant:
    return Mutant(f"attention-{name}", rule, what, (Edit("attention", old, new),), dtype=dtype)


_LOG_SIZE = "logits += np.log(size.astype(work))[:, None, None, :]"
_ATTENDED = "return (weights @ value.astype(weights.dtype, copy=False)).astype(query.dtype)"

MUTANTS = (
    _mutant("not-proportional", "ATT-1", "Sizes are ignored.", _LOG_SIZE, "pass"),
    _mutant(
        "size-for-logarithm",
        "ATT-1",
        "The size is added to the logits, not its logarithm.",
        _LOG_SIZE,
        "logits += size.astype(work)[:, None, None, :]",
    ),
    _mutant(
        "padding-attended",
        "ATT-1",
        "Masked keys are attended to.",
        "np.where(mask[:, None, None, :], logits, work(-np.inf))",
        "logits",
    ),
    _mutant(
        "sizes-for-values",
        "ATT-2",
        "Attention is computed without the sizes that the weights have.",
        "weights = attention_weights(query, key, size=size, mask=mask, scale=scale)",
        "weights = attention_weights(query, key, mask=mask, scale=scale)",
    ),
    _mutant(
        "coarse-logarithm",
        "ATT-2",
        "In half precision the logarithm of a size is rounded like a key.",
        _LOG_SIZE,
        _LOG_SIZE.replace("astype(work))", "astype(work)).astype(key.dtype)"),
        dtype="float16",
    ),
    _mutant(
        "promoted",
        "ATT-2",
        "Half-precision queries get float32 back.",
        _ATTENDED,
        _ATTENDED.replace(".astype(query.dtype)", ""),
        dtype="float16",
    ),
)
