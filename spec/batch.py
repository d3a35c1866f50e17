"""The reference behind the interface of a backend: `get_merger(..., backend="spec")`.

A loop over the samples and nothing else; it is what conformance compares with. A plan here is the tuple of the samples'
plans.

Rules:
    CALL-1: A bad argument raises TypeError or ValueError with one sentence, the same in every backend, before any
        work.
    CALL-2: Inputs are never modified.
    CALL-3: The same inputs give the same result: no state between calls and no hidden random numbers.
    CALL-4: A sample's result does not depend on the other samples; NaN or infinity in one never reaches another.
    CALL-5: Empty and tiny batches are legal where the maths is: empty in, empty out, no NaN, no crash.
    CALL-6: Gradients reach the tokens and the sizes with hard decisions held fixed, and go through soft weights.
    CALL-7: Compiled and eager calls decide alike, and a second call with the same shapes compiles nothing.
    CALL-8: Parameters have the same names in every backend and move between them; other names or shapes are refused
        and change nothing.
    CALL-9: How arrays lie in memory (views, steps, exchanged axes) makes no difference.
    CALL-10: Plans are data: they can be pickled, and what comes back works as before.
    CALL-11: Parameters go in and out as copies: who changes those arrays does not change the merger.
    CALL-12: Options have the same names, order and defaults in every backend.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.spec import plan as plans
from tokenmerge.spec.ats import plan as ats_plan  # names of rooms would promise functions of batches
from tokenmerge.spec.batch_merger import Merger, merged, plan_each
from tokenmerge.spec.batch_plain import plain
from tokenmerge.spec.batch_plan import BatchPlan, compose
from tokenmerge.spec.ltm import plan as ltm_plan
from tokenmerge.spec.mergers import MERGERS as DESCRIPTIONS
from tokenmerge.spec.patch_merger import inputs
from tokenmerge.spec.patch_merger import plan as patch_merger_plan
from tokenmerge.spec.precision import working_dtype
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.calls import Calls
from tokenmerge.spec.shared.initial import initial_queries
from tokenmerge.spec.shared.merged import Merged
from tokenmerge.spec.tome import plan as tome_plan
from tokenmerge.spec.vit_batch import ViT

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray)

NAME = "spec"
VERSION = np.__version__
DTYPES = ("float16", "float32", "float64")
__all__ = ["ATS", "DTYPES", "LTM", "MERGERS", "NAME", "VERSION", "BatchPlan", "PatchMerger", "ToMe", "ViT", "compose"]


class ToMe(Merger):
    """`tokenmerge.spec.tome` for a batch."""

    NAME = "tome"

    def __init__(
        self,
        r: int | None = None,
        protected: int = 0,
        order: str = "grouped",
        matching: str = "bipartite",
        k: int | None = None,
    ) -> None:
        r, protected, k = arguments.check_tome(r, protected, order, matching, k)
        self.options: dict[str, Any] = {"r": r, "protected": protected, "order": order, "matching": matching, "k": k}

    def plan(self, metric: Array, *, mask: Array | None = None, permutation: Array | None = None) -> BatchPlan:
        check.tome(metric, mask, permutation, self.options["matching"], self.options["protected"])

        def one(metric: Array, mask: Array | None, permutation: Array | None) -> plans.Plan:
            return tome_plan(metric, mask=mask, permutation=permutation, **self.options)

        return plan_each(one, metric, mask, permutation)

    def __call__(
        self,
        x: Array,
        *,
        metric: Array | None = None,
        size: Array | None = None,
        mask: Array | None = None,
        permutation: Array | None = None,
    ) -> Merged:
        check.tokens("tome", x, size, ("metric", metric, "N D"))
        plan = self.plan(x if metric is None else metric, mask=mask, permutation=permutation)
        return merged(plan, x, size, plan.mask)


class ATS(Merger):
    """`tokenmerge.spec.ats` for a batch."""

    NAME = "ats"

    def __init__(self, max_tokens: int, score: str = "per_head", sampling: str = "inverse_transform") -> None:
        max_tokens = arguments.check_ats(max_tokens, score, sampling)
        self.options: dict[str, Any] = {"max_tokens": max_tokens, "score": score, "sampling": sampling}

    def plan(
        self,
        attn: Array,
        value: Array,
        *,
        mask: Array | None = None,
        uniforms: Array | None = None,
        noise: Array | None = None,
    ) -> BatchPlan:
        check.ats(attn, value, mask, uniforms, noise, self.options["max_tokens"], self.options["sampling"])

        def one(attn: Array, value: Array, mask: Array | None, u: Array | None, g: Array | None) -> plans.Plan:
            return ats_plan(attn, value, mask=mask, uniforms=u, noise=g, **self.options)

        return plan_each(one, attn, value, mask, uniforms, noise)

    def __call__(
        self,
        x: Array,
        *,
        attn: Array,
        value: Array,
        size: Array | None = None,
        mask: Array | None = None,
        uniforms: Array | None = None,
        noise: Array | None = None,
    ) -> Merged:
        check.tokens("ats", x, size, ("value", value, "H N d"))
        plan = self.plan(attn, value, mask=mask, uniforms=uniforms, noise=noise)
        return merged(plan, x, size, plan.mask)


class PatchMerger(Merger):
    """`tokenmerge.spec.patch_merger` for a batch."""

    NAME = "patch_merger"
    PARAMETERS = ("queries", "scale", "bias")

    def __init__(
        self,
        dim: int,
        num_tokens_out: int,
        logit_scale: float | None = None,
        normalize: bool = True,
        use_bias: bool = True,
        eps: float = 1e-5,
        seed: int = 0,
    ) -> None:
        arguments.check_patch_merger(dim, num_tokens_out, logit_scale, eps, seed, normalize, use_bias)
        self.dim, self.logit_scale, self.normalize, self.eps = dim, logit_scale, normalize, eps
        self.queries = initial_queries(num_tokens_out, dim, seed)
        self.scale = np.ones(dim, np.float32)
        self.bias = np.zeros(dim, np.float32) if use_bias else None

    def plan(self, x: Array, *, mask: Array | None = None) -> BatchPlan:
        check.tokens("patch_merger", x, None, C=self.dim)
        check.patch_merger(x, self.queries, self.scale, self.bias, mask)

        def one(x: Array, mask: Array | None) -> plans.Plan:
            return patch_merger_plan(
                x,
                queries=self.queries,
                scale=self.scale,
                bias=self.bias,
                logit_scale=self.logit_scale,
                normalize=self.normalize,
                eps=self.eps,
                mask=mask,
            )

        return plan_each(one, x, mask)

    def __call__(self, x: Array, *, size: Array | None = None, mask: Array | None = None) -> Merged:
        check.tokens("patch_merger", x, size, C=self.dim)
        plan = self.plan(x, mask=mask)
        normalized = np.zeros(x.shape, working_dtype(x.dtype))
        for i, tokens in enumerate(x):
            own_mask = None if mask is None else mask[i]
            normalized[i] = inputs(tokens, self.scale, self.bias, self.normalize, self.eps, own_mask)
        made = merged(plan, normalized, size, None)
        return made._replace(tokens=made.tokens.astype(x.dtype))


class LTM(Merger):
    """`tokenmerge.spec.ltm` for a batch."""

    NAME = "ltm"
    PARAMETERS = ("weight",)

    def __init__(self, dim: int, compression_ratio: float, protected: int = 0, prior_smoothing: float = 0.1) -> None:
        protected = arguments.check_ltm(dim, compression_ratio, protected, prior_smoothing)
        self.dim = dim
        self.options: dict[str, Any] = {
            "compression_ratio": compression_ratio,
            "protected": protected,
            "prior_smoothing": prior_smoothing,
        }
        self.weight = np.zeros(dim, np.float32)

    def plan(self, x: Array, *, prior: Array | None = None, mask: Array | None = None) -> BatchPlan:
        check.tokens("ltm", x, None, C=self.dim)
        check.ltm(x, self.weight, prior, mask, self.options["compression_ratio"], self.options["protected"])
        if prior is not None and prior.ndim == 2:
            prior = np.broadcast_to(prior, (len(x), *prior.shape))

        def one(x: Array, prior: Array | None, mask: Array | None) -> plans.Plan:
            return ltm_plan(x, weight=self.weight, prior=prior, mask=mask, **self.options)

        return plan_each(one, x, prior, mask)

    def __call__(
        self, x: Array, *, size: Array | None = None, prior: Array | None = None, mask: Array | None = None
    ) -> Merged:
        check.tokens("ltm", x, size, C=self.dim)
        plan = self.plan(x, prior=prior, mask=mask)
        return merged(plan, x, size, plan.mask)


MERGERS: dict[str, Any] = {
    **{name: plain(description) for name, description in DESCRIPTIONS.items()},
    **{made.NAME: made for made in (ToMe, ATS, PatchMerger, LTM)},
}


def devices() -> tuple[str, ...]:
    """Where arrays of this backend can live."""
    return ("cpu",)


def from_numpy(array: Array, dtype: str | None = None, device: str | None = None) -> Array:
    """An array of this backend, in its dtype or in one of `DTYPES`."""
    arguments.check_source_array(array, dtype, device, DTYPES, devices)
    return array if dtype is None else array.astype(dtype)


def to_numpy(array: Array) -> Array:
    """A NumPy array of the same values."""
    check.to_numpy(array)
    return array
