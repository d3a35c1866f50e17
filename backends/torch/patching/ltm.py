"""LTM in a model's own blocks (docs/ltm.md): a mask from the residual stream, between attention and MLP."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.ltm import LTM, chain
from tokenmerge.backends.torch.merger import Merger
from tokenmerge.backends.torch.patching.families import Network
from tokenmerge.backends.torch.patching.method import Method, check_around, check_prefix
from tokenmerge.backends.torch.patching.state import Call
from tokenmerge.backends.torch.plan import DensePlan
from tokenmerge.spec.shared.schedule import ltm_tokens_out

Tensor = torch.Tensor


class LTMPatch(Method):
    """An `LTM` in every block, as its part `merger`; its mask goes on to the next block where the shapes repeat.

    Args:
        network: what is patched.
        compression_ratio: rho in (0, 1].
        protected: leading tokens that are copied; None for the network's class, distillation and register tokens.
        prior_smoothing: epsilon in [0, 1].
        around: "mlp" (the default), "block", or None for the stream.

    Raises:
        TypeError, ValueError: an option of the wrong type or range.
    """

    NAME = "ltm"
    OPTIONS = ("compression_ratio", "protected", "prior_smoothing", "around")
    NEEDED = ("compression_ratio",)
    AROUND = "mlp"
    chained = True

    def __init__(
        self,
        network: Network,
        *,
        compression_ratio: float,
        protected: int | None = None,
        prior_smoothing: float = 0.1,
        around: str | None = "default",
    ) -> None:
        self.around = check_around(around, self.AROUND)
        self.reads_between = self.around != "block"
        self.protected = check_prefix(protected, network)
        self._blocks, self._dim = range(len(network.blocks)), network.dim
        LTM(network.dim, compression_ratio, self.protected, prior_smoothing)  # checks the options
        self._compression_ratio, self._prior_smoothing = str(float(compression_ratio)), str(float(prior_smoothing))

    def modules(self) -> dict[int, Merger]:
        ratio, smoothing = float(self._compression_ratio), float(self._prior_smoothing)
        return {block: LTM(self._dim, ratio, self.protected, smoothing) for block in self._blocks}

    def expects(self, call: Call, num_tokens: int) -> bool:
        return self.reads_between

    def between(self, call: Call, x: Tensor) -> Tensor | None:
        return self.merge(call, self.plan_of_input(call, x), x)

    def plan_of_input(self, call: Call, x: Tensor) -> DensePlan:
        merger = call.block.merger
        assert isinstance(merger, LTM)
        patches = x.shape[1] - merger.protected
        shape = (patches, ltm_tokens_out(patches, merger.compression_ratio))
        prior = call.prior if call.prior is not None and call.prior.shape[1:] == shape else None
        plan = merger.plan(x, prior=prior, mask=call.mask)
        assert isinstance(plan, DensePlan)
        call.prior = chain(plan, merger.protected)
        return plan
