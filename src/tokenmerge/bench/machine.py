"""The machine: what it is, and what it can do at best."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenmerge.bench.subject import Subject
from tokenmerge.bench.timing import best

MALLOC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
PACKAGES = ("tokenmerge", "numpy", "torch", "triton", "jax", "vit-pytorch", "tomesd")
COPIED = 2**26  # bytes, more than caches hold
WIDTHS = (256, 2048)  # of the matrices that are multiplied; the large one where that takes no seconds


class Limits(NamedTuple):
    """What a device does at best: bytes moved and multiply-adds per second."""

    bandwidth: float
    rate: float


def limits(subject: Subject) -> Limits:
    """Measured with the backend's own copy (bytes read and bytes written count) and its own product of matrices.

    On the CPU a copy into memory that is there already counts, if it is faster.
    """
    items = COPIED // subject.itemsize
    copied = subject.array((items,))
    seconds = best(subject.call(lambda x: -x, copied))
    if subject.where == "cpu":
        source, target = np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)
        seconds = min(seconds, best(lambda: np.copyto(target, source)))
    return Limits(2 * COPIED / seconds, _rate(subject))


def _rate(subject: Subject) -> float:
    small, large = WIDTHS
    width = small
    taken = best(subject.call(lambda x: x @ x, subject.array((small, small))))
    if taken * (large / small) ** 3 < 1:  # a CPU multiplies float16 number by number
        width, taken = large, best(subject.call(lambda x: x @ x, subject.array((large, large))))
    return width**3 / taken


def facts(subjects: Sequence[Subject] = ()) -> dict[str, Any]:
    """What a reader must know to repeat the numbers."""
    return {
        "processor": _processor(),
        "gpu": _gpu(subjects),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "malloc": {name: os.environ[name] for name in MALLOC if name in os.environ},
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def sentences(known: dict[str, Any]) -> list[str]:
    """The facts in words."""
    malloc = " ".join(f"{name}={value}" for name, value in known["malloc"].items())
    threads = known["threads"] or "as many as cores (OMP_NUM_THREADS is not set)"
    return [
        ", ".join(filter(None, (known["gpu"], known["processor"], f"{known['cores']} cores", known["system"]))),
        f"Python {known['python']}, " + ", ".join(f"{name} {found}" for name, found in known["versions"].items()),
        f"threads: {threads}; malloc: {malloc or 'as the system has it (big results are mapped afresh on every call)'}",
    ]


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu(subjects: Sequence[Subject]) -> str | None:
    """The GPU that is measured."""
    if any(each.name == "torch" and each.where.startswith("cuda") for each in subjects):
        import torch

        return str(torch.cuda.get_device_name())
    if any(each.name == "jax" and each.where in ("gpu", "cuda") for each in subjects):
        import jax

        return str(jax.devices()[0].device_kind)
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
