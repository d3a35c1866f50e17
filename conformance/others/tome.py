"""Any module with the functions of ToMe, such as the original's `tome.merge`, from a path that the user gives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tokenmerge.conformance.others.adapter import Adapter, Array, Entry, MissingError


def groups(name: str, array: Array) -> Array:
    """An assignment with its slots numbered as they first occur, for those who order them in another way.

    >>> groups("assignment", np.array([[2, 0, 2, 1]])).tolist()
    [[0, 1, 0, 2]]
    """
    if name != "assignment":
        return array
    return np.array([[list(dict.fromkeys(row)).index(slot) for slot in row] for row in array.tolist()], int).reshape(
        array.shape
    )


def adapters(folder: Path, module: str) -> Iterator[Adapter]:
    """`bipartite_soft_matching(metric, r, class_token, distill_token)` of a module in a folder.

    Raises:
        ImportError: there is no such module, or it has no such function.
    """
    sys.path.insert(0, str(folder))
    try:
        found = import_module(module)
    finally:
        sys.path.remove(str(folder))
    if not hasattr(found, "bipartite_soft_matching"):
        raise ImportError(f"others: `module` must have bipartite_soft_matching, got {module!r} in {str(folder)!r}")
    yield Adapter(
        f"{module}: bipartite_soft_matching",
        module,
        "tome",
        lambda case, inputs, params: _run(found, case, inputs),
        same=groups,
        without={
            "TOME-7": "the order of its slots is its own without a class token",
            "TOME-12": "it takes no mask",
            "PLAN-8": "it works in the dtype of the model",
        },
    )


def _run(module: Any, case: Entry, inputs: dict[str, Array]) -> dict[str, Array]:
    import torch

    config = case["config"]
    if config["matching"] != "bipartite" or config["order"] == "positional":
        raise MissingError("only bipartite matching in its own order was asked for")
    if config["protected"] > 2:
        raise MissingError("it protects a class and a distillation token")
    if "mask" in inputs:
        raise MissingError("it takes no mask")
    if config["r"] == 0:
        raise MissingError("with r = 0 it does nothing, in its own way")
    metric = torch.from_numpy(inputs.get("metric", inputs["x"]))
    b, n = metric.shape[:2]
    merge, _ = module.bipartite_soft_matching(
        metric, config["r"], class_token=config["protected"] > 0, distill_token=config["protected"] > 1
    )
    weights = np.asarray(merge(torch.eye(n).expand(b, n, n).clone(), mode="sum"))
    return {"assignment": weights.argmax(axis=1)}
