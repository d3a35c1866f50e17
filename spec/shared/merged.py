"""What a merger returns, in every backend."""

from __future__ import annotations

from typing import Any, NamedTuple


class Merged(NamedTuple):
    """The merged tokens and everything that belongs to them.

    tokens: `(B,P,C)`, in the dtype of the input.
    size: `(B,P)`, how many original patches a token stands for; float32 at least.
    mask: `(B,P)` bool, True where a slot is real; None where every slot is known to be.
    plan: the plan that made them; `plan.unmerge(tokens)` goes back to `N` tokens.
    """

    tokens: Any
    size: Any
    mask: Any
    plan: Any
