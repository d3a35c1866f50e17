"""Multiply-adds of the paper's LTM networks: `python tools/ltm_costs.py` writes their table into docs/ltm.md.

Counted by `torch.utils.flop_counter` on timm's models, at the resolution at which the plain ones cost what the paper
says: convolutions and linear maps, as in the paper's table, which leaves products of attention out. Products of making
the mask, merging and unmerging come from the plans that were made: `4 n P' C` for a sample, 3 in the stream. Time is
that of one image on one thread of this CPU, plain and patched by turns.
"""

from __future__ import annotations

import copy
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenmerge.backends.torch import patch

PAGE = Path(__file__).parents[1] / "docs" / "ltm.md"
BLOCK = re.compile(r"(<!-- costs -->\n).*?(<!-- /costs -->)", re.DOTALL)
LAYERS = ("convolution", "addmm", "mm")  # and no products of attention
TURNS = 7  # of the plain network and the patched one


class Row(NamedTuple):
    """A network of the paper: its name in timm, the side of an image, published 1e9 multiply-adds, places to try."""

    title: str
    model: str
    side: int
    plain: float
    merged: float
    places: tuple[str | None, ...]


ROWS = (
    Row("MobileViT-XS", "mobilevit_xs", 224, 0.70, 0.52, ("mlp", "block")),
    Row("MobileViT-S", "mobilevit_s", 224, 1.42, 1.17, ("mlp", "block")),
    Row("EfficientViT-B1, 224", "efficientvit_b1", 224, 0.52, 0.44, ("mlp",)),
    Row("EfficientViT-B1, 288", "efficientvit_b1", 288, 0.86, 0.70, ("mlp",)),
    Row("ViT-S", "vit_small_patch16_224", 224, 4.24, 3.7, ("mlp", None)),
    Row("ViT-B", "vit_base_patch16_224", 224, 17.6, 12.9, ("mlp",)),
    Row("Swin-T", "swin_tiny_patch4_window7_224", 224, 4.49, 3.8, ("mlp",)),
    Row("Swin-B", "swin_base_patch4_window7_224", 224, 15.4, 12.0, ("mlp",)),
)


class Cost(NamedTuple):
    """Multiply-adds of layers and of the mergers, in units of 1e9; parameters of the network and of its mergers."""

    layers: float
    merging: float
    parameters: int
    learned: int


def cost(row: Row, model: Any, ratio: float | None, place: str | None) -> Cost:
    """What a network costs for one image; `ratio` is None for the plain one."""
    images = torch.zeros(1, 3, row.side, row.side, device="meta")
    before = sum(value.numel() for value in model.parameters())
    handle = None if ratio is None else patch(model, "ltm", compression_ratio=ratio, around=place)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(images)
    counted = counter.get_flop_counts()["Global"]
    layers = sum(value for name, value in counted.items() if str(name).rpartition(".")[2] in LAYERS) / 2e9
    merging, learned = 0.0, 0
    if handle is not None:
        products = 4 if place else 3
        widths = [value.numel() for name, value in model.named_parameters() if ".merger." in name]
        for plan, width in zip(handle.plans, widths, strict=True):
            samples, slots, tokens = plan.matrix().shape
            merging += products * samples * slots * tokens * width / 1e9
        learned = sum(widths)
        handle.remove()
    return Cost(layers, merging, before, learned)


def reached(row: Row, model: Any, place: str | None, plain: float) -> tuple[float, Cost]:
    """The ratio, in hundredths, whose layers come nearest to what is published, and what it costs.

    Layers cost what their tokens do, around a branch in proportion: a line through two ratios finds the third.
    """
    wanted = plain * row.merged / row.plain
    low, high = 1, 100
    tried = {low: cost(row, model, low / 100, place)}
    known = {low: tried[low].layers, high: plain}
    while known[low] < wanted and high - low > 1:
        between = low + (wanted - known[low]) / (known[high] - known[low]) * (high - low)
        guess = min(max(round(between), low + 1), high - 1)
        tried[guess] = cost(row, model, guess / 100, place)
        known[guess] = tried[guess].layers
        low, high = (guess, high) if known[guess] < wanted else (low, guess)
    best = min(tried, key=lambda ratio: abs(tried[ratio].layers - wanted))
    return best / 100, tried[best]


def times(row: Row, options: dict[str, Any], ratio: float, place: str | None) -> Any:
    """How often the plain network's time the patched one takes: quartiles over the turns."""
    torch.set_num_threads(1)
    plain = timm.create_model(row.model, **options).eval()
    patched = copy.deepcopy(plain)
    patch(patched, "ltm", compression_ratio=ratio, around=place)
    images = torch.zeros(1, 3, row.side, row.side)

    def seconds(model: Any) -> float:
        start = time.perf_counter()
        model(images)
        return time.perf_counter() - start

    with torch.no_grad():
        plain(images), patched(images)
        ratios = [seconds(patched) / seconds(plain) for _ in range(TURNS)]
    return np.quantile(ratios, (0.25, 0.5, 0.75))


def lines() -> Iterator[str]:
    """The table."""
    heads = ("network", "published, G", "around", "ratio", "plain, G", "layers, G", "mask to unmerging, G")
    yield f"| {' | '.join(heads)} | more parameters | time, × plain (quartiles) |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in ROWS:
        options = {"img_size": row.side} if row.model.startswith(("vit", "swin")) else {}
        with torch.device("meta"):  # shapes are all that is counted
            model = timm.create_model(row.model, **options).eval()
        plain = cost(row, model, None, None)
        wanted = plain.layers * row.merged / row.plain
        for place in row.places:
            ratio, made = reached(row, model, place, plain.layers)
            lies = abs(made.layers - wanted) <= 0.03 * plain.layers
            said = f"{ratio:.2f}" if lies else f"none; at {ratio:.2f}"
            more = f"{100 * made.learned / made.parameters:.2f} %"
            low, middle, high = times(row, options, ratio, place)
            yield (
                f"| {row.title} | {row.merged} of {row.plain} | {place or 'stream'} | {said} | {plain.layers:.2f} | "
                f"{made.layers:.2f} | {made.merging:.2f} | {more} | {middle:.2f} ({low:.2f} to {high:.2f}) |"
            )


def main() -> int:
    text = PAGE.read_text()
    made = ""
    for line in lines():
        print(line, flush=True)
        made += line + "\n"
    if "--print" not in sys.argv:
        PAGE.write_text(BLOCK.sub(lambda found: found[1] + made + found[2], text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
