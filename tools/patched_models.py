"""A timm model before and after `patch`, eager and as a CUDA graph, on a GPU (docs/performance.md).

    python tools/patched_models.py [MODEL [DTYPE BATCH R]]

Milliseconds of a forward pass, median. Every graph's result is compared with that of the eager call, bit by bit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import timm
import torch

from tokenmerge.backends.torch import patch

Tensor = torch.Tensor
MERGERS: dict[str, dict[str, Any]] = {
    "tome": {"r": 16},
    "ats": {"max_tokens": (10**4,) * 3 + (96,) * 3 + (48,) * 6},
    "patch_merger": {"num_tokens_out": 8},
}
RUNS = ((torch.bfloat16, 64, MERGERS), (torch.bfloat16, 256, MERGERS), (torch.float32, 64, MERGERS))


def milliseconds(call: Callable[[], Any]) -> float:
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    taken = []
    for _ in range(12):
        start = perf_counter()
        call()
        torch.cuda.synchronize()
        taken.append(perf_counter() - start)
    return median(taken) * 1e3


def graph_of(call: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # compiles and allocates what is made once, which no capture may
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    return graph, out


def main(name: str = "vit_base_patch16_224", *run: str) -> None:
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}, timm {timm.__version__}, {name}")
    runs: Any = [(getattr(torch, run[0]), int(run[1]), {"tome": {"r": int(run[2])}})] if run else RUNS
    width = timm.get_pretrained_cfg(name).input_size[-1]
    for dtype, batch, mergers in runs:
        images = torch.randn(batch, 3, width, width, device="cuda", dtype=dtype)
        for merger, options in mergers.items():
            # PatchMerger leaves no class token
            pooling = {"class_token": False, "global_pool": "avg"} if merger == "patch_merger" else {}
            model = timm.create_model(name, **pooling).to("cuda", dtype).eval()
            call = partial(model, images)
            plain, plain_graph = milliseconds(call), milliseconds(graph_of(call)[0].replay)
            with patch(model, merger, **options):
                wanted, eager = call(), milliseconds(call)
                graph, out = graph_of(call)
                captured = milliseconds(graph.replay)
            print(
                f"{str(dtype).removeprefix('torch.')} B={batch} {merger}: "
                f"eager {plain:.2f} to {eager:.2f} ({plain / eager:.2f} times), "
                f"graph {plain_graph:.2f} to {captured:.2f} ({plain_graph / captured:.2f} times), "
                f"{'the same' if torch.equal(out, wanted) else 'NOT the same'} in both",
                flush=True,
            )


if __name__ == "__main__":
    with torch.no_grad():
        main(*sys.argv[1:])
