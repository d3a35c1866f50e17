"""StableHLO, from the JAX backend by `jax.export`: one file for CPUs, CUDA and TPUs. For our own networks only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tokenmerge.deploy.formats import Array, Run

PLATFORMS = ("cpu", "cuda", "tpu")


def write(model: Any, example: Any, out: Path, *, any_batch: bool, **_: Any) -> int:
    """The network of `model`, with its parameters as constants, for images with channels first."""
    import jax
    import jax.numpy as jnp
    from jax import export

    from tokenmerge.backends.jax.vit import vit

    network = model.model
    params = {name: jnp.asarray(value) for name, value in network.params().items()}

    def call(images: jax.Array) -> tuple[jax.Array, ...]:
        output = vit(jnp.moveaxis(images, 1, 3), params, network.config)
        return (output.logits, _encoded(output.plan)) if model.with_plans else (output.logits,)

    channels, height, width = example.shape[1:]
    any_number = export.symbolic_shape(f"batch, {channels}, {height}, {width}")
    make: Any = jax.ShapeDtypeStruct
    images = make(any_number if any_batch else tuple(example.shape), np.dtype("float32"))
    exported = export.export(jax.jit(call), platforms=PLATFORMS)(images)
    out.write_bytes(exported.serialize())
    return exported.mlir_module().count(" stablehlo.")


def _encoded(plan: Any) -> Any:
    """The array that a composed plan is made of."""
    return next(getattr(plan, name) for name in ("assignment", "weights", "indices") if hasattr(plan, name))


def load(file: Path, threads: int | None = None) -> Run:
    """By JAX, on its default device."""
    import jax
    from jax import export

    exported = export.deserialize(bytearray(file.read_bytes()))
    call = jax.jit(exported.call)

    def run(images: Array) -> list[Array]:
        return [np.asarray(each) for each in call(images)]

    return run
