"""What the demo merges, and how: a row of the table and a panel of the picture each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenmerge.conformance.case import Case, run_case
from tokenmerge.demo import features
from tokenmerge.spec.patch_merger import layer_norm

Array = np.ndarray[Any, Any]

DTYPE = "float32"
SMOOTHING = 0.95


@dataclass(frozen=True)
class Stage:
    """A merger with everything it needs, applied one or more times.

    Attributes:
        title: how the table and the picture call it.
        note: what it does here, in a few words.
        merger: its name; config: its options; params: its parameters.
        inputs: the arguments of the call, by name; NumPy arrays with the batch axis in front.
        layers: how many times it is applied, each time to the tokens and sizes of the time before.
    """

    title: str
    note: str
    merger: str
    config: dict[str, Any]
    inputs: dict[str, Array]
    params: dict[str, Array] = field(default_factory=dict)
    layers: int = 1

    def cases(self) -> list[Case]:
        """One case per layer. What goes into a layer is what the spec made of the layer before."""
        made = [Case(self.merger, self.config, self.inputs, self.params)]
        while len(made) < self.layers:
            merged = run_case(made[-1], "spec", DTYPE).result
            made.append(Case(self.merger, self.config, {"x": merged.tokens, "size": merged.size}, self.params))
        return made


def all_stages(x: Array) -> list[Stage]:
    """The mergers of the demo for tokens `(1,N,C)` of a square photograph, class token in front.

    ToMe removes the same number of tokens in every layer and measures similarity on the tokens themselves. ATS gets the
    attention of `features.attention`. No parameter is trained: PatchMerger's queries are k-means centres of the tokens,
    after its LayerNorm; LTM's weight is one constant for what a patch looks like and zero for where it is, and its
    prior mask is square windows.
    """
    _, tokens, dim = x.shape
    patches = tokens - 1
    side = round(patches**0.5)
    removed = {"r": patches // 8, "protected": 1}
    start = {"x": x, "size": np.ones((1, tokens), np.float32)}
    attn, value = features.attention(x)
    queries = features.centres(layer_norm(x[0, 1:], np.ones(dim, np.float32)), 8)
    own = {"queries": queries.astype(np.float32), "scale": np.ones(dim, np.float32), "bias": np.zeros(dim, np.float32)}
    across = max(2, side // 4)
    ratio = (across**2 - 0.5) / patches  # rounded up to across^2 tokens
    return [
        Stage("ToMe, 5 layers", "groups in mean colour", "tome", removed, start, layers=5),
        Stage("ToMe, 8 layers", "groups in mean colour", "tome", removed, start, layers=8),
        Stage(
            "ATS",
            "patches it keeps",
            "ats",
            {"max_tokens": patches // 8},
            {"x": x, "attn": attn, "value": value},
        ),
        Stage(
            "PatchMerger",
            "weights of four",
            "patch_merger",
            {"dim": dim, "num_tokens_out": 8, "logit_scale": 1.0},
            {"x": x},
            own,
        ),
        Stage(
            "LTM",
            "weights of four",
            "ltm",
            {"dim": dim, "compression_ratio": ratio, "protected": 1},
            {"x": x, "prior": features.windows(side, across, SMOOTHING)},
            {"weight": np.where(features.looks(), np.float32(200), np.float32(0))},
        ),
    ]
