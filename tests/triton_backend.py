"""The PyTorch backend with ToMe's bipartite matching and merging by the Triton kernels, for the conformance suite.

Run with `TRITON_INTERPRET=1`, it judges the kernels alone, whatever the backend itself chooses to use.
"""

from __future__ import annotations

from typing import Any

import torch

from tokenmerge.backends.torch import *  # noqa: F403
from tokenmerge.backends.torch import MERGERS as PLAIN
from tokenmerge.backends.torch import PartitionPlan, kernels
from tokenmerge.backends.torch import ToMe as PlainToMe
from tokenmerge.backends.torch.plan import check, gather_rows
from tokenmerge.backends.torch.precision import working_dtype
from tokenmerge.backends.torch.ties import true_first
from tokenmerge.spec.merged import Merged
from tokenmerge.spec.schedule import tokens_removed

Tensor = torch.Tensor


class ToMe(PlainToMe):
    """`matching="bipartite"` by the kernels; the others choose their slots the plain way."""

    def plan(self, metric: Tensor, *, mask: Tensor | None = None, permutation: Tensor | None = None) -> PartitionPlan:
        r, n = self.r or 0, metric.shape[1] if metric.ndim == 3 else 0
        if self.matching != "bipartite" or tokens_removed(n, r, self.protected) < 1:
            return super().plan(metric, mask=mask, permutation=permutation)
        check.tome(metric, mask, permutation, self.matching, self.protected)
        assert kernels.usable(metric)
        width = n - tokens_removed(n, r, self.protected)
        if mask is None:
            return PartitionPlan(kernels.bipartite(metric, None, r, self.protected, self.order)[0], width)
        metric, count = gather_rows(metric, true_first(mask)), mask.sum(dim=1, keepdim=True)
        slots, used = kernels.bipartite(metric, count, r, self.protected, self.order)
        place = (torch.cumsum(mask, dim=1) - 1).clamp(min=0)
        assignment = torch.where(mask, slots.gather(1, place), -1)
        return PartitionPlan(assignment, width, torch.arange(width, device=metric.device) < used)

    def forward(self, x: Tensor, *, metric: Tensor | None = None, size: Tensor | None = None, **given: Any) -> Merged:
        check.tokens("tome", x, size, ("metric", metric, "N D"))
        made = self.plan(x if metric is None else metric, **given)
        size = x.new_ones(x.shape[:2], dtype=working_dtype(x)) if size is None else size
        tokens, sizes = kernels.merge(x, size, made.assignment, made.num_tokens_out)
        return Merged(tokens, sizes, made.mask, made)


NAME = "torch, kernels"
MERGERS = PLAIN | {"tome": ToMe}
