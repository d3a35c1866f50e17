"""The trained digits network with every merger at several rates, in every backend, image by image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenmerge.backends.doors import get_vit
from tokenmerge.backends.registry import channels_first, get_backend, own_way
from tokenmerge.digits.data import Split
from tokenmerge.digits.network import digits_config
from tokenmerge.spec.ats import ATSMerging
from tokenmerge.spec.ltm import LTMMerging
from tokenmerge.spec.patch_merger import PatchMergerMerging
from tokenmerge.spec.shared.description import Merging
from tokenmerge.spec.shared.flops import flops
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_steps import steps
from tokenmerge.spec.tome import ToMeMerging

Array = np.ndarray[Any, Any]
BATCH = 60  # a divisor of the test images: one shape, one compilation
DRAWS = 16  # networks that differ by rounding, for the certificate of a near-tie

RATES: dict[str, tuple[Merging, ...]] = {
    "none": (),
    "tome": tuple(ToMeMerging(r=r) for r in (2, 4, 6, 8, 10)),
    "ats": tuple(ATSMerging(k) for k in (48, 32, 24, 16, 8)),
    "patch_merger": tuple(PatchMergerMerging(num_tokens_out=m) for m in (32, 16, 8, 4)),
    "ltm": tuple(LTMMerging(compression_ratio=rho, around=None) for rho in (0.9, 0.8, 0.7, 0.6)),
}


def label(merging: Merging) -> str:
    """How much a merging merges, as printed.

    >>> label(ToMeMerging(r=8))
    'r = 8'
    """
    value = merging.knob
    return f"{merging.DESCRIPTION.symbol} = {value[0] if isinstance(value, tuple) else value}"


@dataclass(frozen=True)
class Row:
    """One merger at one rate in one backend.

    Attributes:
        merger, rate: which, as printed; trained: "off the shelf" or "fine-tuned".
        backend: the backend.
        accuracy: share of the test images; gflops: multiply-adds of one image, in units of 1e9.
        tokens: tokens after the last block.
        images_per_second: median of three passes over the test images, warm.
        differ: images whose prediction differs from the first backend's.
        near_ties: those of them that are certified to be near-ties.
    """

    merger: str
    rate: str
    trained: str
    backend: str
    accuracy: float
    gflops: float
    tokens: int
    images_per_second: float
    differ: int
    near_ties: int


def cases(mergers: tuple[str, ...] = tuple(RATES)) -> Iterator[tuple[str, str, Merging | None]]:
    """Merger, rate as printed, and configuration."""
    for name in mergers:
        if name == "none":
            yield "none", "", None
        for merging in RATES[name]:
            yield name, label(merging), merging


def evaluate(
    data: Split,
    params: Mapping[str, Array],
    merger: str,
    rate: str,
    merging: Merging | None,
    backends: tuple[str, ...],
    trained: str = "off the shelf",
) -> list[Row]:
    """Run one configuration over all images in every backend.

    Args:
        data: the test images; params: parameters of the digits network.
        merger, rate, trained: for the row; merging: the configuration.
        backends: names; the first is the one that the others are compared with.
    """
    config = digits_config(merging)
    rows: list[Row] = []
    first: Array | None = None
    for backend in backends:
        logits, speed = _run(config, params, data.images, backend)
        guess = logits.argmax(axis=1)
        first = guess if first is None else first
        differ = np.flatnonzero(guess != first)
        near = near_ties(config, params, data.images[differ], guess[differ], first[differ]) if len(differ) else 0
        accuracy = float((guess == data.labels).mean())
        tokens = steps(config)[-1].tokens_out
        gflops = flops(config).total / 1e9
        rows.append(Row(merger, rate, trained, backend, accuracy, gflops, tokens, speed, len(differ), near))
    return rows


def near_ties(config: ViTConfig, params: Mapping[str, Array], images: Array, one: Array, other: Array) -> int:
    """How many images the network itself cannot decide between two predictions at the resolution of float32.

    The network is run in float64 with its parameters moved by up to one rounding error of float32 (a relative step of
    at most 2**-24 each, drawn DRAWS times). An image is a near-tie if both predictions occur.
    """
    reference = get_vit(config, backend="numpy")
    generator = np.random.default_rng(0)
    seen = []
    for _ in range(DRAWS):
        moved = {
            name: value.astype(np.float64) * (1 + generator.uniform(-(2.0**-24), 2.0**-24, value.shape))
            for name, value in params.items()
        }
        reference.load_params(moved)
        seen.append(reference(images.astype(np.float64)).logits.argmax(axis=1))
    guesses = np.array(seen)
    return int(((guesses == one).any(axis=0) & (guesses == other).any(axis=0)).sum())


def _run(config: ViTConfig, params: Mapping[str, Array], images: Array, backend: str) -> tuple[Array, float]:
    """Logits of all images, and images per second."""
    call = _caller(config, params, backend)
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    call(batches[0])  # compile, allocate
    seconds, logits = [], np.zeros(0)
    for _ in range(3):
        start = time.perf_counter()
        logits = np.concatenate([call(batch) for batch in batches])
        seconds.append(time.perf_counter() - start)
    return logits, len(images) / float(np.median(seconds))


def _caller(config: ViTConfig, params: Mapping[str, Array], backend: str) -> Callable[[Array], Array]:
    """The network of one backend as a function of NumPy images `(B, height, width, channels)`."""
    module = get_backend(backend)
    model = get_vit(config, backend=backend)
    model.load_params(params)
    if hasattr(model, "eval"):
        model.eval()
    run = own_way(module)(lambda images: model(images).logits)
    order = (0, 3, 1, 2) if channels_first(module) else (0, 1, 2, 3)
    return lambda images: np.asarray(module.to_numpy(run(module.from_numpy(images.transpose(order)))))
