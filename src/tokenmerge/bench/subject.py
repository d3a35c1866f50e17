"""A backend on a device in a dtype: arrays for it, and calls that return when the result is there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from tokenmerge.backends import get_backend
from tokenmerge.bench.row import Call
from tokenmerge.bench.timing import best

LONG_ENOUGH = 0.002  # seconds


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Args:
        name: "numpy", "torch" or "jax"; device: one of its devices, or None for its default; dtype: one of its dtypes.
        graph: whether calls of PyTorch on CUDA are captured in a CUDA graph, so that only the device's time counts.
    """

    name: str
    device: str | None = None
    dtype: str = "float32"
    graph: bool = False

    @property
    def backend(self) -> ModuleType:
        return get_backend(self.name)

    @property
    def where(self) -> str:
        return self.device or self.backend.devices()[0]

    @property
    def itemsize(self) -> int:
        return {"float64": 8, "float32": 4}.get(self.dtype, 2)

    def array(self, shape: tuple[int, ...], seed: int = 0, dtype: str | None = None) -> Any:
        """Standard normal numbers."""
        values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        return self.given(values, dtype or self.dtype)

    def given(self, values: Any, dtype: str | None = None) -> Any:
        """An array of these values."""
        return self.backend.from_numpy(np.asarray(values), dtype, self.device)

    def placed(self, merger: Any) -> Any:
        """A merger with its parameters where the arrays are."""
        return merger.to(self.where) if self.name == "torch" else merger

    def call(self, function: Callable[..., Any], *arrays: Any) -> Call:
        """`function(*arrays)` as users run it: without gradients in PyTorch, compiled in JAX.

        Plans may go in and out.
        """
        if self.name == "jax":
            import jax

            compiled = jax.jit(function)
            wait: Any = jax.block_until_ready
            return lambda: wait(compiled(*arrays))
        if self.name == "torch":
            return self._torch(function, arrays)
        return lambda: function(*arrays)

    def quiet(self) -> AbstractContextManager[Any]:
        """A context in which nothing is recorded for gradients."""
        if self.name != "torch":
            return nullcontext()
        import torch

        return torch.inference_mode()

    def _torch(self, function: Callable[..., Any], arrays: tuple[Any, ...]) -> Call:
        import torch

        on_cuda = self.where.startswith("cuda")
        times = 1
        if on_cuda and self.graph:
            with torch.inference_mode():
                function = _captured(function, arrays)

        def run() -> Any:
            with torch.inference_mode():
                for _ in range(times):
                    out = function(*arrays)
            if on_cuda:
                torch.cuda.synchronize()
            return out

        if on_cuda and self.graph:  # so often that waiting for the device does not count
            times = max(1, int(LONG_ENOUGH / best(run, LONG_ENOUGH)))
            run.times = times  # type: ignore[attr-defined]
        return run


def _captured(function: Callable[..., Any], arrays: tuple[Any, ...]) -> Callable[..., Any]:
    """`function` of these arrays as a CUDA graph."""
    import torch

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # compiles and allocates what is made once, which no capture may
        for _ in range(3):
            function(*arrays)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function(*arrays)

    def replay(*_: Any, captured: Callable[..., Any] = function) -> Any:
        graph.replay()  # which reads what `captured` holds
        return out

    return replay
