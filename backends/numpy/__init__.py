"""The NumPy backend: the semantics of `tokenmerge.spec`, vectorized over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.backends.numpy import (
    ats,
    attention,
    information_bottleneck,
    ltm,
    patch_merger,
    plan,
    pooling,
    tome,
    vit,
)
from tokenmerge.backends.numpy.ats import ATS
from tokenmerge.backends.numpy.check import check
from tokenmerge.backends.numpy.ltm import LTM
from tokenmerge.backends.numpy.mergers import MERGERS
from tokenmerge.backends.numpy.patch_merger import PatchMerger
from tokenmerge.backends.numpy.plan import DensePlan, PartitionPlan, SelectionPlan, compose
from tokenmerge.backends.numpy.tome import ToMe
from tokenmerge.backends.numpy.vit import ViT
from tokenmerge.spec.shared.arguments import check_source_array

NAME = "numpy"
VERSION = np.__version__
DTYPES = ("float16", "float32", "float64")


def devices() -> tuple[str, ...]:
    """Where arrays of this backend can live."""
    return ("cpu",)


def from_numpy(
    array: np.ndarray[Any, Any], dtype: str | None = None, device: str | None = None
) -> np.ndarray[Any, Any]:
    """An array of this backend, in its dtype or in one of `DTYPES`."""
    check_source_array(array, dtype, device, DTYPES, devices)
    return array.astype(array.dtype.newbyteorder("=") if dtype is None else dtype, copy=dtype is not None)


def to_numpy(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A NumPy array of the same values."""
    check.to_numpy(array)
    return array


__all__ = [
    "ATS",
    "DTYPES",
    "LTM",
    "MERGERS",
    "NAME",
    "VERSION",
    "DensePlan",
    "PartitionPlan",
    "PatchMerger",
    "SelectionPlan",
    "ToMe",
    "ViT",
    "ats",
    "attention",
    "compose",
    "devices",
    "from_numpy",
    "information_bottleneck",
    "ltm",
    "patch_merger",
    "plan",
    "pooling",
    "to_numpy",
    "tome",
    "vit",
]
