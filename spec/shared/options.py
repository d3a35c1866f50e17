"""The options of every merger, as types; what they mean stands in `plan` of its file, defaults in its record."""

from typing import Required, TypedDict


class ToMeOptions(TypedDict, total=False):
    """Of `"tome"`: `r`, or `k` with `matching="kth"`."""

    r: int | None
    protected: int
    order: str
    matching: str
    k: int | None


class ATSOptions(TypedDict, total=False):
    """Of `"ats"`."""

    max_tokens: Required[int]
    score: str
    sampling: str


class PatchMergerOptions(TypedDict, total=False):
    """Of `"patch_merger"`."""

    dim: Required[int]
    num_tokens_out: Required[int]
    logit_scale: float | None
    normalize: bool
    use_bias: bool
    eps: float
    seed: int


class LTMOptions(TypedDict, total=False):
    """Of `"ltm"`."""

    dim: Required[int]
    compression_ratio: Required[float]
    protected: int
    prior_smoothing: float
