"""Bytes that a call holds at its highest point, beyond its inputs. Every framework counts for itself."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tokenmerge.bench.subject import Subject


def peak(subject: Subject, function: Callable[..., Any], *arrays: Any) -> int | None:
    """Results included.

    NumPy: its allocations, as `tracemalloc` sees them. PyTorch: allocations and releases in the profiler on the CPU,
    the caching allocator's own account on CUDA. JAX: what the compiler says of temporaries and results.
    """
    if subject.name == "jax":
        return _jax(function, arrays)
    call = replace(subject, graph=False).call(function, *arrays)  # a graph has its memory from the beginning
    call()  # what is made once is not this call's
    if subject.name == "numpy":
        return _traced(call)
    return _cuda(call) if subject.where.startswith("cuda") else _profiled(call)


def _traced(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        kept = call()
        highest = tracemalloc.get_traced_memory()[1]
        del kept
    finally:
        tracemalloc.stop()
    return highest - before


def _profiled(call: Callable[[], Any]) -> int:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = call()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    del kept
    held = highest = 0
    for _, change in changes:
        held += change
        highest = max(highest, held)
    return highest


def _cuda(call: Callable[[], Any]) -> int:
    import torch

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = call()
    highest = torch.cuda.max_memory_allocated()
    del kept
    return highest - before


def _jax(function: Callable[..., Any], arrays: tuple[Any, ...]) -> int | None:
    import jax

    analysis = jax.jit(function).lower(*arrays).compile().memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)
