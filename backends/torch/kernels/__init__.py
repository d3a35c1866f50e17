"""Triton kernels for ToMe on a GPU (docs/tome.md): match, rank, place, merge, attend; no matrix of pairs.

Everything else of the backend works without them. This package imports without Triton: the kernels proper, in
`device/`, are imported when one first runs. Whoever has a tensor asks `usable(tensor)` and then calls

    bipartite   ToMe's matching, from the metric to the slots: match, place, slots
    match       the most similar token of another set, for every token
    place       the place of every value in the ranking, without a sort
    slots       output slots of a bipartite matching
    merge       the size-weighted mean and the total size of every slot, in one pass over the tokens
    merge_normalized   the same and a LayerNorm of it, for a block of a transformer
    attention   proportional attention in half precision, with the logarithm of the sizes in float32 (ask `attends`)

All but `place` and `slots`, the parts of `bipartite`, are operators of PyTorch (`torch.ops.tokenmerge`): they compile
without a graph break, map over another axis (`torch.vmap`), wait for no device and so go into a CUDA graph, and add
numbers in an order that is always the same. `merge` and `attention` have gradients. With `TRITON_INTERPRET=1` in the
environment they run on the CPU, slowly, to be tested.
"""

from __future__ import annotations

from tokenmerge.backends.torch.kernels.attention import attends, attention
from tokenmerge.backends.torch.kernels.bipartite import bipartite
from tokenmerge.backends.torch.kernels.matching import match
from tokenmerge.backends.torch.kernels.merging import merge, merge_normalized
from tokenmerge.backends.torch.kernels.placement import slots
from tokenmerge.backends.torch.kernels.selection import place
from tokenmerge.backends.torch.kernels.support import available, in_use, interpreted, usable

__all__ = [
    "attends",
    "attention",
    "available",
    "bipartite",
    "in_use",
    "interpreted",
    "match",
    "merge",
    "merge_normalized",
    "place",
    "slots",
    "usable",
]
