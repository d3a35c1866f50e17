"""dbolya/tomesd: bipartite matching for pictures, on a grid of one row.

The first token of every region of two receives, where ToMe's receivers are the second ones: the sequence goes in
backwards, which exchanges the two. Which token is in which group is compared; ties and the order of slots, which would
be the other way round, are looked at apart, in its own direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from tokenmerge.conformance.others.adapter import Adapter, Array, DiffersError, Entry, MissingError
from tokenmerge.conformance.others.tome import groups
from tokenmerge.conformance.vectors.vector import floats

FIXED = "one matching, one order, no protected tokens"


def adapters() -> Iterator[Adapter]:
    """The matching without randomness.

    Raises:
        ImportError: the package is not installed.
    """
    module = import_module("tomesd.merge")
    yield Adapter(
        "tomesd: bipartite_soft_matching_random2d",
        "tomesd",
        "tome",
        lambda case, inputs, params: _run(module, case, inputs),
        same=groups,
        without={
            "TOME-4": FIXED,
            "TOME-8": FIXED,
            "TOME-9": FIXED,
            "TOME-10": FIXED,
            "TOME-11": "its randomness is in who receives",
            "TOME-12": "it takes no mask",
            "CALL-5": "it is for pictures, which have tokens",
            "PLAN-3": "it has no sizes",
            "PLAN-6": "it has no sizes",
            "PLAN-8": "it works in the dtype of the model",
        },
        probes={
            "TOME-2": lambda: _zero_vector(module),
            "TOME-3": lambda: _receivers(module),
            "TOME-5": lambda: _tied_receivers(module),
            "TOME-6": lambda: _tied_sources(module),
            "TOME-7": lambda: _order(module),
            "PLAN-1": lambda: _mean(module),
            "PLAN-4": lambda: _unmerged(module),
        },
    )


def _matched(module: Any, metric: Array, r: int) -> Any:
    """Its two functions, for `metric (B,N,D)`."""
    import torch

    n = metric.shape[1]
    if n % 2:
        raise MissingError("the stride must divide the width of the picture")
    return module.bipartite_soft_matching_random2d(torch.from_numpy(metric), n, 1, 2, 1, r, no_rand=True)


def _weights(merge: Any, b: int, n: int) -> Array:
    """The matrix of what it does, from what it makes of the unit vectors."""
    import torch

    return np.asarray(merge(torch.eye(n).expand(b, n, n).clone(), mode="mean"))


def _run(module: Any, case: Entry, inputs: dict[str, Array]) -> dict[str, Array]:
    config = case["config"]
    if config["matching"] != "bipartite" or config["order"] != "grouped" or config["protected"]:
        raise MissingError(FIXED)
    for name, why in (("mask", "it takes no mask"), ("size", "it has no sizes")):
        if name in inputs:
            raise MissingError(why)
    if any(each["margin"] == 0 for each in case["margins"].values()):
        raise MissingError("ties are looked at apart")
    metric = np.ascontiguousarray(inputs.get("metric", inputs["x"])[:, ::-1])
    b, n = metric.shape[:2]
    merge, _ = _matched(module, metric, config["r"])
    return {"assignment": _weights(merge, b, n)[:, :, ::-1].argmax(axis=1) if n else np.zeros((b, 0), int)}


EXAMPLE = floats([[[1, 0], [0, 1], [1, 0.125], [0, -1], [-1, 0], [-1, -1]]])


def _zero_vector(module: Any) -> None:
    metric = EXAMPLE.copy()
    metric[0, 1] = 0
    weights = _weights(_matched(module, metric, 1)[0], 1, 6)[0]
    pair = next(np.flatnonzero(row).tolist() for row in weights if (row > 0).sum() > 1)
    if pair != [4, 5]:
        raise DiffersError(
            f"a vector of zeros has no similarity 0 but comes first: of {metric[0].tolist()} tokens {pair} merge,"
            " and not [4, 5]"
        )


def _receivers(module: Any) -> None:
    weights = _weights(_matched(module, EXAMPLE, 1)[0], 1, 6)[0]
    alone = sorted(int(token) for row in weights for token in np.flatnonzero(row) if (row > 0).sum() == 1)
    merged = sorted(set(range(6)) - set(alone))
    raise DiffersError(
        f"the first token of every region receives, at even positions: tokens {merged} of {EXAMPLE[0].tolist()} merge"
    )


def _order(module: Any) -> None:
    weights = _weights(_matched(module, EXAMPLE, 1)[0], 1, 6)[0]
    order = [int(np.flatnonzero(row)[0]) for row in weights if (row > 0).sum() == 1 and np.flatnonzero(row)[0] % 2]
    if order != sorted(order):
        raise DiffersError(f"the unmerged tokens come out by similarity: {order}")


def _tied_receivers(module: Any) -> None:
    weights = _weights(_matched(module, np.ones((1, 8, 2), np.float32), 4)[0], 1, 8)[0]
    into = [int(np.flatnonzero(row)[0]) for row in weights if (row > 0).sum() > 1]
    if into != [0]:
        raise DiffersError(f"of 8 equal tokens the sources go into {into}, and not all into the first receiver")


def _tied_sources(module: Any) -> None:
    for n in (8, 32, 34):
        weights = _weights(_matched(module, np.ones((1, n, 2), np.float32), 4)[0], 1, n)[0]
        merged = sorted(int(t) for row in weights if (row > 0).sum() > 1 for t in np.flatnonzero(row) if t % 2)
        if merged != [1, 3, 5, 7]:
            raise DiffersError(f"of {n} equal tokens the sources {merged} merge, and not the first four")


def _mean(module: Any) -> None:
    weights = _weights(_matched(module, EXAMPLE, 1)[0], 1, 6)[0]
    if sorted(weights[weights > 0].tolist()) != [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]:
        raise DiffersError(f"the weights of one merged pair and four others are {weights[weights > 0].tolist()}")


def _unmerged(module: Any) -> None:
    import torch

    merge, unmerge = _matched(module, EXAMPLE, 1)
    merged = merge(torch.eye(6)[None], mode="mean")
    back = np.asarray(unmerge(merged))[0]
    if any(not any((row == each).all() for each in np.asarray(merged)[0]) or row[i] == 0 for i, row in enumerate(back)):
        raise DiffersError(f"unmerging {np.asarray(merged)[0].tolist()} gives {back.tolist()}")
