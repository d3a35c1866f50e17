"""lucidrains/vit-pytorch: its PatchMerger, and its adaptive token sampling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from tokenmerge.conformance.others.adapter import Adapter, Array, DiffersError, Entry, MissingError
from tokenmerge.conformance.vectors.vector import floats

TOKENS_ONLY = "it gives tokens, and no plan"


def adapters() -> Iterator[Adapter]:
    """Both of them.

    Raises:
        ImportError: the package is not installed.
    """
    merging, sampling = (import_module(f"vit_pytorch.{name}") for name in ("vit_with_patch_merger", "ats_vit"))
    yield Adapter(
        "vit-pytorch: PatchMerger",
        "vit-pytorch",
        "patch_merger",
        lambda case, inputs, params: _patch_merger(merging, case, inputs, params),
        without={
            "PM-4": "it takes no mask",
            "PM-5": "it draws the queries from PyTorch's own generator, and takes no seed",
            "PLAN-8": "it works in the dtype of the model",
            "CALL-8": "its parameters are those of a PyTorch module",
        },
    )
    yield Adapter(
        "vit-pytorch: AdaptiveTokenSampling",
        "vit-pytorch",
        "ats",
        lambda case, inputs, params: _ats(sampling, case, inputs),
        without={
            "ATS-2": "it has one score",
            "ATS-4": "it samples with Gumbel noise",
            "ATS-5": "it samples with Gumbel noise",
            "ATS-10": "it samples with Gumbel noise",
            "PLAN-8": "it works in the dtype of the model",
        },
        probes={
            "ATS-1": lambda: _per_head(sampling),
            "ATS-3": lambda: _no_scores(sampling),
            "ATS-8": lambda: _slots(sampling),
            "ATS-9": lambda: _class_row(sampling),
            "CALL-3": lambda: _noise_inside(sampling),
        },
    )


def _patch_merger(module: Any, case: Entry, inputs: dict[str, Array], params: dict[str, Array]) -> dict[str, Array]:
    import torch

    config = case["config"]
    if "mask" in inputs:
        raise MissingError("it takes no mask")
    if config["logit_scale"] is not None or not config["normalize"] or not config["use_bias"]:
        raise MissingError("its scale and its LayerNorm are fixed")
    made = module.PatchMerger(dim=config["dim"], num_tokens_out=config["num_tokens_out"])
    if config["eps"] != made.norm.eps:
        raise MissingError("its scale and its LayerNorm are fixed")
    with torch.no_grad():
        for name, own in (("queries", made.queries), ("scale", made.norm.weight), ("bias", made.norm.bias)):
            own.copy_(torch.from_numpy(params[name]))
        return {"tokens": made(torch.from_numpy(inputs["x"])).numpy()}


def _ats(module: Any, case: Entry, inputs: dict[str, Array]) -> dict[str, Array]:
    import torch

    config = case["config"]
    if config["sampling"] != "gumbel":
        raise MissingError("it samples with Gumbel noise")
    if config["score"] != "per_head":
        raise MissingError("it has one score")
    row = inputs["attn"]
    attention = row if row.ndim == 4 else np.repeat(row[:, :, None], row.shape[2], axis=2)
    mask = inputs.get("mask", np.ones(row.shape[::2][:1] + row.shape[-1:], bool))
    with torch.no_grad(), _given_noise(module, torch.from_numpy(inputs["noise"])):
        _, kept, indices = module.AdaptiveTokenSampling(config["max_tokens"])(
            torch.from_numpy(attention), torch.from_numpy(inputs["value"]), torch.from_numpy(mask)
        )
    return {"indices": indices.numpy(), "mask": kept.numpy()}


@contextmanager
def _given_noise(module: Any, noise: Any) -> Iterator[None]:
    """Its noise is drawn by a function of the module, in whose place ours is put."""
    own = module.sample_gumbel
    module.sample_gumbel = lambda shape, *others, **options: noise.reshape(shape)
    try:
        yield
    finally:
        module.sample_gumbel = own


HEADS = floats([[[0, 8, 4, 2, 2], [0, 2, 2, 4, 8]]]) / 16
LENGTHS = floats([[[1, 1, 2, 0, 1], [1, 4, 1, 2, 1]]])[..., None]


def _drawn(module: Any, attn: Array, value: Array, noise: Array) -> list[int]:
    case: Entry = {"config": {"sampling": "gumbel", "score": "per_head", "max_tokens": noise.shape[1]}}
    kept: list[int] = _ats(module, case, {"attn": attn, "value": value, "noise": noise})["indices"][0].tolist()
    return kept


def _per_head(module: Any) -> None:
    # per head the scores are 16, 10, 8, 10 of 16; of all heads together 41, 13, 12, 14: there token 1 leads by more
    noise = floats([[[-0.8, 0.1, 0, 0]]])
    kept = _drawn(module, HEADS, LENGTHS, noise)
    if kept != [0, 2]:
        raise DiffersError(
            f"with heads that look at {HEADS[0].tolist()}, values of lengths {LENGTHS[0, :, :, 0].tolist()}"
            f" and the noise {noise[0, 0].tolist()} it keeps {kept}, and not [0, 2]"
        )


def _no_scores(module: Any) -> None:
    noise = floats([[[0, 0.5, 0, 0]]])
    kept = _drawn(module, HEADS, np.zeros_like(LENGTHS), noise)
    if kept != [0, 2]:
        raise DiffersError(f"with values of zero the noise {noise[0, 0].tolist()} keeps {kept}, and not [0, 2]")


def _slots(module: Any) -> None:
    noise = np.zeros((1, 3, 4), np.float32)
    noise[..., 1] = 64
    kept = _drawn(module, HEADS, LENGTHS, noise)
    if kept != [0, 2, 0, 0]:
        raise DiffersError(
            f"there are as many slots as the fullest sample needs: 3 draws of token 2 give {kept}, and not [0, 2, 0, 0]"
        )


def _class_row(module: Any) -> None:
    rng = np.random.default_rng(0)
    noise = rng.gumbel(size=(1, 3, 4)).astype(np.float32)
    whole = rng.random((1, 2, 5, 5)).astype(np.float32)
    whole[:, :, 0] = HEADS
    if _drawn(module, whole, LENGTHS, noise) != _drawn(module, HEADS, LENGTHS, noise):
        raise DiffersError("other rows of the attention change what is kept")


def _noise_inside(module: Any) -> None:
    import torch

    attention, value = torch.full((1, 1, 65, 65), 1 / 65), torch.ones(1, 1, 65, 1)
    made, mask = module.AdaptiveTokenSampling(4), torch.ones(1, 65, dtype=torch.bool)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        chosen = {tuple(made(attention, value, mask)[2].reshape(-1).tolist()) for _ in range(8)}
    if len(chosen) > 1:
        first, second = sorted(chosen)[:2]
        raise DiffersError(
            f"the noise is drawn inside: of 64 equal tokens two calls keep {list(first)} and {list(second)}"
        )
