"""What a patch costs that merges nothing: roles, hooks and all the looking, call by call in turn with the plain model.

    python tools/patch_overhead.py [rounds]

A ViT-Ti at batch 1, where a call is shortest. Prints the median of the ratios of neighbours.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import Any

import timm
import torch

from tokenmerge.backends.torch import patch


def seconds(model: Any, x: torch.Tensor) -> float:
    """One call."""
    begin = time.perf_counter()
    model(x)
    return time.perf_counter() - begin


def main(rounds: int) -> None:
    """Print the median ratio, and the time that it is a part of."""
    plain = timm.create_model("vit_tiny_patch16_224").eval()
    patched = timm.create_model("vit_tiny_patch16_224").eval()
    patch(patched, "tome", r=0)
    x = torch.randn(1, 3, 224, 224)
    ratios, calls = [], []
    with torch.inference_mode():
        for turn in range(rounds):
            pair = [plain, patched] if turn % 2 else [patched, plain]
            times = {id(model): seconds(model, x) for model in pair}
            ratios.append(times[id(patched)] / times[id(plain)])
            calls.append(times[id(plain)])
    print(f"plain {1e3 * median(calls):.2f} ms; patched and merging nothing: {100 * (median(ratios) - 1):+.2f} %")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
