"""CPU-seconds that JAX takes to compile a network with a merger, and without: `python tools/jax_compile_time.py`.

All are as `get_vit` makes them, with every block written out. Of the unmerged network XLA for the CPU compiles one
block, since it makes a kernel only once; blocks of different numbers of tokens have no kernel in common.
"""

from __future__ import annotations

import time
from typing import Any

import jax

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, merge_schedule
from tokenmerge.backends.jax.vit import vit
from tokenmerge.spec.shared.vit_parameters import parameter_shapes

MERGING: dict[str, Any] = {
    "none": None,
    "ToMe r=16": ToMeMerging(r=16),
    "ToMe, stairs": ToMeMerging(r=list(merge_schedule(16, 12, steps=4))),
    "PatchMerger": PatchMergerMerging(),
    "LTM 0.8": LTMMerging(0.8),
    "ATS": ATSMerging(tuple(range(180, 0, -15))),
}


def compile_seconds(merging: Any) -> tuple[float, float]:
    """CPU-seconds of tracing and of compiling a ViT-B's forward pass on eight images, in an empty cache."""
    pool = "mean" if isinstance(merging, PatchMergerMerging) else "class"
    config = ViTConfig(pool=pool, merging=merging)
    params = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in parameter_shapes(config).items()}
    images = jax.ShapeDtypeStruct((8, 224, 224, 3), "float32")
    jax.clear_caches()
    start = time.process_time()
    lowered = jax.jit(vit, static_argnames="config").lower(images, params, config)
    traced = time.process_time()
    lowered.compile()
    return traced - start, time.process_time() - traced


def main() -> None:
    """The table, with each figure as a multiple of the unmerged network's."""
    jax.config.update("jax_enable_compilation_cache", False)
    compile_seconds(None)  # what is loaded once
    plain = None
    for name, merging in MERGING.items():
        trace, compiled = compile_seconds(merging)
        plain = plain or trace + compiled
        total = trace + compiled
        print(f"{name:12} trace {trace:5.2f}  compile {compiled:5.2f}  together {total:5.2f}  {total / plain:4.1f} x")


if __name__ == "__main__":
    main()
