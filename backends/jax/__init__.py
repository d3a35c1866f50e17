"""The JAX backend: the semantics of `tokenmerge.spec` as pure functions, pytrees and Flax NNX modules."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenmerge.backends.jax import ats, attention, information_bottleneck, ltm, patch_merger, plan, pooling, tome, vit
from tokenmerge.backends.jax.ats import ATS
from tokenmerge.backends.jax.bottleneck_tracker import BottleneckTracker
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.ltm import LTM
from tokenmerge.backends.jax.mergers import MERGERS
from tokenmerge.backends.jax.patch_merger import PatchMerger
from tokenmerge.backends.jax.patching import patch, with_plans
from tokenmerge.backends.jax.plan import DensePlan, PartitionPlan, SelectionPlan, compose
from tokenmerge.backends.jax.tome import ToMe
from tokenmerge.backends.jax.vit_module import ViT
from tokenmerge.spec.shared.arguments import check_source_array

NAME = "jax"
VERSION = jax.__version__
DTYPES = ("float16", "bfloat16", "float32", "float64")  # float64 where JAX's x64 mode is on, see `context`


def devices() -> tuple[str, ...]:
    """Where arrays of this backend can live: the platforms that JAX finds, its default first."""
    platforms = [device.platform for device in jax.devices()]
    try:
        platforms += [device.platform for device in jax.devices("cpu")]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        pass
    return tuple(dict.fromkeys(platforms))


def from_numpy(array: np.ndarray[Any, Any], dtype: str | None = None, device: str | None = None) -> jax.Array:
    """An array of this backend, in its dtype or in one of `DTYPES`."""
    check_source_array(array, dtype, device, DTYPES, devices)
    kind = array.dtype.newbyteorder("=") if dtype is None else jnp.dtype(dtype)
    values = np.array(array, dtype=kind)  # JAX would compile this cast
    return jax.device_put(values, None if device is None else jax.devices(device)[0])


def to_numpy(array: jax.Array) -> np.ndarray[Any, Any]:
    """A NumPy array of the same values; bfloat16, which NumPy does not have, becomes float32."""
    check.to_numpy(array)
    values = np.asarray(array)  # JAX would compile the cast, for every shape
    return values.astype(np.float32) if array.dtype == jnp.bfloat16 else values


# For the conformance suite: what JAX adds to the interface.

COMPILES = True  # once per shape and option: the conformance suite then draws few of them


def gradient(function: Callable[..., jax.Array], *arrays: jax.Array) -> list[jax.Array]:
    """The gradients of the scalar `function(*arrays)` with respect to every array."""
    return list(jax.grad(function, argnums=tuple(range(len(arrays))))(*arrays))


def run(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as people run it: compiled."""
    return jax.jit(function)


def compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled."""
    return jax.jit(function)


def vmap(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function over a further leading axis of every argument."""
    return jax.vmap(function)


def forget() -> None:
    """Drop every compiled program. Each is several memory maps, of which Linux lets a process have 65,530."""
    jax.clear_caches()  # type: ignore[no-untyped-call]


def context(dtype: str) -> AbstractContextManager[Any]:
    """A context in which arrays of this dtype can be made: x64 mode for "float64"."""
    if dtype != "float64":
        return nullcontext()
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # type: ignore[attr-defined]  # older JAX

    return enable_x64()


__all__ = [
    "ATS",
    "COMPILES",
    "DTYPES",
    "LTM",
    "MERGERS",
    "NAME",
    "VERSION",
    "BottleneckTracker",
    "DensePlan",
    "PartitionPlan",
    "PatchMerger",
    "SelectionPlan",
    "ToMe",
    "ViT",
    "ats",
    "attention",
    "compile",
    "compose",
    "context",
    "devices",
    "forget",
    "from_numpy",
    "gradient",
    "information_bottleneck",
    "ltm",
    "patch",
    "patch_merger",
    "plan",
    "pooling",
    "run",
    "to_numpy",
    "tome",
    "vit",
    "vmap",
    "with_plans",
]
